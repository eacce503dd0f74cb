#!/usr/bin/env bash
# Builds cetrusctl for each system that it is for: out/cetrusctl-SYSTEM-MACHINE.
set -euo pipefail
cd "$(dirname "$0")/../ctl"
mkdir -p ../out
export GOWORK=off CGO_ENABLED=0
for target in linux/amd64 linux/arm64 windows/amd64 darwin/amd64 darwin/arm64; do
	file=../out/cetrusctl-${target/\//-}
	[ "${target%/*}" != windows ] || file+=.exe
	GOOS=${target%/*} GOARCH=${target#*/} go build -trimpath -ldflags "-s -w" -o "$file" ./cmd/cetrusctl
	echo "${file#../}"
done
