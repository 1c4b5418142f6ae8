# The developer's manual: every target is a line of `make help`.
# Needs Python 3.11 or newer (PYTHON=... names another one), make and a C++17 compiler.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
WORKERS ?= auto
ENGINE := CMakeLists.txt $(wildcard src/retrograde/kernels/csrc/*)

.DEFAULT_GOAL := help
.PHONY: help setup demo docs links test lint bench zoo ray sanitize faults fuzz mutants browser clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## build .venv with the package (editable), its engine and the tools

$(READY): pyproject.toml constraints.txt $(ENGINE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt nanobind scikit-build-core \
	  $$(command -v cmake >/dev/null || echo cmake) $$(command -v ninja >/dev/null || echo ninja)
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[dev]' # compiled objects are used again
	touch $@

demo: $(READY) ## train an RNN and an LSTM on real text and see their gradients (about 4 minutes)
	$(BIN)/python examples/demo.py --out runs/demo

docs: $(VENV)/.docs browser ## build the site of pages and docstrings, build/site/index.html (a minute); a broken link is an error
	$(BIN)/sphinx-build -qEW --keep-going -c docs -d build/doctrees . build/site
	SITE=build/site $(BIN)/python -m pytest tests/docs/test_site.py

links: $(VENV)/.docs ## follow every link to other sites (needs a network; build/links/output.txt says what each answered)
	$(BIN)/sphinx-build -q -b linkcheck -c docs -d build/doctrees . build/links

$(VENV)/.docs: $(READY)
	$(BIN)/pip install --quiet -c constraints.txt --no-build-isolation -e '.[docs]'
	touch $@

lint: $(READY) ## style (ruff, clang-format) and types (mypy --strict on the package)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@test ! -x $(BIN)/clang-format || $(BIN)/clang-format --dry-run --Werror $(filter %.hpp %.cpp,$(ENGINE)) tests/kernels/*.cpp
	$(BIN)/mypy

test: lint browser ## lint, then the whole test suite; what CI runs (CI=true: fail if the engine was not built)
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

bench: $(READY) ## time the layers beside torch.nn and JAX over the whole grid (over an hour; runs/bench)
	$(BIN)/python -m benchmarks

ZOO := build/zoo
zoo: ## run the pages of six other tools, train with torch's layers and with ours (installed into build/zoo, about 1 GB; TOOL=darts: one)
	test -x $(ZOO)/bin/python || $(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet -r benchmarks/zoo/requirements.txt '.[train]'
	$(ZOO)/bin/python -m pytest tests/docs/test_snippets.py -k '$(or $(firstword $(subst ., ,$(TOOL))),tools)'
	$(ZOO)/bin/python -m benchmarks.zoo $(if $(TOOL),--only $(TOOL))

ray: $(READY) ## tests on a local Ray cluster, which `make test` leaves out (Ray is installed into build/ray, 300 MB)
	$(BIN)/pip install --quiet --upgrade -c constraints.txt --target build/ray ray
	OMP_NUM_THREADS=1 PYTHONPATH=build/ray $(BIN)/python -m pytest tests/searching tests/estimators tests/doctor -k ray_cluster

faults: $(READY) ## let every call that touches a file fail in turn (FAULTS=40 of each command; all takes hours)
	FAULTS=$(or $(FAULTS),40) $(BIN)/python -m pytest tests/faults

mutants: $(READY) ## change one thing in the package at a time and see whether tests fail (COUNT=200 SEED=0 MINUTES=...)
	$(BIN)/python tests/mutants --count $(or $(COUNT),200) --seed $(or $(SEED),0) --minutes $(or $(MINUTES),inf) \
	  $(if $(ONLY),--only $(ONLY))
	$(if $(ONLY),,$(BIN)/python tests/mutants --cpp --count $(or $(CPP),30) --seed $(or $(SEED),0))

fuzz: $(READY) ## broken data and run folders, each in a process of its own, for MINUTES=10 (SEED=0 repeats a run)
	$(BIN)/python tests/fuzz --minutes $(or $(MINUTES),10) --seed $(or $(SEED),$$(date +%s))

SANITIZER ?= address
INSTRUMENTED = build/$(SANITIZER)
sanitize: $(READY) ## tests of the kernels over an engine built with SANITIZER=address (or thread)
	cmake -S . -B $(INSTRUMENTED) -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRETROGRADE_SANITIZE=$(SANITIZER) \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	cmake --build $(INSTRUMENTED) -j 2
	rm -rf $(INSTRUMENTED)/package && mkdir -p $(INSTRUMENTED)/package
	cp -r src/retrograde $(INSTRUMENTED)/package/ && cp $(INSTRUMENTED)/_engine*.so $(INSTRUMENTED)/package/retrograde/kernels/
	LD_PRELOAD=$$(gcc -print-file-name=$(if $(filter thread,$(SANITIZER)),libtsan.so,libasan.so)) ASAN_OPTIONS=detect_leaks=0 \
	  TSAN_OPTIONS="halt_on_error=1 report_bugs=1 ignore_noninstrumented_modules=1" RETROGRADE_POOL=own \
	  PYTHONPATH=$(INSTRUMENTED)/package $(BIN)/python -c \
	  "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ScikitBuild' not in type(f).__name__]; \
	  import pytest, retrograde; assert 'package' in retrograde.__file__; \
	  sys.exit(pytest.main(['tests/kernels/test_native.py', 'tests/kernels/test_naive.py', 'tests/nn/test_streaming.py', 'tests/flow/test_adjoint.py', '-p', 'no:cacheprovider', '-k', 'not fork']))"

browser: # Chromium for the tests that open pages; without it they are skipped, and say so
	@command -v chromium chromedriver >/dev/null || { \
	  command -v apt-get >/dev/null && test "$$(id -u)" = 0 && \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; } || \
	  echo "No Chromium here: tests that open a page in it will be skipped."

clean: ## remove what was built (the .venv too); runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
