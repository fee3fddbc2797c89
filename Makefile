# Every target sets up what it needs in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo bench test lint types check lock clean

help:  ## this list
	@grep -E '^[a-z][a-z0-9-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## install the project and its pinned dependencies into .venv

# One pip call: with the pins beside it the project's ranges cannot pull another (CUDA) build of torch.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock -e ".[experiments,dev]"
	@touch $@

DEMO := $(RUN) -m experiments.run protocol=demo paths.results=outputs/demo tracker.progress=always

demo: $(READY)  ## fine-tune a tiny model with MeZO and with BSZO at the same number of forward passes (about a minute)
	$(DEMO) optimizer=mezo
	$(DEMO) optimizer=bszo
	$(RUN) scripts/compare.py --records outputs/demo/runs

bench: $(READY)  ## step time, noise, evaluation and memory against the published procedure (about 10 minutes; quiet machine)
	$(RUN) scripts/bench_step.py --out results/bench

test: $(READY)  ## the whole test suite
	$(RUN) -m pytest -n 2

lint: $(READY)  ## ruff
	$(VENV)/bin/ruff check .

types: $(READY)  ## pyright
	$(VENV)/bin/pyright

check: lint types test  ## lint, types, tests

lock:  ## pin what is installed now into requirements.lock
	$(RUN) -m pip freeze --exclude-editable | sed -E 's/(==[^+ ]+)\+[^ ]*/\1/; s/ @ file:.*//' > requirements.lock

clean:  ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
