# What a contributor runs; CONTRIBUTING.md says more. The tools are built once, into a cache, and are not in go.mod.

TOOLS    := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/backfill-ci/$(shell go env GOVERSION)
SQLC     := $(TOOLS)/sqlc@v1.31.1/sqlc
GOLANGCI := $(TOOLS)/golangci-lint@v2.15.0/golangci-lint
QUERIES  := internal/pg/sqlc.yaml
SAMPLE   := docs/sqlc/sqlc.yaml
MODULES  := $(patsubst %/go.mod,%,$(shell git ls-files '*/go.mod'))
PRIVATE  := env -u DATABASE_URL -u PGHOST -u PGSERVICE -u PGDATABASE go run ./internal/devpg/with --

# What make test-matrix runs, for example: make test-matrix VERSIONS="13 14" PACKAGES=./backfill
VERSIONS ?= 12 13 14 15 16 17 18
PACKAGES ?= ./...

# What make fuzz runs: the crontab parser, and the contract's error cases.
FUZZTIME ?= 30s
FUZZ     ?= internal/crontab.FuzzParse backfill.FuzzEnqueue backfill.FuzzAdmin internal/schema.FuzzLedger

# The state of the working tree, as one hash.
TREE = { git status --porcelain -uall; git diff; } | git hash-object --stdin

.PHONY: help test test-matrix fuzz faults lint generate check bench ci tools

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

test: ## Run all tests with the race detector
	go test -race ./...

test-matrix: ## Run all tests on each PostgreSQL of VERSIONS, 12 to 18
	@status=0; table=; \
	for version in $(VERSIONS); do \
	  echo "== PostgreSQL $$version"; start=$$(date +%s); result=ok; \
	  BACKFILL_TEST_PG_MAJOR=$$version go test -count=1 $(PACKAGES) || { result=FAIL; status=1; }; \
	  table="$$table$$(printf '%-12s%-6s%4d s' "$$version" "$$result" $$(($$(date +%s) - start)))\n"; \
	done; \
	printf '\nPostgreSQL  tests   time\n%b' "$$table"; exit $$status

fuzz: ## Fuzz each target of FUZZ for FUZZTIME, all at once
	@for package in $(sort $(basename $(FUZZ))); do go test -c -vet=off -fuzz=. -o /dev/null ./$$package || exit; done # one by one: they share most
	@printf '%s\n' $(FUZZ) | xargs -P 0 -I TARGET sh -c 'target=TARGET; \
	  out=$$(go test -vet=off -run="^$$" -fuzz="^$${target##*.}\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=10x -parallel=1 ./$${target%.*} 2>&1); \
	  status=$$?; printf "== %s\n%s\n" "$$target" "$$out"; exit $$status'

# What make faults runs: a schedule of its own, unless SEED says which, and leaders killed under Patroni; 0s: not these.
FAULTS_FOR     ?= 15m
FAULTS_PATRONI ?= 5m

faults: ## Run a fleet with faults for 15 minutes, check each promise, write docs/reliability.md; SEED=n repeats a schedule
	go run ./internal/faults -for $(FAULTS_FOR) -patroni $(FAULTS_PATRONI) $(if $(SEED),-seed $(SEED)) -out docs/reliability.md

lint: $(GOLANGCI) ## Check formatting (gofumpt, gci) and run the linters
	$(GOLANGCI) fmt --diff
	$(GOLANGCI) run
	for module in $(MODULES); do (cd $$module && $(GOLANGCI) run) || exit; done

generate: $(SQLC) ## Write all generated code
	go generate ./...
	go -C internal/programs generate ./...
	$(SQLC) generate -f $(QUERIES)
	$(SQLC) generate -f $(SAMPLE)

check: $(SQLC) ## Check that generated code and go.mod are current, and every query against a migrated database
	go mod tidy -diff
	for module in $(MODULES); do go -C $$module mod tidy -diff || exit; done
	$(SQLC) diff -f $(QUERIES)
	$(SQLC) diff -f $(SAMPLE)
	go run ./cmd/backfillgen -check ./...
	go -C internal/programs tool backfillgen -check ./...
	before=$$($(TREE)); go generate ./... && [ "$$before" = "$$($(TREE))" ] || { git status; exit 1; }
	$(PRIVATE) sh -c 'go run ./internal/schema/internal/migrate && $(SQLC) vet -f $(QUERIES)'

bench: ## Measure against the bare-SQL floor; go -C internal/bench run . -against REV compares revisions
	cd internal/bench && go run .

ci: ## Run what CI runs
	.ci/run

tools: $(SQLC) $(GOLANGCI)

# The folder's name is what go install is asked for.
$(SQLC):
	GOBIN=$(@D) CGO_ENABLED=0 go install github.com/sqlc-dev/sqlc/cmd/$(notdir $(@D))

$(GOLANGCI):
	GOBIN=$(@D) CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/$(notdir $(@D))
