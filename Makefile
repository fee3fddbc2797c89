# Every target sets up what it needs in .venv; `make help` lists them.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo bench soak fuzz test lint types check lock clean tables figures notebooks report status zo-bench

help:  ## this list
	@grep -hE '^[a-z][a-z0-9-]*:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16
	@printf '%s\n' 'run-table3      run what table 3 misses, then render it (PROFILE=paper|mini|local JOBS=2); any table or figure' \
		'plan-table3     what that would be: runs, forward passes, GPU memory, hours'

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
	$(RUN) -m scripts.study.compare --records outputs/demo/runs

bench: $(READY)  ## step time, noise, evaluation and memory against the published procedure (about 10 minutes; quiet machine)
	$(RUN) -m scripts.bench.step --out results/bench $(ARGS)

# --- tables and figures: rendered from results/records and results/paper; no torch, no Hydra ---------------------------
PROFILE ?= mini
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
RENDER := $(VENV)/.render
TABLES := $(patsubst scripts/%.py,%,$(wildcard scripts/table*.py)) zo_bench
FIGURES := $(patsubst scripts/figures/%.py,%,$(wildcard scripts/figures/figure*.py))
RENDERERS := $(wildcard experiments/tables/*.py) experiments/sweeps/grid.py experiments/sweeps/selection.py $(wildcard experiments/records/*.py)
CONFIGURED := conf/config.yaml $(foreach group,sweep rates model task data optimizer precision protocol fidelity tuning,\
	$(wildcard conf/$(group)/*.yaml))
RECORDS := $(wildcard results/records/* outputs/runs/*/)
md = $(1:%=results/tables/%.md)
drawn = $(1:%=results/figures/.made/%)

# Enough of the pinned packages to render with; nothing to install where the project is set up.
$(RENDER): requirements.lock
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	test -e $(READY) || $(RUN) -m pip install --quiet --disable-pip-version-check \
		$(shell grep -iE '^(matplotlib|rich|pyyaml|scipy)==' requirements.lock)
	@touch $@

results/tables/%.md: scripts/%.py $(RENDERERS) $(CONFIGURED) | $(RENDER)
	@$(RUN) -m scripts.$*

results/figures/.made/%: scripts/figures/%.py scripts/figures/style.py $(RENDERERS) $(CONFIGURED) | $(RENDER)
	@$(RUN) -m scripts.figures.$*
	@mkdir -p $(@D) && touch $@

# What each is made of: a folder of records is newer where a record came or went, each record that was used stands in .d.
$(call md,table1 table3 table5 table11 table12 table_walk zo_bench) $(call drawn,figure1 figure_gain): $(RECORDS)
$(foreach n,1 2 3 4 5 6 11 12,$(eval $(call md,table$(n)): $(wildcard results/paper/table$(n).csv)))
$(call md,table7 table8 table9 table10): $(wildcard results/paper/tables7to10.csv)
$(call md,table2): $(wildcard results/bench/state.json)
$(call md,table4) $(call drawn,figure2): $(wildcard results/bench/*-cpu.json results/bench/*-cuda.json)
$(call drawn,figure2): $(wildcard results/paper/table4.csv)
$(call md,zo_bench): $(wildcard results/bench/memory.json)
$(call md,table_walk) $(call drawn,figure_drift): $(wildcard results/walk/*.json results/reference/*.csv)
$(call drawn,figure_theory): $(wildcard results/theory.json)
-include $(wildcard results/tables/.made/*.d results/figures/.made/*.d)

$(TABLES): %: results/tables/%.md
zo-bench: zo_bench  ## the field's methods on every tuning scheme, ranked (`make run-zo-bench`: its runs)
$(FIGURES): %: results/figures/.made/%

tables: $(TABLES)  ## every table (`make table3`: one), from the records and the paper's numbers
figures: $(FIGURES)  ## every figure (`make figure1`: one)

RENDERED := $(call md,$(TABLES)) $(call drawn,$(FIGURES))

notebooks: results/report/index.html  ## execute the notebooks; the report is results/report/index.html
results/report/index.html: $(wildcard notebooks/*.ipynb notebooks/*.py scripts/maintain/report*) results/README.md | $(READY)
	@$(RUN) -m scripts.maintain.report

# the state of every artefact, what the numbers show, and the deviations
results/README.md: scripts/maintain/results_readme.py $(wildcard results/findings.md results/deviations.md) $(RENDERED)
	@$(RUN) -m scripts.maintain.results_readme

report: notebooks  ## tables, figures, results/README.md and notebooks: whatever is out of date

status: | $(RENDER)  ## what is present, missing and failed of every table and figure
	@$(RUN) -m scripts.maintain.status

# Artefacts made of the runs of others.
SWEEPS_table11 := table1
SWEEPS_table5 := table5a table5b table5c table5d
SWEEPS_table12 := table5a table5b table12c
SWEEPS_figure_gain := table3 figure1
PICK_figure_gain := task=sst2 optimizer=bszo fidelity=corrected
SWEEPS_zo-bench := zo_bench
SWEEPS_table_walk := walk
sweeps = $(or $(SWEEPS_$*),$*)

# make run-table1 PROFILE=mini|paper JOBS=2, or PROFILE=local ARGS="model=local model.path=DIR data=local data.root=DIR";
# resumes where it was stopped.
run-%: $(READY)
	@for sweep in $(sweeps); do $(RUN) -m experiments.run --multirun sweep=$$sweep sweep.profile=$(PROFILE) \
		hydra/launcher=processes hydra.launcher.n_jobs=$(JOBS) $(PICK_$*) $(ARGS) || exit; done
	@$(RUN) -m experiments.records.pack $(PROFILE)
	@$(MAKE) --no-print-directory $(or $(filter $*,$(TABLES) $(FIGURES) zo-bench),tables figures)

plan-%: $(READY)
	@$(RUN) -m experiments.plan $(sweeps) --profile $(PROFILE) --jobs $(JOBS) $(PICK_$*) $(ARGS)

# Measured in one go, or read off the configuration files: no grid of runs.
MEASURED := table2 figure_theory figure_drift
READ_OFF := table6 table7 table8 table9 table10
run-table2: $(READY)
	$(RUN) -m scripts.bench.state
	@$(MAKE) --no-print-directory table2
run-table4 run-figure2: $(READY)
ifeq ($(PROFILE),paper)
	$(RUN) -m scripts.bench.step --model opt-1.3b --dtype float32 --device cuda --out results/bench $(ARGS)
	$(RUN) -m scripts.bench.step --model mistral-7b --dtype float16 --device cuda --out results/bench $(ARGS)
	$(RUN) -m scripts.bench.step --model opt-13b --dtype bfloat16 --device cuda --out results/bench $(ARGS)
else
	$(RUN) -m scripts.bench.step --out results/bench $(ARGS)
endif
	@$(MAKE) --no-print-directory table4 figure2
run-figure_theory: $(READY)
	$(RUN) -m scripts.study.theory
	@$(MAKE) --no-print-directory figure_theory
run-figure_drift: $(READY)
	$(RUN) -m scripts.study.drift $(ARGS)
	@$(MAKE) --no-print-directory figure_drift table_walk
$(addprefix run-,$(READ_OFF)): run-%: %
	@:
$(addprefix plan-,$(MEASURED)): plan-%:
	@echo "$*: measured in one go by make run-$*, minutes to hours"
plan-table4 plan-figure2: plan-%:
	@echo "$*: PROFILE=mini measures OPT-125M's shape on this machine, some 10 minutes; PROFILE=paper the paper's three models" \
		"(random weights) on a GPU: 82.1 GB at most by Table 4 (OPT-13B, MeZO-Adam), tens of minutes"
$(addprefix plan-,$(READ_OFF)): plan-%:
	@echo "$*: read off the configuration files, nothing to run"

soak: $(READY)  ## every zeroth-order method, 2,000 steps in three precisions: flat memory, no drift (about half an hour)
	$(RUN) -m scripts.bench.soak --jobs $(JOBS)

FUZZ_SECONDS ?= 300
fuzz: $(READY)  ## coverage-guided fuzzing of the record and trajectory readers, FUZZ_SECONDS each; needs atheris (Linux)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e ".[fuzz]"
	for reader in record trajectory; do mkdir -p outputs/fuzz/$$reader && $(RUN) -m tests.fuzz.fuzz_$$reader \
		-max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -artifact_prefix=outputs/fuzz/$$reader- \
		outputs/fuzz/$$reader tests/fuzz/corpus/$$reader || exit; done

test: $(READY)  ## the whole test suite
	$(RUN) -m pytest -n 2

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
