# Everything that is done to this project from outside. `make help` prints the targets.

TARGET := $(or $(CARGO_TARGET_DIR),target)
PYTHON ?= python3
# Another program to run the demo and the client tests with; it is not built then.
BINARY ?= $(TARGET)/release/twinpi
BUILT := $(if $(filter command line environment,$(origin BINARY)),,build)
CARGO_FLAGS := --locked
STATIC := x86_64-unknown-linux-gnu
RUN := $(TARGET)/run
KILLS ?= 200
ROUNDS ?= 100
MINUTES ?= 20
SEED ?=
export TWINPI_BINARY = $(abspath $(BINARY))

.DEFAULT_GOAL := help
.PHONY: help demo run build check test test-rust test-clients test-all test-model test-transcript test-browser screenshots test-kill torture-kill test-faults torture backlog compat compat-clients live propagation search-bench bench map dist clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BUILT) ## a master and a replica driven by real pip and twine (KEEP=1 leaves them running, BINARY=path runs another)
	@KEEP="$(KEEP)" scripts/demo "$(BINARY)"

run: build ## a master on loopback, port 3141, data below target/run
	@mkdir -p -m 700 $(RUN)
	@test -e $(RUN)/secret || $(BINARY) gen-secret --secretfile $(RUN)/secret
	@test -e $(RUN)/data || $(BINARY) init --serverdir $(RUN)/data --no-root-pypi
	$(BINARY) serve --serverdir $(RUN)/data --role master --secretfile $(RUN)/secret

build: ## the release binary
	cargo build --release $(CARGO_FLAGS)

check: ## formatting, lints and documentation, warnings being errors
	cargo fmt --check
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc $(CARGO_FLAGS) --no-deps --document-private-items

test: test-rust test-clients ## unit and integration tests, then real pip, twine, uv and devpi-client

test-rust:
	cargo test $(CARGO_FLAGS)

test-clients: $(BUILT)
	"$$($(PYTHON) scripts/clients_venv.py)/python" -m pytest tests/clients

test-all: test-model test-kill test-faults test-browser test-transcript compat demo ## what takes longer: the model check of the clock, a short kill loop, faults, the pages in a browser, the devpi command at work, devpi-server as master and replica, the demo

test-model: ## the serial clock under a model checker that tries interleavings
	RUSTFLAGS="--cfg shuttle" cargo test $(CARGO_FLAGS) --test clock_model --target-dir $(TARGET)/shuttle

test-transcript: $(BUILT) ## a day with the devpi command against a replica, printed as it goes
	"$$($(PYTHON) scripts/clients_venv.py)/python" -m pytest -q -s -m transcript tests/clients

test-browser: $(BUILT) ## the pages in headless Chromium, judged by axe-core too
	@scripts/chromium.py
	"$$($(PYTHON) scripts/clients_venv.py browser)/python" -m pytest -q tests/browser

screenshots: $(BUILT) ## docs/pages/*.png: each page in light and dark, wide and narrow
	@scripts/chromium.py
	"$$($(PYTHON) scripts/clients_venv.py browser)/python" tests/browser/screenshots.py docs/pages

test-kill: $(BUILT) ## a short kill loop
	$(PYTHON) tests/clients/kill_loop.py --master 6 --replica 6

torture-kill: $(BUILT) ## kill -9 of master and replica during uploads, KILLS times each (default 200)
	$(PYTHON) tests/clients/kill_loop.py --master $(KILLS) --replica $(KILLS)

test-faults: $(BUILT) ## scenes with one fault each, and a short torture
	"$$($(PYTHON) scripts/clients_venv.py)/python" -m pytest -q tests/faults

torture: $(BUILT) ## random faults on a master, replicas and a replica of a replica for MINUTES (default 20); SEED repeats a run
	$(PYTHON) tests/faults/torture.py --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

drill: $(BUILT) ## failovers under upload load: kill the master, promote, follow, rejoin; ROUNDS times (default 100)
	scripts/failover-drill --rounds $(ROUNDS)

backlog: ## how fast a replica applies a long backlog, in serials per second of processor time
	cargo test --release --test replication -- --ignored --nocapture --test-threads 1 backlog::

compat: $(BUILT) ## a real devpi-server as the master of a twinpi, as its replica, and replaced by it and back
	"$$($(PYTHON) scripts/clients_venv.py compat)/python" -m pytest tests/compat

compat-clients: ## the client tests against devpi-server itself: what they expect is what it does
	TWINPI_BINARY="$$($(PYTHON) scripts/clients_venv.py compat)/devpi-server" \
		"$$($(PYTHON) scripts/clients_venv.py)/python" -m pytest tests/clients -m "not ours and not transcript"

search-bench: ## how fast 100,000 projects are indexed and asked for
	cargo test --release --lib -- --ignored --nocapture search::bench

propagation: $(BUILT) ## how long a change takes from a commit to one replica, and to 50
	scripts/propagation "$(BINARY)"
	scripts/propagation "$(BINARY)" --replicas 50 --uploads 100 --rate 2

live: $(BUILT) ## real packages through a mirror of the index that pip uses here; needs the network
	scripts/live "$(BINARY)"

bench: $(BUILT) ## cost of uploads as history grows, of passwords against tokens; 500 parked polls
	$(PYTHON) scripts/bench "$(BINARY)"
	scripts/parked-polls

map: ## the code map in ARCHITECTURE.md, from the sources
	$(PYTHON) scripts/code-map

dist: ## one static binary in dist/, proven to be static and to do TLS
	RUSTFLAGS="-C target-feature=+crt-static" cargo build $(CARGO_FLAGS) --profile dist --target $(STATIC) --target-dir $(TARGET)/static
	mkdir -p dist
	cp $(TARGET)/static/$(STATIC)/dist/twinpi dist/twinpi
	scripts/check-static dist/twinpi
	TWINPI_BINARY=dist/twinpi "$$($(PYTHON) scripts/clients_venv.py)/python" -m pytest -q tests/clients/test_tls.py

clean: ## what was built, and the clients
	cargo clean
	rm -rf dist .venv .venv-compat .venv-browser
