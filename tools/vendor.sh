#!/usr/bin/env bash
# Copies what the web console shows itself with (styles, scripts, icons) from the npm packages
# pinned in tools/pin/console into services/console/assets/vendor, which is committed: nobody
# needs npm to build or to run the console. Icons are those that icons.txt there names.
set -euo pipefail
cd "$(dirname "$0")/.."

from=.cache/npm/console to=services/console/assets/vendor
mkdir -p "$from"
cp tools/pin/console/package.json tools/pin/console/package-lock.json "$from/"
(cd "$from" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error)

rm -rf "$to"
mkdir -p "$to/licences"
copy() { # without the name of a source map that is not there
	sed -E '/^(\/\/|\/\*)# sourceMappingURL=/d' "$from/node_modules/$1" >"$to/$2"
}
copy @tabler/core/dist/css/tabler.min.css tabler.css
copy @tabler/core/dist/js/tabler.min.js tabler.js
copy htmx.org/dist/htmx.min.js htmx.js
copy echarts/dist/echarts.common.min.js echarts.js
cp "$from/node_modules/echarts/NOTICE" "$to/licences/echarts-notice.txt"
for package in @tabler/core @tabler/icons htmx.org echarts; do
	name=${package//[@\/]/-}
	if ! cp "$from/node_modules/$package"/LICENSE* "$to/licences/${name#-}.txt" 2>/dev/null; then
		sed -n "1,6s/^ \* //p" "$to/tabler.css" >"$to/licences/${name#-}.txt" # which says it itself
	fi
done
{
	printf '<svg xmlns="http://www.w3.org/2000/svg">\n'
	while read -r icon; do
		sed -n '/<path /p' "$from/node_modules/@tabler/icons/icons/outline/$icon.svg" |
			awk -v id="$icon" 'BEGIN {printf "<symbol id=\"%s\" viewBox=\"0 0 24 24\">", id} {gsub(/^ +/, ""); printf "%s", $0} END {print "</symbol>"}'
	done <tools/pin/console/icons.txt
	printf '</svg>\n'
} >"$to/icons.svg"
