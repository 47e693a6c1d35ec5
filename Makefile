# Everything installs into .venv from this repository's own files.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check lint bench docs clean

help: ## Show this help
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: .venv/.train ## Move a gallery of real images to a new model; writes runs/demo/report.html
	$(BIN)/onward demo --out runs/demo

test: .venv/.test ## Run all tests
	scripts/install-chromium
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup

check: lint ## Check format, lint, types and layers, and run the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -q -m "not slow"

lint: .venv/.test ## Check format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.test ## Run the benchmarks; each compares two ways in one run
	for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: .venv/.test ## Build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

clean: ## Remove what was built, but not runs/
	rm -rf .venv build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Onward needs Python 3.11 or newer; call make with PYTHON=python3.12, say"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.train: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[train]'
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) -e '.[test]'
	@touch $@ .venv/.train
