# Everything a developer types. A fresh machine needs Python 3.10 or newer, make and gdb; the rest goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_VENV := .venv-bench
BENCH_STAMP := $(BENCH_VENV)/.installed

# The Python our own code runs on, used once, to create .venv: python3 where it is new enough, else the newest there is.
# A name on PATH may be a version manager's shim that leads nowhere, so each is asked.
PYTHON ?= $(shell for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$name; break; }; done)

# The Python that is operated on by `demo` and `experiment` (default: the one in .venv).
TARGET ?=
target := $(if $(TARGET),--python $(TARGET))

# Tests mostly wait: more of them at a time than there are processors.
JOBS := 3
PYTHONS :=
KINDS := musl 3.13t
RUNS := 112
EXAMPLES := 2000
OPERATIONS := 1000
SEED := 1
pytest := -n $(JOBS) $(if $(PYTHONS),--pythons $(PYTHONS))

define need_gdb
@command -v gdb >/dev/null || { echo 'gdb not found: install it (Debian, Ubuntu: apt install gdb)' >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help install pythons demo picture check test integration-test matrix fault-injection fuzz soak bench layouts experiment clean

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## create .venv with the project (editable) and its development tools [PYTHON=python3.12]

$(STAMP): pyproject.toml
	@test -n "$(PYTHON)" || { echo 'no Python 3.10 or newer found: name one with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo '$(PYTHON) cannot create virtual environments (Debian, Ubuntu: apt install python3-venv)' >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' # the first to know --group
	@# setuptools warns of every editable install, whatever is in it.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

pythons: ## build CPythons that distributions do not package, for the tests (Debian only) [KINDS="musl 3.13t"]
	tools/build_pythons $(KINDS)

$(BENCH_STAMP): $(STAMP)
	$(PYTHON) -m venv --clear $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BENCH_VENV)/bin/python -m pip install --quiet . --group bench
	@touch $@

demo: install ## free the stuck threads of a sacrificial process, before your eyes [TARGET=python3.9]
	$(need_gdb)
	@$(BIN)/python demo/demo.py $(target)

picture: install ## draw the live view at work, from a real run: writes docs/live-view.svg
	$(need_gdb)
	@$(BIN)/python demo/picture.py

check: install ## lint, types and unit tests: seconds
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit

test: install ## every test [JOBS=3 PYTHONS=3.8,3.14]
	$(need_gdb)
	$(BIN)/python -m pytest $(pytest)

integration-test: install ## real processes, real gdb, every CPython found here [JOBS=3 PYTHONS=3.8,3.14]
	$(need_gdb)
	$(BIN)/python -m pytest $(pytest) tests/integration

matrix: install ## which technique ends which victim on which CPython: writes docs/support-matrix.md
	$(need_gdb)
	$(BIN)/python -m tests.zoo.matrix

fault-injection: install ## kill gdb, or us, at random moments: does the target live on? [RUNS=112 SEED=1 PYTHONS=3.8,3.14]
	$(need_gdb)
	$(BIN)/python tools/fault_injection.py --runs $(RUNS) --seed $(SEED) $(if $(PYTHONS),--pythons $(PYTHONS))

fuzz: install ## memory, files and answers that lie, as often as you like: what is read is never believed [EXAMPLES=2000]
	THREADSURGEON_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -n $(JOBS) --timeout 0 tests/unit/test_fuzz*.py

soak: install ## a thousand operations on one busy process: does it stay well? [OPERATIONS=1000 SEED=1 PYTHONS=3.8,3.14]
	$(need_gdb)
	$(BIN)/python tools/soak.py --operations $(OPERATIONS) --seed $(SEED) $(if $(PYTHONS),--pythons $(PYTHONS))

bench: $(BENCH_STAMP) ## measure beside other tools: writes benchmarks/README.md [BENCH=--quick]
	$(need_gdb)
	@# What users have: an editable install takes 5 ms more to find its files.
	rm -rf build
	$(BENCH_VENV)/bin/python -m pip install --quiet --no-deps --force-reinstall .
	$(BENCH_VENV)/bin/python -m benchmarks $(BENCH)

layouts: install ## make threadsurgeon/cpython/tables.py again from the headers of the CPythons found here
	$(BIN)/python tools/gen_layouts.py

experiment: install ## is pthread_kill enough? try it, and the other ways [TARGET=python3.9]
	@$(BIN)/python docs/experiments/pthread_kill.py $(target)

clean: ## remove the virtual environments and everything that was generated outside of git
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
