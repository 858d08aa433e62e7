# Everything one does with a checkout. Stamps in .venv say what is installed and expire with pyproject.toml.

PYTHON ?= python3
ENGINES ?= vllm
PORT ?= 8000
TIMES ?= 100
MINUTES ?= 30
KILLS ?= 100

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

# A chain, not three branches: two pips at work in one environment, as `make -j` would have it, break it.
PACKAGE := $(VENV)/.package
DEV := $(VENV)/.dev
BENCH := $(VENV)/.bench

.PHONY: help install run test lint postgres fuzz guards soak bench-overhead clean

help: ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s%s\n", $$1, $$2}' Makefile

install: $(PACKAGE) ## .venv with the package, so that .venv/bin/crossfade works

run: $(PACKAGE) ## two real engines with Crossfade in front, until Ctrl-C (ENGINES=vllm|llama PORT=8000)
	@exec $(BIN)/crossfade demo --engines $(ENGINES) --port $(PORT)

test: lint postgres ## style, types and every test, those on real engines included
	$(BIN)/python -m pytest -m "not vllm"
	$(BIN)/python -m pytest -m vllm

lint: $(DEV) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

postgres: # what stores that machines share are tested on; the tests start a server of their own
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
		echo "Installing PostgreSQL, which the tests need"; \
		as_root=; [ "$$(id -u)" = 0 ] || as_root="sudo -n"; \
		$$as_root apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive $$as_root apt-get install -y -qq --no-install-recommends postgresql >/dev/null; } || \
		echo "PostgreSQL cannot be installed from here; its tests will fail. On Debian and Ubuntu: apt-get install postgresql" >&2

fuzz: $(DEV) ## readers of foreign bytes and schedules of faults, fed for minutes (TIMES=100)
	FUZZ_TIMES=$(TIMES) $(BIN)/python -m pytest --timeout 0 tests/fuzz tests/faults/test_schedules.py

guards: $(DEV) ## each guard taken away in a copy of the tree: a test must fail
	$(BIN)/python -m tests.faults.guards

soak: $(DEV) ## half an hour of mixed load with faults, then routers and workers killed among changes (MINUTES=30 KILLS=100)
	$(BIN)/python -m bench.soak --minutes $(MINUTES)
	KILLS=$(KILLS) $(BIN)/python -m pytest tests/router/test_kills.py

bench-overhead: $(BENCH) ## what the router costs, beside a direct connection and nginx
	$(BIN)/python -m bench.overhead

clean: ## all that was made in the checkout; the demo's engines stay in its cache
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name node_modules -prune -exec rm -rf {} +
	find . -name __pycache__ -prune -exec rm -rf {} +

$(PACKAGE): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Crossfade needs Python 3.11 or newer, and $(PYTHON) is not. Name another: make $(or $(MAKECMDGOALS),install) PYTHON=python3.11" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
		exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Installing Crossfade into $(VENV)"
	@$(PIP) install --editable .
	@touch $@

$(DEV): $(PACKAGE)
	@echo "Installing what the tests need into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $@

$(BENCH): $(DEV)
	@echo "Installing what the benchmark needs into $(VENV)"
	@$(PIP) install --editable '.[bench]'
	@touch $@
