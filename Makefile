# Every target sets up what it needs in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo real bench soak fuzz test test-fast lint types check lock clean test-all tables figures notebooks report status zo-bench

help:  ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16
	@printf '%s\n' 'run-table3      run what table 3 misses, then render it (PROFILE=paper|mini|local JOBS=2); any table or figure' \
		'plan-table3     what that would be: runs, forward passes, GPU memory, hours'

setup: $(READY)  ## install the project and its pinned dependencies into .venv

# One pip call: with the pins beside it the project's ranges cannot pull another (CUDA) build of torch.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock -e ".[checkout,dev]"
	@touch $@

DEMO := $(RUN) -m experiments.run protocol=demo paths.results=outputs/demo tracker.progress=always

demo: $(READY)  ## fine-tune a tiny model with MeZO and with BSZO at the same number of forward passes (about a minute)
	$(DEMO) optimizer=mezo
	$(DEMO) optimizer=bszo
	$(RUN) -m scripts.study.compare --records outputs/demo/runs

# DATA=DIR has rows as sst2/train.jsonl and sst2/validation.jsonl; without it they come from the hub. Both at the rate that
# validation chose for both (results/tables/table_real.md).
DATA ?=
REAL_RUN := model=smollm2-135m task=sst2 $(if $(DATA),data=local data.root=$(DATA),data=hub) precision=bf16-sr tracker=none \
	task.num_validation=256 protocol=real protocol.max_forwards=$(or $(PASSES),1000) paths.results=outputs/real $(ARGS)
REAL := $(RUN) -m experiments.run $(REAL_RUN) optimizer.eps=1e-3 tracker.progress=always checkpoint.weights=outputs/real/weights

real: $(READY)  ## fine-tune SmolLM2-135M on 1,000 rows of SST-2, DATA=DIR or the hub's, with MeZO and BSZO (15 to 50 minutes on one thread)
	$(RUN) -m experiments.fetch smollm2-135m
	$(REAL) optimizer=mezo optimizer.lr=3e-5 protocol.eval_every=125
	$(REAL) optimizer=bszo optimizer.lr=3e-5 protocol.eval_every=83
	$(RUN) -m scripts.study.compare --records outputs/real/runs
	$(RUN) -m experiments.answers --runs outputs/real/runs --weights outputs/real/weights $(REAL_RUN)

bench: $(READY)  ## step time, noise, evaluation and memory against the published procedure (about 10 minutes; quiet machine)
	$(RUN) -m scripts.bench.step --out results/measured/bench $(ARGS)

# --- tables and figures: rendered from records, measurements and results/paper; no torch, no Hydra ------------------
PROFILE ?= mini
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
RENDER := $(VENV)/.render
RENDERERS := experiments/render.py $(wildcard experiments/tables/*.py experiments/tables/*/*.py experiments/sweeps/*.py experiments/records/*.py)
CONFIGURED := conf/config.yaml $(foreach group,sweep rates model task data optimizer precision protocol fidelity tuning,\
	$(wildcard conf/$(group)/*.yaml))
RECORDS := $(wildcard results/records/* outputs/runs/*/)

# What each table and figure is made of is said in experiments/tables/artefacts.py, which needs no package:
# TABLES, FIGURES, RECORDED, SWEEPS_*, PICK_*, the files of each, and how those are measured that are made of no sweep.
include outputs/made/artefacts.mk
outputs/made/artefacts.mk: experiments/tables/artefacts.py experiments/tables/make_rules.py experiments/render.py
	@mkdir -p $(@D)
	@$(or $(wildcard $(RUN)),$(PYTHON)) -m experiments.render --make > $@.new && mv $@.new $@

# Enough of the pinned packages to render with; nothing to install where the project is set up.
$(RENDER): requirements.lock
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	test -e $(READY) || $(RUN) -m pip install --quiet --disable-pip-version-check \
		$(shell grep -iE '^(matplotlib|rich|pyyaml|scipy)==' requirements.lock)
	@touch $@

# outputs/made/NAME is as old as the files of NAME; NAME.d lists the records that they show. A folder of records is
# newer where a record came or went.
MADE := $(addprefix outputs/made/,$(TABLES) $(FIGURES))
$(MADE): outputs/made/%: $(RENDERERS) $(CONFIGURED) | $(RENDER)
	@$(RUN) -m experiments.render $*
$(addprefix outputs/made/,$(RECORDED)): $(RECORDS)
-include $(wildcard outputs/made/*.d)

$(TABLES) $(FIGURES): %: outputs/made/%
zo-bench: zo_bench  ## the field's methods on every tuning scheme, ranked (`make run-zo-bench`: its runs)

tables: $(TABLES)  ## every table (`make table3`: one), from the records and the paper's numbers
figures: $(FIGURES)  ## every figure (`make figure1`: one)

notebooks: outputs/report/index.html  ## execute the notebooks; the report is outputs/report/index.html
outputs/report/index.html: $(wildcard notebooks/*.ipynb notebooks/*.py scripts/maintain/report*) results/README.md | $(READY)
	@$(RUN) -m scripts.maintain.report

# the state of every artefact, what the numbers show, and the deviations
results/README.md: scripts/maintain/results_readme.py $(wildcard results/findings.md results/deviations.md) $(MADE)
	@$(RUN) -m scripts.maintain.results_readme

report: notebooks  ## tables, figures, results/README.md and notebooks: whatever is out of date

status: | $(RENDER)  ## what is present, missing and failed of every table and figure
	@$(RUN) -m scripts.maintain.status

# make run-table1 PROFILE=mini|paper JOBS=2, or PROFILE=local ARGS="model=local model.path=DIR data=local data.root=DIR";
# resumes where it was stopped. make run-walk, the name of a sweep, renders everything.
name = $(subst -,_,$*)
sweeps = $(or $(SWEEPS_$(name)),$(name))
run-%: $(READY)
	@for sweep in $(sweeps); do $(RUN) -m experiments.run --multirun sweep=$$sweep sweep.profile=$(PROFILE) \
		hydra/launcher=processes hydra.launcher.n_jobs=$(JOBS) $(PICK_$(name)) $(ARGS) || exit; done
	@$(RUN) -m experiments.records.pack $(PROFILE)
	@$(MAKE) --no-print-directory $(or $(filter $(name),$(TABLES) $(FIGURES)),tables figures)

plan-%: $(READY)
	@$(RUN) -m experiments.plan $(sweeps) --profile $(PROFILE) --jobs $(JOBS) $(PICK_$(name)) $(ARGS)

soak: $(READY)  ## every zeroth-order method, 2,000 steps in three precisions: flat memory, no drift (about half an hour)
	$(RUN) -m scripts.bench.soak --jobs $(JOBS)

FUZZ_SECONDS ?= 300
fuzz: $(READY)  ## coverage-guided fuzzing of the record and trajectory readers, FUZZ_SECONDS each; needs atheris (Linux)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[fuzz]"
	for reader in record trajectory; do mkdir -p outputs/fuzz/$$reader && $(RUN) -m tests.fuzz.fuzz_$$reader \
		-max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=outputs/fuzz/$$reader- \
		outputs/fuzz/$$reader tests/fuzz/corpus/$$reader || exit; done

test: $(READY)  ## the test suite
	$(RUN) -m pytest -n 2 --dist worksteal

test-all: $(READY)  ## all tests, also those that `make test` leaves out because others stand for them
	$(RUN) -m pytest -n 2 --dist worksteal -m ""

# what starts no process and makes no run
FAST := tests/core tests/perturb tests/optim/test_contract.py tests/optim/test_reference.py tests/tasks tests/tables/test_grid.py \
	tests/test_layers.py tests/test_threats.py
test-fast: $(READY)  ## the quick part of it, for the loop while one writes: maths, noise, directions, engines, methods, tasks
	$(RUN) -m pytest -n 2 $(FAST)

lint: $(READY)  ## ruff
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .

types: $(READY)  ## pyright
	$(VENV)/bin/pyright

check: lint types test  ## lint, types, tests

lock:  ## pin what is installed now into requirements.lock
	$(RUN) -m pip freeze --exclude-editable --exclude atheris | sed -E 's/(==[^+ ]+)\+[^ ]*/\1/; s/ @ file:.*//' > requirements.lock

clean:  ## remove .venv and every cache
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
