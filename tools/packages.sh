#!/usr/bin/env bash
# Builds the packages that are rolled out, into out/: agent and Manager as deb and rpm,
# the agent as MSI.
#
#   tools/packages.sh [deb|rpm|msi ...]      all three without arguments
#
# The packages' files are told on standard output, one a line.
#
# CETRUS_VERSION   the version; default as tools/version.sh says
# CETRUS_SIGN_CERT, CETRUS_SIGN_KEY
#                  PEM files: certificate chain and private key; they sign the MSI and the
#                  program in it. Without them the MSI is not signed, which is said.
# CETRUS_SIGN_TIMESTAMP
#                  URL of a time stamping authority (RFC 3161); without it signatures end
#                  with the certificate
# CETRUS_OUT       the folder; default: out
#
# deb and rpm come out the same, byte for byte, from the same commit and Go version.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
export GOWORK=off CGO_ENABLED=0 GOARCH=amd64 LC_ALL=C TZ=UTC

out=${CETRUS_OUT:-out}
mkdir -p "$out"
out=$(cd "$out" && pwd)
fail() { printf 'cetrus: %s\n' "$*" >&2; exit 1; }

version=$(tools/version.sh)
[[ $version =~ ^([0-9]+)\.([0-9]+)\.([0-9]+)(\+[0-9A-Za-z.]+)?$ ]] ||
	fail "the version \"$version\" is not X.Y.Z or X.Y.Z+word; say CETRUS_VERSION"
numbers=${version%%+*}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# build builds a program of a module for a system into the stage.
build() {
	local system=$1 module=$2 program=$3 file=$4
	(cd "$module" && GOOS=$system go build -buildvcs=false -trimpath -tags grpcnotrace \
		-ldflags "-s -w -X main.version=$version" -o "$stage/$file" "./cmd/$program")
}

# gnome puts the extension for GNOME Shell together: one body under two heads, since
# GNOME Shell loads extensions in another way from 45 on.
gnome() {
	local kind=$1 from=agent/desktop/shells/gnome to=$2/gnome$1
	mkdir "$to"
	cat "$from/extension-head$kind.js" "$from/eyes.js" >"$to/extension.js"
	cp "$from/metadata$kind.json" "$to/metadata.json"
}

# linux packs agent and Manager with nfpm.
linux() {
	local format=$1 name arch=x86_64 dir=$stage/linux
	[ "$format" = deb ] && arch=amd64
	if [ ! -d "$dir" ]; then
		mkdir "$dir"
		cp -R tools/packages/{agent,manager,*.yaml} LICENSE "$dir/"
		gnome '' "$dir"
		gnome -44 "$dir"
	fi
	for name in agent manager; do
		[ -e "$dir/cetrus-$name" ] || build linux "$name" "cetrus-$name" "linux/cetrus-$name"
		find "$dir" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
		(cd "$dir" && CETRUS_VERSION=$version "$root/bin/nfpm" package --config "$name.nfpm.yaml" \
			--packager "$format" --target "$out/cetrus-${name}_${version}_$arch.$format" >/dev/null)
		echo "$out/cetrus-${name}_${version}_$arch.$format"
	done
}

# sign signs a program or package for Windows in place, where a certificate is given.
sign() {
	[ -n "${CETRUS_SIGN_CERT:-}" ] || return 0
	local stamp=()
	[ -z "${CETRUS_SIGN_TIMESTAMP:-}" ] || stamp=(-ts "$CETRUS_SIGN_TIMESTAMP")
	osslsigncode sign -certs "$CETRUS_SIGN_CERT" -key "${CETRUS_SIGN_KEY:?the key of CETRUS_SIGN_CERT}" \
		-h sha256 -n "Cetrus agent" "${stamp[@]}" -in "$1" -out "$1.signed" >/dev/null
	mv "$1.signed" "$1"
}

# name_uuid is a UUID (version 5 in form) of a text.
name_uuid() {
	local h
	h=$(printf '%s' "$1" | sha1sum)
	h=${h^^}
	printf '{%s-%s-5%s-A%s-%s}' "${h:0:8}" "${h:8:4}" "${h:13:3}" "${h:17:3}" "${h:20:12}"
}

msi() {
	local dir=$stage/msi package=$out/cetrus-agent_${version}_x64.msi query
	mkdir -p "$dir"
	build windows agent cetrus-agent msi/cetrus-agent.exe
	sign "$dir/cetrus-agent.exe"
	sed 's/$/\r/' tools/packages/agent.yaml >"$dir/agent.yaml"
	touch -d "@$SOURCE_DATE_EPOCH" "$dir"/*
	# wixl knows only sources below its own folder.
	cp tools/packages/agent.wxs "$dir/"
	rm -f "$package"
	(cd "$dir" && wixl -a x64 -D ProductCode="$(name_uuid "cetrus-agent $version")" -D Version="$numbers" \
		-D FullVersion="$version" -o agent.msi agent.wxs)
	while IFS= read -r query; do
		msibuild "$dir/agent.msi" -q "$query" || fail "agent.msi takes no: $query"
	done < <(sed "s/@VERSION@/$numbers/" tools/packages/msi.sql)
	sign "$dir/agent.msi"
	mv "$dir/agent.msi" "$package"
	echo "$package"
	[ -n "${CETRUS_SIGN_CERT:-}" ] || echo "cetrus: the MSI is not signed: CETRUS_SIGN_CERT is not set" >&2
}

[ "$#" -gt 0 ] || set -- deb rpm msi
for kind in "$@"; do
	case $kind in
	deb | rpm) linux "$kind" ;;
	msi) msi ;;
	*) fail "tools/packages.sh knows deb, rpm and msi, not \"$kind\"" ;;
	esac
done
