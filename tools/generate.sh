#!/usr/bin/env bash
# Generates code from the contract. With --check it changes
# nothing that it keeps: it fails where the committed code is stale, where a
# .proto file is not formatted or lints, and where the contract breaks.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { printf 'cetrus: %s\n' "$*" >&2; exit 1; }

if [ "${1:-}" != --check ]; then
	bin/buf format -w proto
	exec bin/buf generate
fi

bin/buf lint
bin/buf format --diff --exit-code proto >/dev/null || fail "run 'make fmt': a .proto file is not formatted"

# Compare with what is in the tree now, so that it works before a commit as well.
generated() { find proto -name '*.pb.go' -o -name '*.pb.gw.go' -o -path '*/openapi/openapi.yaml'; }
sums() { generated | LC_ALL=C sort | xargs sha256sum; }
before=$(sums)
bin/buf generate
after=$(sums)
[ "$before" = "$after" ] || {
	diff <(printf '%s\n' "$before") <(printf '%s\n' "$after") >&2 || true
	fail "generated code was stale; it is fresh now: commit it"
}

# The contract must not break against what landed before this change: the main
# branch, or, on it, the commit before.
base=${CETRUS_BASE:-}
if [ -z "$base" ]; then
	for branch in origin/main main; do
		git rev-parse -q --verify "$branch^{commit}" >/dev/null 2>&1 || continue
		base=$(git merge-base HEAD "$branch" 2>/dev/null || true)
		break
	done
	[ "$base" != "$(git rev-parse HEAD)" ] || base=$(git rev-parse -q --verify 'HEAD^' || true)
fi
if [ -n "$base" ] && git cat-file -e "$base:buf.yaml" 2>/dev/null; then
	old=.cache/landed
	rm -rf "$old" && mkdir -p "$old/.cache"
	git archive "$base" buf.yaml proto | tar -x -C "$old"
	cp -r .cache/proto "$old/.cache/proto"
	bin/buf breaking --against "$old" || fail "the contract breaks against ${base:0:12}: add, never change or remove"
	rm -rf "$old"
else
	echo "no earlier landing to compare the contract with"
fi
echo "generated code is fresh, the contract holds"
