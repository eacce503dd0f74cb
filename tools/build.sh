#!/usr/bin/env bash
# Builds programs, and says that it does only when it takes long: with Go's cache filled
# it takes a second.
#
#   tools/build.sh                       what `make run` starts, into bin/
#   tools/build.sh FOLDER PROGRAM ...    into FOLDER, each named by its folder here, as
#                                        services/cmd/cetrus
set -euo pipefail
folder=${1:-$(dirname "$0")/../bin}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "$0")/.."
if [ $# -eq 0 ]; then
	set -- bin services/cmd/cetrus agent/cmd/cetrus-agent manager/cmd/cetrus-manager ctl/cmd/cetrusctl tools/cmd/cetrus-dev
fi
shift
export GOWORK=off

(sleep 3 >/dev/null 2>&1; echo "==> building (a few minutes the first time)") &
patience=$!
trap 'kill "$patience" 2>/dev/null || true' EXIT

for program; do
	module=${program%%/*} flags=()
	case $module in
	agent) flags=(-trimpath -tags grpcnotrace -ldflags "-s -w") cgo=0 ;;
	ctl) flags=(-trimpath -ldflags "-s -w") cgo=0 ;; # one static file
	tools) cgo=0 ;; # what runs beside an agent is compared with it
	*) cgo=${CGO_ENABLED:-} ;;
	esac
	(cd "$module" && CGO_ENABLED=$cgo go build ${flags[@]+"${flags[@]}"} -o "$folder/" "./${program#*/}")
done
