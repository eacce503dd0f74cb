# Everything a developer does here. `make` alone prints this list.
SHELL := bash
.DEFAULT_GOAL := help
MODULES := proto agent manager ctl services tools charts
# DATA: another folder of what `make run` keeps; default .data, or .data-demo with DEMO=1

.PHONY: help
help: ## Print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1mmake %-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## Start everything on this machine; DEMO=1: with a simulated company of 300
	@tools/bootstrap.sh run
	@tools/build.sh
	@exec bin/cetrus-dev $(if $(DATA),--data-dir "$(DATA)")

.PHONY: test
test: ## Run all tests; installs what they need
	@tools/bootstrap.sh test
	@tools/test.sh

.PHONY: lint
lint: ## Check style, mistakes and the arrows between modules
	@tools/bootstrap.sh lint
	@tools/lint.sh

.PHONY: fmt
fmt: ## Format Go and .proto files
	@tools/bootstrap.sh lint generate
	@bin/golangci-lint fmt $(addprefix ./,$(MODULES))
	@bin/buf format -w proto

.PHONY: generate
generate: ## Generate Go and OpenAPI from proto/
	@tools/bootstrap.sh generate
	@tools/generate.sh

.PHONY: check
check: ## Fail on stale generated code and on a break of the contract
	@tools/bootstrap.sh generate
	@tools/generate.sh --check

.PHONY: packages
packages: ## Build deb, rpm and MSI into out/ (docs/fleet.md)
	@tools/bootstrap.sh packages
	@tools/packages.sh

.PHONY: ctl
ctl: ## Build cetrusctl for Linux, Windows and macOS into out/
	@tools/ctl.sh

.PHONY: images
images: ## Make the container images, into out/images/ (docs/operations.md)
	@tools/bootstrap.sh images
	@tools/images.sh $(ARGS)

.PHONY: cluster
cluster: ## Run a real Kubernetes of one node until Ctrl-C; as root (docs/cluster.md)
	@tools/bootstrap.sh cluster
	@tools/build.sh bin tools/cmd/cetrus-cluster tools/cmd/cluster-guest tools/cmd/cluster-front
	@exec bin/cetrus-cluster $(ARGS)

.PHONY: cluster-test
cluster-test: ## Install, upgrade, break and remove the platform on a real Kubernetes; as root (long)
	@tools/bootstrap.sh cluster images
	@tools/build.sh bin tools/cmd/cetrus-cluster tools/cmd/cluster-guest tools/cmd/cluster-front tools/cmd/cetrus-trial
	@exec bin/cetrus-trial $(ARGS)

.PHONY: bench
bench: ## Measure speed and cost; writes out/bench.jsonl (long)
	@tools/bootstrap.sh test
	@mkdir -p out
	@cd tools && GOWORK=off go run ./cmd/cetrus-bench $(ARGS)

.PHONY: faults
faults: ## Kill, cut and fill everything under load; count what is lost (long)
	@tools/bootstrap.sh test
	@cd tools && GOWORK=off go run ./cmd/cetrus-faults $(ARGS)

.PHONY: restore-drill
restore-drill: ## Back up under load, destroy, restore; every report byte-equal (long)
	@tools/bootstrap.sh run
	@cd tools && RESTORE_DRILL=1 go test -count=1 -timeout 40m -v -run TestRestoredReportsAreEqualByteByByte ./recount $(ARGS)

.PHONY: tools
tools: ## Build the pinned tools into bin/
	@tools/bootstrap.sh generate lint

.PHONY: clean
clean: ## Remove what was built; DATA stays
	@rm -rf bin out .cache
