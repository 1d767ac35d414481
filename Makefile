# `make demo` and `make test` need Python 3.10-3.12 and the package registries, nothing else. `make help` lists targets.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Files of tests are spread over the cores; the tests of one file stay together, for what they share.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=8 --dist=loadfile

.PHONY: help setup demo quick unit test not-long test-long lint soak pictures clean lock

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

.venv/ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Sortline needs Python 3.10, 3.11 or 3.12: make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

setup: .venv/ready ## Make .venv with everything pinned; leaves .venv/bin/sortline

demo: .venv/ready ## Train on real digits, label 360 unseen ones through the queue, report
	$(BIN)/python examples/digits_demo.py demo-run

pictures: .venv/ready ## Take the pictures of docs/images from a run of the demo (needs chromium)
	test -e demo-run/report.csv || $(BIN)/python examples/digits_demo.py demo-run
	$(BIN)/python -m docs.images.make_pictures demo-run

lint: .venv/ready ## Formatting, lint rules, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .

quick: ## Lint and the unit tests, in 90 seconds
	@$(MAKE) --no-print-directory -j2 lint unit

unit: .venv/ready ## Only the unit tests that take no time
	$(PYTEST) -m "not slow and not long" tests/unit

test: ## Lint, and all tests that guard a promise: 10 minutes on two cores
	@$(MAKE) --no-print-directory -j2 lint not-long

not-long: .venv/ready
	$(PYTEST) -m "not long"

test-long: .venv/ready ## The other tests: storms, repeats, page blocks, benchmarks
	$(PYTEST) -m long

soak: .venv/ready ## The chaos test, longer: SOAK="--images 200000 --workers 8 --worker-kills 500" and more
	$(BIN)/python -m tests.chaos.soak $(SOAK)

lock: ## Pin all dependencies anew (needs uv)
	uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
		--extra train --extra int8 --extra monitor --extra parquet --extra remote --extra demo --extra dev pyproject.toml -o requirements.lock

clean: ## Remove what make made
	rm -rf .venv demo-run build dist .mypy_cache .ruff_cache .pytest_cache
