# Every target sets up what it needs in a virtual environment of its own; Python >= 3.11 and make suffice.
#   make test PYTHON=python3.13 VENV=.venv-3.13      another interpreter
#   make test CONSTRAINTS=                           the newest of every dependency
#   make test PYTEST=--first=2                       of each file the first two tests, a case of each

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
RIVALS_VENV ?= .venv-rivals
TPUS_VENV ?= .venv-tpus
GPUS_VENV ?= .venv-gpus
PYTEST ?=
RIVALS_PYTHON ?= $(shell python3.13 -c 'import sys; print(sys.executable)' 2>/dev/null)

MINOR := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])')
CONSTRAINTS ?= $(wildcard constraints/py$(MINOR).txt)
STAMP = $(VENV)/.installed-$(MINOR)
BENCH_STAMP = $(BENCH_VENV)/.installed-$(MINOR)
TPUS_STAMP = $(TPUS_VENV)/.installed
GPUS_STAMP = $(GPUS_VENV)/.installed
RIVALS_STAMP = $(RIVALS_VENV)/.installed
PINNED = $(CONSTRAINTS:%=-c %)

RUN = $(VENV)/bin/python
WORKERS = --numprocesses=2 --dist=loadfile
DEMO = runs/digits
PATHS = jaxflow tests $(wildcard experiments configs benchmarks cloud examples)

# Large pages: without them a training step on the CPU spends a quarter of its time in page faults.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow faults topologies check format docs bench

help:
	@echo "make demo | test | test-slow | faults | topologies | check | format | docs | bench"

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet $(PINNED) -e '.[dev,ot]'
	@touch $@

$(BENCH_STAMP): pyproject.toml $(CONSTRAINTS) constraints/peers.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/python -m pip install --quiet $(PINNED) -c constraints/peers.txt -e '.[ot,peers]'
	$(BENCH_VENV)/bin/python -m pip install --quiet --no-deps -c constraints/peers.txt torchcfm torchdyn
	@touch $@

$(TPUS_STAMP) $(GPUS_STAMP): pyproject.toml constraints/py313.txt
	@test -n "$(RIVALS_PYTHON)" || { echo "This needs Python 3.13: RIVALS_PYTHON=/path/to/python3.13"; exit 1; }
	$(RIVALS_PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet -c constraints/py313.txt -e '.[dev,$(if $(filter $(GPUS_STAMP),$@),plan-gpu,plan-tpu)]'
	@touch $@

$(RIVALS_STAMP): pyproject.toml constraints/rivals.txt
	$(RIVALS_PYTHON) -m venv $(RIVALS_VENV)
	$(RIVALS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(RIVALS_VENV)/bin/python -m pip install --quiet -c constraints/rivals.txt -e '.[rivals]'
	@touch $@

demo: $(STAMP)
	$(RUN) -m experiments.train --config=configs/digits.py --workdir=$(DEMO)
	$(RUN) -m experiments.sample --workdir=$(DEMO) --num=1000 --output=$(DEMO)/samples.npz
	$(RUN) -m experiments.evaluate --workdir=$(DEMO)
	@echo "The picture: $$(ls -t $(DEMO)/*.png $(DEMO)/samples/*.png 2>/dev/null | head -n 1)"

test: $(STAMP)
	$(RUN) -m pytest -m "not slow and not faults and not topologies" $(WORKERS) $(PYTEST)

test-slow: $(STAMP)
	$(RUN) -m pytest -m slow $(PYTEST)

faults: $(STAMP)
	$(RUN) -m pytest -m faults tests/faults tests/processes $(PYTEST)

# Programs for TPU slices and GPU nodes, compiled on the CPU under the newest jax at hand.
topologies: $(TPUS_STAMP) $(GPUS_STAMP)
	$(TPUS_VENV)/bin/python -m pytest -m "topologies and not slow"
	$(GPUS_VENV)/bin/python -m pytest -m "topologies and not slow" tests/topologies/test_steps.py

check: $(STAMP)
	$(VENV)/bin/ruff format --check $(PATHS)
	$(VENV)/bin/ruff check $(PATHS)
	$(VENV)/bin/pyright --pythonpath $(RUN)

format: $(STAMP)
	$(VENV)/bin/ruff check --fix $(PATHS)
	$(VENV)/bin/ruff format $(PATHS)

docs: $(STAMP)
	$(RUN) -m pytest tests/test_docs.py jaxflow

# Beside the JAX libraries only where there is a Python 3.13 to run them.
bench: $(BENCH_STAMP) $(if $(RIVALS_PYTHON),$(RIVALS_STAMP))
	$(BENCH_VENV)/bin/python -m benchmarks $(if $(RIVALS_PYTHON),--rivals $(RIVALS_VENV)/bin/python)
