#!/usr/bin/env bash
# Lints every module. MODULES narrows it; arguments go to golangci-lint.
set -uo pipefail
cd "$(dirname "$0")/.."

status=0
for module in ${MODULES:-proto agent manager services tools}; do
	[ -n "$(find "$module" -name '*.go' -print -quit)" ] || continue
	(cd "$module" && ../bin/golangci-lint run --allow-serial-runners --config ../.golangci.yml "$@" ./...) || status=1
done
[ "$status" -eq 0 ] && echo "lint: nothing found"
exit "$status"
