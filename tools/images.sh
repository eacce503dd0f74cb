#!/usr/bin/env bash
# Makes the container images that are released, into out/images/: NAME.tar, an OCI image layout for
# all processors, and a bill of materials for each. Needs neither a daemon nor a registry.
#
#   tools/images.sh [cetrus|cetrus-manager ...]     all without arguments
#
# The digest, the file and the name of each are told on standard output. From the same commit and Go version
# they come out the same, byte for byte.
#
# CETRUS_VERSION    the version; default as tools/version.sh says
# CETRUS_OUT        the folder; default: out/images
set -euo pipefail
cd "$(dirname "$0")/../tools"
export GOWORK=off
exec go run ./cmd/cetrus-images --root .. --out "${CETRUS_OUT:-../out/images}" --bill-of-materials ../bin/cyclonedx-gomod \
	--version "$(./version.sh)" --revision "$(git rev-parse HEAD)" --created "$(git log -1 --format=%ct)" "$@"
