# make run      makes the embedded data set, fine-tunes the teaching checkpoint on it, prints AP and the report's path
# make run DATA=folder [RECIPE=n_custom] [epochs=3 image_size=320 nproc=2]      the same on a COCO-style folder
# make test     the whole suite, lessons included        make site     guides, lessons and reference as web pages, in site/
# make bench    speed compared with other implementations (AUTHORS=folder of the authors' code); fills docs/speed.md
# make lint     style                                    make clean    caches and build leftovers
#
# The first call makes .venv/ from pyproject.toml, later ones find it (environment.py says how, and what to do about
# an active environment, a CPU build of torch, another Python).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run test bench site lint clean

PYTHON3 ?= python3
# Waiting threads spin for a moment, then sleep: long spinning slows a machine that has other work, none a free one.
export GOMP_SPINCOUNT ?= 2000
# The kernel of the environment in use goes before one of the same name in the home folder.
export JUPYTER_PREFER_ENV_PATH ?= 1
# An environment that is used as it was found need not have this project installed.
export PYTHONPATH := $(CURDIR):$(CURDIR)/notebooks$(if $(PYTHONPATH),:$(PYTHONPATH))

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

# ---- run: data set, training notebook, what came out -----------------------------------------------------------------

# What was typed behind `make run`, as nproc=2: else make would take it for a variable of its own and pass over it.
typed = $(if $(filter command,$(origin $(1))),$($(1)))
DATA ?= $(or $(call typed,data),digits)
RECIPE ?= $(or $(call typed,recipe),$(if $(filter shapes,$(DATA)),pico,$(if $(filter digits,$(DATA)),pico_digits,pico_custom)))
# Parameters of the notebook, written name=value; a dotted name, as train.lr=1e-3, is a field of the recipe.
ARGS ?=
names = epochs image_size batch_size seed device nproc max_restarts resume out
args = $(ARGS) $(foreach name,$(names),$(if $(call typed,$(name)),$(name)=$(call typed,$(name))))
dotted = $(strip $(foreach pair,$(args),$(if $(findstring .,$(firstword $(subst =, ,$(pair)))),$(pair))))

embedded := $(filter digits shapes,$(DATA))
folder := $(if $(embedded),data/$(embedded),$(patsubst %/,%,$(DATA)))
set_name = $(shell basename "$(folder)" .json)
run_name = $(if $(findstring $(set_name),$(RECIPE)),$(RECIPE),$(RECIPE)_$(set_name))
OUT ?= $(or $(patsubst out=%,%,$(filter out=%,$(args))),runs/$(run_name))
# Recipes that go on from the teaching checkpoint are named pico_...
WEIGHTS ?= $(or $(call typed,weights),$(if $(filter pico_%,$(RECIPE)),notebooks/assets/dfine_pico_shapes.safetensors))
parameters = -p recipe "$(RECIPE)" -p data "$(folder)" -p out "$(OUT)" -p weights "$(WEIGHTS)" \
	$(if $(dotted),-p settings "$(dotted)") \
	$(foreach pair,$(filter-out out=% $(dotted),$(args)),-p $(subst =, ,$(pair)))

# The notebook's stderr holds the progress of the training.
run:
	@set -euo pipefail; \
	python=$$("$(PYTHON3)" environment.py notebooks); \
	$(if $(embedded),"$$python" -m data_tools.$(embedded) "$(folder)";) \
	mkdir -p "$(OUT)"; \
	trap 'echo "make run: stopped; the same command goes on from the last saved state" >&2; exit 130' INT; \
	"$$python" notebooks/execute.py notebooks/experiments/train.ipynb "$(OUT)/train.ipynb" --cwd . --kernel python3 \
		--stderr-file >(cat >&2) $(parameters) || \
		{ echo "make run: failed as said above; the notebook as far as it came: $(OUT)/train.ipynb" >&2; exit 1; }; \
	"$$python" -m dfine_tools.cli result "$(OUT)"

# What the whole suite needs.
everything = notebooks,deploy,video,serve,shards,tensorrt-rtx,docs,dev

# ---- test ------------------------------------------------------------------------------------------------------------

# One thread a process and two processes beat the reverse on tests this small. A process that dies ends the run, which
# would wait for it for ever otherwise (pytest-xdist 3.8 with loadfile).
test:
	@set -euo pipefail; \
	python=$$("$(PYTHON3)" environment.py $(everything)); \
	export OMP_NUM_THREADS=1; \
	"$$python" -m pytest tests -p no:nbval -m "not slow and not gpu" -n 2 --dist loadfile --max-worker-restart 0 $(ARGS); \
	"$$python" -m pytest --nbval-lax $(lessons) -n 2 --dist loadfile --max-worker-restart 0

lessons = notebooks/00_start_here.ipynb notebooks/lessons notebooks/solutions

# ---- bench: needs a machine with nothing else to do --------------------------------------------------------------------

AUTHORS ?=
questions = $(filter-out ratio table peers data_sets __init__,$(patsubst benchmarks/%.py,%,$(sort $(wildcard benchmarks/*.py))))

bench:
	@set -euo pipefail; \
	python=$$("$(PYTHON3)" environment.py $(everything)); \
	for question in $(questions); do \
		echo "--- $$question"; \
		AUTHORS="$(abspath $(AUTHORS))" "$$python" -m benchmarks.$$question $(ARGS); \
	done; \
	"$$python" -m benchmarks.table write

# ---- site ------------------------------------------------------------------------------------------------------------

# A warning ends it: a link that leads nowhere, a formula that is not converted, a docstring that is not read as it is meant.
site:
	@set -euo pipefail; \
	python=$$("$(PYTHON3)" environment.py notebooks,docs); \
	"$$python" -m sphinx -W --keep-going -q -j auto -d build/site -c docs . site; \
	echo "site/index.html"

# ---- habits ----------------------------------------------------------------------------------------------------------

lint:
	@set -euo pipefail; \
	python=$$("$(PYTHON3)" environment.py $(everything)); \
	"$$python" -m ruff check .; \
	"$$python" -m ruff format --check .

# Leaves data/, runs/ and .venv/ alone.
clean:
	rm -rf build dist site docs/api *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +
