#!/usr/bin/env bash
# Brings in what the project needs and a machine lacks. Safe to repeat: what is
# there already costs a few milliseconds.
#
#   tools/bootstrap.sh run        what `make run` needs
#   tools/bootstrap.sh test       what `make test` needs
#   tools/bootstrap.sh lint       the linter and the formatter, built into bin/
#   tools/bootstrap.sh packages   what `make packages` needs
#   tools/bootstrap.sh images     what `make images` needs
#   tools/bootstrap.sh generate   the generators, and other projects' .proto files
#   tools/bootstrap.sh cluster    what `make cluster` needs; not part of all
#   tools/bootstrap.sh all        all of it
#
#   tools/bootstrap.sh has cluster   brings in nothing; fails unless `make cluster` could begin at once
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[2m==>\033[0m %s\n' "$*"; }
fail() { printf 'cetrus: %s\n' "$*" >&2; exit 1; }

# need_go checks the one thing that is never installed for you.
need_go() {
	command -v go >/dev/null || fail "Go is missing. Install Go $(sed -n 's/^go //p' go.work) or later (https://go.dev/doc/install), then repeat."
}

# missing prints the Debian package of each command that is not there.
# PostgreSQL's server binaries are not on the PATH where Debian packs them.
missing() {
	local entry command package
	for entry in "$@"; do
		command=${entry%%:*} package=${entry##*:}
		if [ "$command" = postgres ]; then
			compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null && continue
		fi
		command -v "$command" >/dev/null || printf '%s\n' "$package"
	done
}

# system installs Debian packages where it may, and says which where it may not.
system() {
	local packages as_root=()
	mapfile -t packages < <(missing "$@" | sort -u)
	[ "${#packages[@]}" -eq 0 ] && return 0
	[ "$only_ask" -eq 0 ] || return 1
	command -v apt-get >/dev/null ||
		fail "these Debian packages, or what your system calls them, are missing: ${packages[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		sudo -n true 2>/dev/null ||
			fail "please install what is missing, then repeat:  sudo apt-get install -y ${packages[*]}"
		as_root=(sudo -n)
	fi
	say "installing ${packages[*]}"
	local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q
		-o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends install "${packages[@]}")
	mkdir -p out
	if ! "${apt[@]}" >out/apt.log 2>&1 </dev/null; then
		say "refreshing the package lists"
		"${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update >>out/apt.log 2>&1 </dev/null || true
		"${apt[@]}" >>out/apt.log 2>&1 </dev/null || {
			tail -n 20 out/apt.log >&2
			fail "apt-get could not install ${packages[*]}"
		}
	fi
	mapfile -t packages < <(missing "$@" | sort -u)
	[ "${#packages[@]}" -eq 0 ] || fail "still missing after the installation: ${packages[*]}"
}

run_packages=(postgres:postgresql)
cluster_packages=("${run_packages[@]}" etcd:etcd-server containerd:containerd runc:runc /usr/lib/cni/ptp:containernetworking-plugins
	iptables:iptables ipset:ipset nft:nftables conntrack:conntrack ip:iproute2 nsenter:util-linux mkfs.ext4:e2fsprogs)
package_packages=(wixl:wixl msibuild:msitools osslsigncode:osslsigncode)
test_packages=("${run_packages[@]}" "${package_packages[@]}" rpm:rpm
	Xvfb:xvfb xauth:xauth xdotool:xdotool openbox:openbox xprop:x11-utils
	xterm:xterm xclock:x11-apps mousepad:mousepad ip:iproute2 dbus-daemon:dbus-daemon strace:strace
	sway:sway swaylock:swaylock foot:foot wtype:wtype Xwayland:xwayland bwrap:bubblewrap
	chromium:chromium soffice:libreoffice-calc-nogui wine:wine x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64)

# stamp tells the version of the tools of tools/pin/$1, built with the flags that follow.
stamp() {
	local name=$1
	shift
	{ go env GOVERSION; cat "tools/pin/$name"/*.go "tools/pin/$name/go.mod" "tools/pin/$name/go.sum" 2>/dev/null; printf '%s' "$*"; } |
		sha256sum | cut -d' ' -f1
}

# pin builds the tools of tools/pin/$1 into bin/, once for each version of them. What follows are
# flags for the Go command.
pin() {
	local name=$1 want
	want=$(stamp "$@")
	[ "$(cat "bin/.$name.pin" 2>/dev/null)" = "$want" ] && return 0
	[ "$only_ask" -eq 0 ] || return 1
	shift
	say "building the pinned tools of tools/pin/$name (a few minutes the first time)"
	mkdir -p bin
	(cd "tools/pin/$name" && GOWORK=off go build -buildvcs=false -trimpath "$@" -o ../../../bin/ tool) || return 1
	printf '%s' "$want" >"bin/.$name.pin"
}

# cluster builds Kubernetes and what goes with it. Without a version it would tell clients that it has
# none, and charts that ask for one would not install. Two packages at once leave a small machine
# memory for other work.
cluster() {
	local flags="-s -w" version package
	version=$(sed -n 's/^.*k8s.io\/kubernetes \(v[0-9.]*\).*$/\1/p' tools/pin/cluster/go.mod)
	[ -n "$version" ] || fail "tools/pin/cluster/go.mod says no version of Kubernetes"
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version")"
	done
	system "${cluster_packages[@]}" && pin s3 || return 1
	crds || return 1
	export CGO_ENABLED=0
	pin coredns -p 2 -ldflags "-s -w" && pin network-policies -p 2 -ldflags "-s -w" &&
		pin helm -p 2 -ldflags "-s -w" && pin cluster -p 2 -ldflags "$flags"
}

# crds copies the CustomResourceDefinitions of tools/pin/crds/files.txt out of the module cache: of the kinds of
# operators that the charts use where a cluster has them.
crds() {
	local want module file
	want=$(cat tools/pin/crds/go.sum tools/pin/crds/files.txt | sha256sum | cut -d' ' -f1)
	[ "$(cat .cache/crds.pin 2>/dev/null)" = "$want" ] && return 0
	[ "$only_ask" -eq 0 ] || return 1
	say "copying the kinds of operators"
	rm -rf .cache/crds
	while read -r module file; do
		(cd tools/pin/crds && GOWORK=off go mod download "$module") || return 1
		install -D -m 644 "$(cd tools/pin/crds && GOWORK=off go list -m -f '{{.Dir}}' "$module")/$file" ".cache/crds/$(basename "$file")" || return 1
	done <tools/pin/crds/files.txt
	printf '%s' "$want" >.cache/crds.pin
}

# protos copies the .proto files that ours import out of the module cache.
protos() {
	local want googleapis validate
	want=$(sha256sum tools/pin/protos/go.sum | cut -d' ' -f1)
	[ "$(cat .cache/proto.pin 2>/dev/null)" = "$want" ] && return 0
	say "copying the imported .proto files"
	(cd tools/pin/protos && GOWORK=off go mod download)
	googleapis=$(cd tools/pin/protos && GOWORK=off go list -m -f '{{.Dir}}' github.com/google/gnostic)/cmd/protoc-gen-openapi/examples
	validate=$(cd tools/pin/protos && GOWORK=off go list -m -f '{{.Dir}}' github.com/bufbuild/protovalidate)/proto/protovalidate
	rm -rf .cache/proto
	local file
	for file in google/api/annotations.proto google/api/http.proto google/api/field_behavior.proto google/rpc/status.proto; do
		install -D -m 644 "$googleapis/$file" ".cache/proto/$file"
	done
	install -D -m 644 "$validate/buf/validate/validate.proto" .cache/proto/buf/validate/validate.proto
	printf '%s' "$want" >.cache/proto.pin
}

# npm_pin installs the npm packages of tools/pin/$1, once for each version of them. Only tests
# use them, and say that they did not where there is no npm: it is not asked for. Nor is a
# network: npm by itself would wait minutes for one, and leaves half of a package that a test
# would take for one.
npm_pin() {
	local name=$1 want
	command -v npm >/dev/null || { say "no npm here: the tests that need tools/pin/$name will say so"; return 0; }
	want=$(sha256sum "tools/pin/$name/package-lock.json" | cut -d' ' -f1)
	[ "$(cat ".cache/npm/$name/.pin" 2>/dev/null)" = "$want" ] && return 0
	say "installing the pinned npm packages of tools/pin/$name"
	mkdir -p ".cache/npm/$name"
	cp "tools/pin/$name/package.json" "tools/pin/$name/package-lock.json" ".cache/npm/$name/"
	(cd ".cache/npm/$name" && timeout --foreground 60 npm ci --ignore-scripts --engine-strict --prefer-offline --no-audit --no-fund --no-update-notifier \
		--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-timeout=15000 --loglevel=error >/dev/null </dev/null) ||
		{ rm -rf ".cache/npm/$name"; say "npm could not install tools/pin/$name: its tests will say so"; return 0; }
	printf '%s' "$want" >".cache/npm/$name/.pin"
}

need_go
only_ask=0
if [ "${1:-}" = has ]; then
	only_ask=1
	shift
fi
for part in "${@:-all}"; do
	case $part in
	run) system "${run_packages[@]}" ;;
	test) system "${test_packages[@]}" && pin packages && pin images && pin tests && pin s3 && npm_pin oidc-provider && npm_pin scim && npm_pin axe-core && npm_pin postgresql ;;
	packages) system "${package_packages[@]}" && pin packages ;;
	images) pin images ;;
	lint) pin lint ;;
	generate) protos && pin buf && pin generators ;;
	cluster) cluster ;;
	all) system "${test_packages[@]}" && protos && pin buf && pin generators && pin lint && pin packages && pin images && pin tests && pin s3 && npm_pin oidc-provider && npm_pin scim && npm_pin axe-core && npm_pin postgresql ;;
	*) fail "tools/bootstrap.sh knows run, test, lint, packages, images, generate, cluster and all, not \"$part\"" ;;
	esac
done
