# Everything that a reader does with this repository. `make help` lists it.
PROFILE ?= cpu
PYTHON  ?= python3
ARGS    ?=
DRY_RUN ?=
RESULTS ?= results/$(PROFILE)
VENV    := .venv
RUN     := $(VENV)/bin/python
export TOKENIZERS_PARALLELISM := false
# Threads that spin while they wait make a second job on the machine several times slower.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help setup plan reproduce reproduce-full best-of-n status test test-slow lint figures report readme notebooks push dashboard bench faults clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'
	@echo "  PROFILE=smoke|cpu|paper (default cpu); ARGS='seeds=[0] …' is passed on"

setup: $(VENV)/.ready ## create .venv and install the pinned requirements

$(VENV)/.ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.txt requirements-extras.txt requirements-peers.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -r requirements-extras.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-peers.txt
	touch $@

plan: $(VENV)/.ready ## print the runs, FLOPs, hours, memory and disk of a reproduction; start nothing
	$(RUN) -m scripts.plan profile=$(PROFILE) $(ARGS)

DRY := $(filter-out 0 false,$(DRY_RUN))
PIPELINE := $(RUN) -m scripts.$(if $(DRY),dry_run,reproduce)

reproduce: $(VENV)/.ready ## train, score, draw: Table 1 and figures in results/local/$PROFILE; DRY_RUN=1 only checks
	$(PIPELINE) profile=$(PROFILE) $(ARGS)

# The stages of PROFILE=smoke are the same, on tiny data and models.
EXPERIMENT = experiment=$(1) matrix=$(1) runs_dir=runs/$(PROFILE)_$(1) results_dir=results/local/$(PROFILE)_$(1)
TINY := $(if $(filter smoke,$(PROFILE)),data=generated_v2_tiny training.compute_dtype=float32)

reproduce-full: $(VENV)/.ready ## run the confirmatory experiment and its replication on a second backbone: many hours
ifeq ($(PROFILE),paper)
	$(error reproduce-full works with PROFILE=cpu and PROFILE=smoke; for the paper's cells use make reproduce PROFILE=paper ARGS=experiment=…)
endif
	$(PIPELINE) profile=$(PROFILE) $(TINY) $(ARGS) $(call EXPERIMENT,confirmatory)
	$(PIPELINE) profile=$(PROFILE) $(TINY) $(if $(TINY),model=tiny-gemma) $(ARGS) $(call EXPERIMENT,replication)

best-of-n: $(VENV)/.ready ## run Best-of-N alone: candidates, gold, picks, Figure 5 (part of reproduce)
	$(RUN) -m scripts.best_of_n profile=$(PROFILE) $(ARGS)

status: $(VENV)/.ready ## list which runs are done, out of date, unfinished or missing (ARGS='experiment=… matrix=…')
	$(RUN) -m scripts.status profile=$(PROFILE) $(ARGS)

figures: $(VENV)/.ready ## redraw the tables and figures of RESULTS (default results/$PROFILE, the committed ones), no training
	$(RUN) -m scripts.figures profile=$(PROFILE) results_dir=$(RESULTS) $(ARGS)

push: $(VENV)/.ready ## share a model: ARGS='run_dir=runs/mine repo=OWNER/NAME' (dry_run=false uploads)
	$(RUN) -m scripts.push $(ARGS)

dashboard: $(VENV)/.ready ## describe a wandb workspace and report for PROJECT=OWNER/NAME (ARGS=dry_run=false makes them)
	$(RUN) -m scripts.dashboard project=$(PROJECT) $(ARGS)

report: $(VENV)/.ready ## build report.html in RESULTS (default results/$PROFILE)
	$(RUN) -m scripts.report profile=$(PROFILE) results_dir=$(RESULTS) $(ARGS)

notebooks: $(VENV)/.ready-dev ## run the notebooks on the committed results and keep their outputs
	$(RUN) -m tests.notebooks.run

readme: $(VENV)/.ready ## write README's table and figure of answers from the committed results
	$(RUN) -m scripts.readme

lint: $(VENV)/.ready-dev ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

PYTEST := $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadscope

test: lint ## lint, types, and the quick tests: mathematics, protocols, one whole smoke run, docs
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: $(VENV)/.ready-dev ## the slow tests: whole pipelines, ranks, kills, fuzz, notebooks
	$(PYTEST) -m slow $(ARGS)

bench: $(VENV)/.ready-dev ## measure speed; results/benchmarks/*.csv
	for file in benchmarks/[a-z]*.py; do $(RUN) -m benchmarks.$$(basename $$file .py) || exit 1; done

faults: $(VENV)/.ready-dev ## inject faults (kills, full disk, damaged files, lost ranks); results/benchmarks/faults.csv
	$(RUN) -m tests.faults.harness $(ARGS)

clean: ## remove runs/ and caches (not results/, not .venv)
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache
