# `make` lists the targets. `make demo` and `make test` set the environment up by themselves.

PY := .venv/bin/python
# The tests for the second distribution: the fast ones in these folders.
OPENMMLAB_TESTS ?= tests/analysis tests/cli tests/contract tests/deploy tests/engine tests/models tests/ops \
	tests/visualization tests/test_env.py tests/tools/test_hostile_checkpoints.py tests/tools/test_cli.py
# Number of test processes; some tests start further ones.
JOBS ?= 2
PYTEST_ARGS ?=

ifndef MMKERV_DATA
ifneq ($(wildcard ../shared/data),)
export MMKERV_DATA := $(abspath ../shared/data)
endif
endif

.PHONY: help setup setup-openmmlab demo demo-compare test test-openmmlab test-long lint format docs bench pins clean always
.DELETE_ON_ERROR:

# The test processes share the cores.
test test-openmmlab test-long: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready  ## build .venv (onedl distribution); compiles mmcv once, about 3 minutes on 2 cores

setup-openmmlab: .venv-openmmlab/.ready  ## build .venv-openmmlab (openmmlab distribution); compiles mmcv once

INSTALLER := requirements/install.sh requirements/mmcv_build.py requirements/unity-c++ requirements/uv.sh
# `make setup` with one of these asks for a certain mmcv, which the stamps do not know of.
ifneq ($(filter setup setup-openmmlab,$(MAKECMDGOALS)),)
ifneq ($(FORCE_CUDA)$(MMKERV_WHEELS),)
.venv/.ready .venv-openmmlab/.ready: always
endif
endif

.venv/.ready: requirements/onedl.txt $(INSTALLER) pyproject.toml setup.py
	@requirements/install.sh onedl .venv '>=3.10,<3.14'
	@touch $@

# torch 2.1 has no wheels for Python 3.12.
.venv-openmmlab/.ready: requirements/openmmlab.txt $(INSTALLER) pyproject.toml setup.py
	@requirements/install.sh openmmlab .venv-openmmlab '>=3.10,<3.12'
	@touch $@

# Waiting threads yield their core, which made training five times as fast on busy cores. The demo has the cores to itself:
# spinning for some microseconds first makes it a fifth faster.
demo demo-compare test test-openmmlab test-long: export OMP_WAIT_POLICY := $(or $(OMP_WAIT_POLICY),PASSIVE)
demo demo-compare: export GOMP_SPINCOUNT := $(or $(GOMP_SPINCOUNT),5000)

demo: .venv/.ready  ## write data, train, evaluate, fold, evaluate again: about 10 minutes on 2 cores
	$(PY) tools/demo.py

demo-compare: .venv/.ready  ## the demo with the plain network beside it: after `make demo`, 6 minutes more
	$(PY) tools/demo.py --compare

test: lint  ## lint, doctests and all tests; skips are listed by reason
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-openmmlab: .venv-openmmlab/.ready  ## contract tests and three training iterations with the openmmlab distribution
	.venv-openmmlab/bin/python -m pytest -n $(JOBS) --dist worksteal -m 'not slow' $(PYTEST_ARGS) $(OPENMMLAB_TESTS)

test-long: .venv/.ready  ## the tests that take minutes each: thousands of random cases, 30 killed trainings
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m long $(PYTEST_ARGS)

lint: .venv/.ready  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: .venv/.ready  ## fix what ruff can fix
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: .venv/.ready  ## build the documentation into docs/_build/html; warnings are errors
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

bench: .venv/.ready  ## time and memory against plain convolutions, under 15 minutes on 2 cores; alone on the machine
	$(PY) benchmarks/suite.py

# Without the cache: behind some mirrors, resolving mmcv again would cost uv the wheel it has compiled.
# Left out: the CUDA packages, which torch pins itself and which differ between platforms, and packages never installed.
COMPILE := requirements/uv.sh pip compile --quiet --no-cache --universal --python-version 3.10 --no-header --no-annotate
pins:  ## recompile requirements/*.txt from requirements/*.in, with the hashes of all files
	@set -e; for name in onedl openmmlab; do \
		echo "requirements/$$name.in -> requirements/$$name.txt"; \
		$(COMPILE) requirements/$$name.in > requirements/$$name.txt.new; \
		grep -vE "^(nvidia-|cuda-|triton)|sys_platform == 'never'" requirements/$$name.txt.new > requirements/$$name.txt; \
		$(COMPILE) --no-deps --generate-hashes requirements/$$name.txt > requirements/$$name.txt.new; \
		mv requirements/$$name.txt.new requirements/$$name.txt; \
	done

clean:  ## remove build output and caches; environments, data and work_dirs stay
	rm -rf build dist docs/_build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -not -path './.*' -prune -exec rm -rf {} +
