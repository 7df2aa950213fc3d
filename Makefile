# One command each; every one sets itself up in .venv, and a second run is
# fast and needs no network: the stamps below depend on pyproject.toml alone.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
BENCH  ?= embedded
ARGS   ?=

VENV_MADE := $(VENV)/.made
CORE      := $(VENV)/.core-installed
DEV       := $(VENV)/.dev-installed
PEERS     := $(VENV)/.bench-installed
EXAMPLES  := $(VENV)/.examples-installed

.DEFAULT_GOAL := help
.PHONY: help demo shop test faults bench lint docs clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14

demo: $(CORE) ## Replay two weeks of real flights through Postroad (ARGS=--kill)
	$(BIN)/postroad demo $(ARGS)

shop: $(EXAMPLES) ## Run the example shop on port 8000 (DATABASE_URL=postgresql://...)
	$(BIN)/python -m examples.shop $(ARGS)

test: $(DEV) ## Run all tests against real servers (ARGS="-k sqlite")
	$(BIN)/python -m pytest $(ARGS)

faults: $(DEV) ## Run the fault tests: kills, restarts, paused processes, any life
	POSTROAD_TEST_KILLS=10 POSTROAD_TEST_EXAMPLES=400 POSTROAD_TEST_TRANSFERS=1000000 \
	    $(BIN)/python -m pytest tests/faults \
	    tests/integration/test_sqlite_model.py tests/integration/test_engine_model.py $(ARGS)

bench: $(PEERS) ## Run a benchmark (BENCH=embedded)
	$(BIN)/python -m benchmarks.$(BENCH) $(ARGS)

lint: $(DEV) ## Check style, formatting, types and the floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(DEV) ## Build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs build/docs

clean: ## Remove .venv, build output and caches
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian and Ubuntu package the venv module's other half, ensurepip, apart.
$(VENV_MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Postroad needs Python 3.11 or newer, found: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "This Python cannot make virtual environments: its venv module is missing." >&2; \
	    echo "On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(CORE): pyproject.toml | $(VENV_MADE)
	$(PIP) --editable .
	@touch $@

$(EXAMPLES): pyproject.toml | $(VENV_MADE)
	$(PIP) --editable '.[examples]'
	@touch $(CORE) $@

$(DEV): pyproject.toml | $(VENV_MADE)
	$(PIP) --editable '.[dev]'
	@touch $(CORE) $(EXAMPLES) $@

$(PEERS): pyproject.toml | $(VENV_MADE)
	$(PIP) --editable '.[bench]'
	@touch $(CORE) $@
