#!/usr/bin/env bash
# Lints every module, the agent for Windows too. MODULES narrows it; arguments go to
# golangci-lint.
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
lint() { # module, system it is built for, arguments
	local module=$1 system=$2
	shift 2
	# What Helm needs is kept out of the workspace, as it is out of all other modules.
	(cd "$module" && { [ "$module" != charts ] || export GOWORK=off; } && GOOS=$system ../bin/golangci-lint run --allow-serial-runners --config ../.golangci.yml "$@" ./...) || status=1
}

for module in ${MODULES:-proto agent manager ctl services tools charts}; do
	[ -n "$(find "$module" -name '*.go' -print -quit)" ] || continue
	lint "$module" "$(go env GOOS)" "$@"
	[ "$module" != agent ] || lint "$module" windows "$@"
done
[ "$status" -eq 0 ] && echo "lint: nothing found"
exit "$status"
