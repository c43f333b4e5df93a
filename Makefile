# What a contributor runs; CONTRIBUTING.md says more. The tools are built once, into a cache, and are not in go.mod.

TOOLS    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/backfill-ci/$(shell go env GOVERSION)
SQLC     := $(TOOLS)/sqlc@v1.31.1/sqlc
GOLANGCI := $(TOOLS)/golangci-lint@v2.15.0/golangci-lint
QUERIES  := internal/engine/pgstore/sqlc.yaml
PRIVATE  := env -u DATABASE_URL -u PGHOST -u PGSERVICE -u PGDATABASE go run ./internal/devpg/with --

# The state of the working tree, as one hash.
TREE = { git status --porcelain -uall; git diff; } | git hash-object --stdin

.PHONY: help test lint generate check bench ci tools

help: ## List these targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

test: ## Run all tests with the race detector
	go test -race ./...

lint: $(GOLANGCI) ## Check formatting (gofumpt, gci) and run the linters
	$(GOLANGCI) fmt --diff
	$(GOLANGCI) run
	cd internal/bench && $(GOLANGCI) run

generate: $(SQLC) ## Write all generated code
	go generate ./...
	$(SQLC) generate -f $(QUERIES)

check: $(SQLC) ## Check that generated code and go.mod are current, and every query against a migrated database
	go mod tidy -diff
	cd internal/bench && go mod tidy -diff
	$(SQLC) diff -f $(QUERIES)
	go run ./cmd/backfillgen -check ./...
	before=$$($(TREE)); go generate ./... && [ "$$before" = "$$($(TREE))" ] || { git status; exit 1; }
	$(PRIVATE) sh -c 'go run ./internal/engine/pgstore/internal/migrate && $(SQLC) vet -f $(QUERIES)'

bench: ## Measure against the bare-SQL floor
	cd internal/bench && go run .

ci: ## Run what CI runs
	.ci/run

tools: $(SQLC) $(GOLANGCI)

# The folder's name is what go install is asked for.
$(SQLC):
	GOBIN=$(@D) CGO_ENABLED=0 go install github.com/sqlc-dev/sqlc/cmd/$(notdir $(@D))

$(GOLANGCI):
	GOBIN=$(@D) CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/$(notdir $(@D))
