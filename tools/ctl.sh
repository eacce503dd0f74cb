#!/usr/bin/env bash
# Builds cetrusctl for each system that it is for: out/cetrusctl-SYSTEM-MACHINE. With --check it only
# compiles what no test has compiled: the other systems, each for one machine.
set -euo pipefail
cd "$(dirname "$0")/../ctl"
export GOWORK=off CGO_ENABLED=0
if [ "${1:-}" = --check ]; then
	for target in windows/amd64 darwin/arm64; do
		GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath ./...
		echo "cetrusctl compiles for ${target%/*}"
	done
	exit
fi
mkdir -p ../out
for target in linux/amd64 linux/arm64 windows/amd64 darwin/amd64 darwin/arm64; do
	file=../out/cetrusctl-${target/\//-}
	[ "${target%/*}" != windows ] || file+=.exe
	GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -ldflags "-s -w" -o "$file" ./cmd/cetrusctl
	echo "${file#../}"
done
