# Everything happens in .venv, which the first command makes; nothing else has to be installed, configured or started.
# Paths are relative, so that the repository may lie anywhere, in a folder with spaces too.

.SUFFIXES:
.PHONY: help venv test lint style mypy pyright contracts check bench chaos demo dashboard-demo dashboard-screens matrix coverage clean
.DEFAULT_GOAL := help

MAKEFLAGS += --no-print-directory

PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
SEEDS ?= 4
FIRST ?= 1
SECONDS ?= 60
KIND ?= all
SIDE_BY_SIDE ?= 2
MUTANTS ?=
# Tests often wait for processes and the database, so even two cores gain from four of them at a time.
WORKERS ?= 4

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
# Kept inside the environment: the account that runs this may have no home it can write to.
export PYRIGHT_PYTHON_CACHE_DIR = $(CURDIR)/.venv/pyright
export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
export npm_config_cache = $(CURDIR)/.venv/npm
export npm_config_update_notifier = false

in_venv = .venv/bin/python -m

help:
	@echo 'make demo      see it work: jobs index the Python standard library, on a PostgreSQL of their own'
	@echo 'make dashboard-demo   a busy shop with its dashboard at http://127.0.0.1:8431'
	@echo 'make test      every check and every test, as CI runs them'
	@echo 'make lint      the checks alone: ruff, mypy, pyright, import-linter, tools/check-house'
	@echo 'make check     the tests alone; PYTEST_ARGS="tests/outbox -x" chooses, WORKERS=0 runs them in one process'
	@echo 'make bench     measure, beside the floor and other queues; BENCH_ARGS="--only drain_50 --quick" chooses'
	@echo 'make chaos     break everything at random, check every promise; SEEDS=20 FIRST=1 SECONDS=60 KIND=stalls|flows MUTANTS=1'
	@echo 'make matrix    the tests on each of Python 3.11, 3.12, 3.13 that is found, with SQLAlchemy 2.0 and 2.1'
	@echo 'make coverage  the tests under coverage, on Python 3.11 and 3.13 where found, and a report; PYTEST_ARGS chooses'
	@echo 'make venv      the virtual environment they all use, .venv; PYTHON=python3.12 chooses what it is made with'
	@echo 'make clean     remove the environments, the caches and the data of the demonstration'
	@echo
	@echo 'Tests use the server of OBAN_TEST_DATABASE_URL where that is set, else a container where a Docker engine'
	@echo 'answers, else a private PostgreSQL from a wheel. See CONTRIBUTING.md.'

venv: .venv/installed

.venv/installed: pyproject.toml tools/make-venv
	@sh tools/make-venv .venv "$(PYTHON)"
	@touch $@

test: lint check

# The type checkers take nearly all of the time, each on one core.
lint: .venv/installed
	@$(MAKE) -j2 pyright mypy style contracts

style: .venv/installed
	$(in_venv) ruff check .
	$(in_venv) ruff format --check .
	.venv/bin/python tools/check-house

mypy: .venv/installed
	$(in_venv) mypy

pyright: .venv/installed
	@$(in_venv) pyright --version > .venv/pyright.log 2>&1 || { cat .venv/pyright.log; echo; \
	  echo 'pyright could not be started: at its first run it fetches itself from the npm registry,'; \
	  echo 'which has to be reachable once (or `make check` runs the tests without it).'; exit 1; }
	$(in_venv) pyright

contracts: .venv/installed
	.venv/bin/lint-imports

check: .venv/installed
	$(in_venv) pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# The page is made again only of a whole run at full size.
bench: .venv/installed
	$(in_venv) benchmarks $(BENCH_ARGS)
	@if [ -z "$(BENCH_ARGS)" ]; then $(in_venv) benchmarks.page; fi

# Twenty seeds of a minute or more make docs/reliability.md again.
chaos: .venv/installed
	$(in_venv) tests.acceptance.chaos --seeds $(SEEDS) --first $(FIRST) --seconds $(SECONDS) --kind $(KIND) \
	  --side-by-side $(SIDE_BY_SIDE) $(if $(MUTANTS),--mutants)

demo: .venv/installed
	@.venv/bin/python -m examples.codeindex

dashboard-demo: .venv/installed
	@.venv/bin/python -m examples.dashboard_demo

# The pictures in the README and in docs/dashboard.md; it needs a Chromium.
dashboard-screens: .venv/installed
	@.venv/bin/python -m examples.dashboard_demo --screens docs/screens

matrix:
	@sh tools/test-matrix $(PYTEST_ARGS)

coverage:
	@sh tools/coverage $(PYTEST_ARGS)

clean:
	rm -rf .venv .venv-py3* .oban .oban-dashboard-demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
