# The developer's manual: every target is a line of `make help`.
# Needs Python 3.11 or newer (PYTHON=... names another one), make and a C++17 compiler.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ENGINE := CMakeLists.txt $(wildcard src/retrograde/kernels/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench browser clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build .venv with the package (editable), its engine and the tools

$(READY): pyproject.toml constraints.txt $(ENGINE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY) ## train an RNN and an LSTM on real text and see their gradients (about 4 minutes)
	$(BIN)/python examples/demo.py --out runs/demo

lint: $(READY) ## style (ruff) and types (mypy --strict on the package)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint browser ## lint, then the whole test suite; what CI runs
	$(BIN)/python -m pytest

bench: $(READY) ## time the layers beside torch.nn and JAX over the whole grid (over an hour; runs/bench)
	$(BIN)/python -c "import jax" 2>/dev/null || $(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks

browser: # Chromium for the tests that open pages; without it they are skipped, and say so
	@command -v chromium chromedriver >/dev/null || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 && \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "No Chromium here: tests that open a page in it will be skipped."

clean: ## remove what was built (the .venv too); runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
