#!/usr/bin/env bash
# Prints the version of what is built: CETRUS_VERSION, else the tag vX.Y.Z of this commit, else
# 0.0.0+<commit>; where files were changed since, that is said.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${CETRUS_VERSION:-}
if [ -z "$version" ]; then
	if tag=$(git describe --tags --exact-match --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null); then
		version=${tag#v}
	else
		version=0.0.0+$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
	fi
	if [ -n "$(git status --porcelain --untracked-files=no 2>/dev/null)" ]; then
		[[ $version == *+* ]] && version=$version.changed || version=$version+changed
	fi
fi
printf '%s\n' "$version"
