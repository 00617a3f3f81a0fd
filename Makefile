# Every target makes what it needs: a virtual environment in .venv with the exact versions of constraints.txt.
# Python 3.11 or newer, its pip, and make are enough; the environment is made anew only when its files change.

# Two processes of one thread each: two threads of one process wait for each other.
PYTEST_ARGS ?= -n 2
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3))
BIN    := .venv/bin
STAMP  := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test faults lint format lock audit nightly clean

help:  ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv with Trueline and its tools (nothing to do when it is up to date)

# --without-pip and `pip --python`: Debian's python3 has pip and venv but, without python3-venv, no ensurepip.
# Every file but torch's must have its locked hash; torch's index may be another one (PIP_EXTRA_INDEX_URL).
$(STAMP): pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Trueline needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --no-deps --require-hashes -r requirements.lock
	$(PYTHON) -m pip --python $(BIN)/python install --quiet torch==2.13.0 -c constraints.txt
	$(PYTHON) -m pip --python $(BIN)/python install --quiet -e '.[dev,world]' -c constraints.txt
	touch $@

demo: $(STAMP)  ## generate four pictures of one prompt with two boxes, with the model that comes with the package
	$(BIN)/trueline generate "a red apple to the left of a blue car" \
	  --box "a red apple@.06,.30,.44,.72" --box "a blue car@.52,.34,.96,.70" \
	  --model world --n 4 --overlay --out out/demo

test: lint  ## lint, types and tests
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_ARGS)

faults: $(STAMP)  ## the tests of kills, frozen processes, Ray and mutated input at full length, in minutes
	$(PYTHON) -m pip --python $(BIN)/python install --quiet ray==2.60.0 -c constraints.txt
	OMP_NUM_THREADS=1 TRUELINE_FAULTS=full $(BIN)/pytest -s -m faults

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(STAMP)  ## let ruff repair what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock:  ## make requirements.lock from constraints.txt: the hash of every file that is installed
	$(PYTHON) .ci/audit --lock

audit:  ## are the locked files the ones on PyPI, and is a weakness of one known? (needs the network)
	$(PYTHON) .ci/audit

nightly:  ## the suite with Python 3.11, 3.12 and 3.13, and with the lowest versions allowed (needs the network)
	$(PYTHON) .ci/nightly

clean:  ## remove the environment and all caches, keep what was generated
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
