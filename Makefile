# A thin index: each target is one or two plain commands.

GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/hyperfleet/hyperfleet/internal/buildinfo.version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
ROOTFS  ?=
FUZZTIME ?= 30s
EXAMPLES ?= 2000

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build hyperfleet and hyperfleet-init into bin/
	$(BUILD) -o $(BIN)/hyperfleet ./cmd/hyperfleet
	$(BUILD) -o $(BIN)/hyperfleet-init ./cmd/hyperfleet-init

.PHONY: guest
guest: ## build the guest's init for amd64 and arm64
	GOARCH=amd64 $(BUILD) -o $(BIN)/init-amd64 ./cmd/hyperfleet-init
	GOARCH=arm64 $(BUILD) -o $(BIN)/init-arm64 ./cmd/hyperfleet-init

.PHONY: guest-install
guest-install: build ## put the guest's init at /init of a root filesystem (ROOTFS=DIR)
	@test -n "$(ROOTFS)" || { echo 'usage: make guest-install ROOTFS=DIR' >&2; exit 2; }
	install -D -m 0755 $(BIN)/hyperfleet-init "$(ROOTFS)/init"

.PHONY: deps
deps: ## install what running guests needs (QEMU, by apt)
	@scripts/deps run

.PHONY: test-deps
test-deps:
	@scripts/deps test

.PHONY: demo
demo: deps build ## boot a guest from an OCI image, run a command in it, print a time table
	$(GO) run ./test/demo -bin $(BIN)/hyperfleet

.PHONY: run
run: deps build ## start the server and print how to talk to it
	$(BIN)/hyperfleet setup
	@printf '%s\n' '' 'Once it is ready, talk to it from another terminal:' \
		'  curl -s localhost:$(or $(PORT),3000)/health' \
		'  $(BIN)/hyperfleet run --rm alpine -- uname -a' \
		'  $(BIN)/hyperfleet --help' ''
	$(BIN)/hyperfleet serve

.PHONY: test
test: test-unit test-host test-vm ## run every tier

.PHONY: test-unit
test-unit: ## offline, no root, with the race detector
	$(GO) test -race ./...

.PHONY: test-host
test-host: test-deps ## root: loop mounts, namespaces, image tools, a browser (what it saw is in bin/_artifacts)
	mkdir -p $(BIN)
	scripts/tier host -timeout 15m -artifacts -outputdir $(CURDIR)/$(BIN)

.PHONY: test-api
test-api: test-deps ## the API against its document: EXAMPLES (2000) requests by schemathesis for each operation
	$(GO) test -tags host -count=1 -timeout 4h -v -run Schemathesis ./internal/httpapi -schemathesis.examples=$(EXAMPLES)

.PHONY: test-vm
test-vm: test-deps build ## real guests under QEMU
	scripts/tier vm -timeout 20m

.PHONY: bench
bench: test-deps build ## ratios against floors and peers, measured in one run
	$(GO) test -tags vm -run '^$$' -bench . -benchtime 1x -timeout 60m ./test/bench
	$(GO) test -tags host -run '^$$' -bench Conversion -benchtime 1x -timeout 60m ./internal/image/...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## formatting, vet and golangci-lint with the layering rules
	test -z "$$(gofmt -l .)"
	$(GO) vet ./... && $(GO) vet -tags host ./... && $(GO) vet -tags vm ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run ./...

.PHONY: package
package: ## build the Debian packages for amd64 and arm64 into dist/
	GO='$(GO)' scripts/package

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) dist
