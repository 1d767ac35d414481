# `make demo` and `make test` need Python 3.10-3.12 and the package registries, nothing else. `make help` lists targets.

PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# The tests start Python hundreds of times. Where this is set, as in many containers, each start would compile all modules.
unexport PYTHONDONTWRITEBYTECODE
# Files of tests are spread over the cores; the tests of one file stay together, for what they share. In the order of
# tests/conftest.py: files with slow tests first. A process of tests that dies ends the session: xdist would give its
# tests to others, and wait for ever where those have ended.
JOBS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(JOBS) --dist=loadfile --no-loadscope-reorder \
	--max-worker-restart=0

.PHONY: help setup demo quick unit test not-long test-long lint soak pictures clean lock wheel

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

# uv installs several times faster than pip. pip brings it, pinned in each lock, and installs from the same lock where uv
# fails. uv does not read pip's configuration, so it is given pip's index. -qq: errors only.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
PIP_INDEX := $(BIN)/python -m pip config list | sed -n "s/.*\.index-url='\(.*\)'$$/\1/p" | head -1
UV := UV_DEFAULT_INDEX="$${UV_DEFAULT_INDEX-$$($(PIP_INDEX))}" $(BIN)/uv --quiet pip

define install
@test -n "$(PYTHON)" || { echo "Sortline needs Python 3.10, 3.11 or 3.12: make PYTHON=/path/to/python3.12"; exit 1; }
@echo "installing what $(1) pins into .venv: seconds, or minutes where it has to be downloaded"
@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
@sed -n '/^uv==/,/[^\\]$$/p' $(1) > .venv/uv.txt
@{ $(PIP) --require-hashes -r .venv/uv.txt && $(UV) install --python $(BIN)/python --require-hashes -r $(1); } || \
	{ echo "uv failed; pip installs the same, in some minutes" && $(PIP) --require-hashes -r $(1); }
@$(PIP) --no-deps --no-build-isolation -e .
@touch .venv/demo $@
endef

.venv/demo: requirements-demo.lock pyproject.toml
	$(call install,requirements-demo.lock)

.venv/ready: requirements.lock pyproject.toml
	$(call install,requirements.lock)

setup: .venv/ready ## Make .venv with everything pinned; leaves .venv/bin/sortline

demo: .venv/demo ## Train on real digits, label 360 unseen ones through the queue, report
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

# Not gpu and onnx: they can't lie beside train.
EXTRAS := train heif import int8 monitor parquet raw remote review weights xlsx demo build dev
COMPILE := $(UV) compile --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	pyproject.toml

lock: .venv/ready ## Pin all dependencies anew
	$(COMPILE) $(EXTRAS:%=--extra %) -o requirements.lock
	$(COMPILE) --extra train --extra demo --extra build --constraint requirements.lock -o requirements-demo.lock

wheel: .venv/demo ## Build dist/sortline-*.whl, which installs with pip anywhere
	$(BIN)/hatchling build --target wheel

clean: ## Remove what make made
	rm -rf .venv demo-run build dist .mypy_cache .ruff_cache .pytest_cache
