# What a person does with this repository. Everything starts its own servers and touches no others.

CARGO ?= cargo
LAB = target/debug/lab
MS ?= 150
# ONCE=1 make demo: stop everything at the end.
ONCE ?=

# make fuzz-sql: for how long, and from which seed on. make soak: the seed.
SECONDS ?= 3600
SEED ?= 1

.PHONY: help demo test fuzz-sql up down cut heal delay freeze thaw black-hole status bench soak lint deps build

help:
	@echo 'make demo              a night at an observatory with the link cut (ONCE=1: stop everything at the end)'
	@echo 'make test              the whole test suite'
	@echo 'make fuzz-sql          generated SQL against a plain Postgres, an hour (SECONDS=60 SEED=1 FEATURES=-merge)'
	@echo 'make up | down         a site left running for playing'
	@echo 'make cut | heal | delay MS=150 | freeze | thaw | black-hole | status'
	@echo 'make bench             measure a site against its yardsticks, an hour or so (ARGS=--quick: some minutes)'
	@echo 'make soak              faults on real servers for hours (FAULTS=20000 SEED=7)'
	@echo 'make lint'

deps:
	@scripts/install-deps

build: deps
	$(CARGO) build --locked --workspace --bins

demo: build
	@target/debug/demo $(if $(filter-out 0,$(ONCE)),--once)

up: build
	@$(LAB) up

down cut heal freeze thaw black-hole status:
	@$(LAB) $@

delay:
	@$(LAB) delay --ms $(MS)

# cargo-nextest when it is there; cargo test runs the same tests.
test:
	@scripts/install-deps test
	@scripts/python-env
	$(CARGO) build --locked --workspace --bins
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo '$(CARGO) nextest run --workspace'; $(CARGO) nextest run --locked --workspace; \
	else \
		echo '$(CARGO) test --workspace (cargo-nextest is not installed, and not needed)'; \
		$(CARGO) test --locked --workspace; \
	fi

# What make test does with some seeds, for as long as one likes. A failure prints the command that repeats it.
fuzz-sql: deps
	$(CARGO) build --locked --workspace --bins
	FUZZ_SECONDS=$(SECONDS) FUZZ_SEED=$(SEED) FEATURES=$(FEATURES) \
		$(CARGO) test --locked --test differential generated -- --nocapture

bench:
	@scripts/install-deps bench
	$(CARGO) bench --locked --bench site -- --report docs/BENCHMARKS.md $(ARGS)

# What clients were told is held against main after thousands of faults; the seed decides their order.
soak: deps
	FAULTS=$(or $(FAULTS),20000) SEED=$(SEED) $(CARGO) test --locked --test faults -- --nocapture faults_in_any_order

lint: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private_intra_doc_links' $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny --log-level error check; \
	else \
		echo 'cargo deny is not installed: licences and advisories are not checked'; \
	fi
