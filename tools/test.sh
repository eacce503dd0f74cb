#!/usr/bin/env bash
# Tests every module and says at the end how it went. Arguments go to `go test`:
#   tools/test.sh -run TestEventLog -count=1
# MODULES narrows it:  MODULES="agent manager" tools/test.sh
set -uo pipefail
cd "$(dirname "$0")/.."

cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
parallel=$((cores < 4 ? cores : 4)) # packages at once: many of them start servers
log=out/test.log
mkdir -p out
: >"$log"
started=$SECONDS
# Go knows nothing of programs that a test builds and runs, and would take its last result
# for good; tests that do so ask for this.
CETRUS_SOURCES=$({ git rev-parse HEAD; git diff HEAD; } 2>/dev/null | sha256sum)
export CETRUS_SOURCES
failed=()

for module in ${MODULES:-proto agent manager services tools}; do
	printf '\n==> %s\n' "$module"
	begun=$SECONDS
	# Alone first: with `replace` to its siblings, a module must build without go.work.
	if ! (cd "$module" && GOWORK=off go build ./...); then
		failed+=("$module (does not build alone)")
		continue
	fi
	(cd "$module" && GOWORK=off go test -p "$parallel" -timeout 12m "$@" ./... 2>&1) |
		tee -a "$log" | grep -v -E 'no test files'
	[ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$module")
	printf '    %s: %s s\n' "$module" "$((SECONDS - begun))"
done

printf '\n==> packages with tests, in %s s\n%s passed, %s failed\n' "$((SECONDS - started))" \
	"$(grep -c '^ok ' "$log")" "$(grep -c -E '^FAIL[[:space:]]+[^[:space:]]' "$log")"
if [ "${#failed[@]}" -gt 0 ]; then
	grep -E '^(FAIL|panic:|[[:space:]]*--- FAIL)' "$log" | sort -u | head -n 40
	printf 'FAILED: %s (whole output: %s)\n' "$(IFS=,; echo "${failed[*]}")" "$log"
	exit 1
fi
printf '\nPASSED\n'
