# `make help` lists the targets. Data: point PDOE_DATA at a folder with the real sets, if you have one.
PYTHON ?= python3
VENV := .venv
SPHINX := build/sphinx
# `make view RUN=outputs/...` names a run; everywhere else RUN is the Python of the environment.
VIEW := $(if $(filter command line,$(origin RUN)),$(RUN),outputs)
override RUN := $(VENV)/bin/python
ROWS ?=
CIFAR_ROWS := cifar10_pdo_p6_26,cifar10_resnet_26
RECIPE ?=
SEEDS ?= 0
GROUPS ?=
DATA ?= mnist_rot
SCALE ?= full
LIMIT ?= 9m
LIST ?= experiments/cifar/campaign.csv
ONLY ?= *
OUTPUTS ?= outputs
PRECISION ?= fp32
MODE ?= eager
JOBS ?= 2
# One thread in each process: tests must not depend on the number of cores.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist worksteal
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help env lock data test test-all test-hard test-avx2 test-wheel docs lint reproduce-mnistrot reproduce-cifar campaign sweep-groups compare report demo view benchmark clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "%-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(VENV)/.made ## make .venv from requirements.lock or the pins of environment.yml (again when they change)

$(VENV)/.made: environment.yml requirements.lock pyproject.toml scripts/make_environment.py
	$(PYTHON) scripts/make_environment.py "$(VENV)"
	@touch "$@"

lock: env ## write requirements.lock again, after a change of environment.yml
	$(RUN) scripts/make_environment.py --lock

data: env ## find, download or make a data set, and say what it is: DATA=mnist_rot|cifar10|cifar100|elpv
	$(RUN) scripts/prepare_data.py "$(DATA)"

test: env ## run the tests that matter most: JOBS=2 processes
	$(PYTEST) -m "not slow and not hard"

test-all: env ## run all tests but the long fuzzers
	$(PYTEST) -m "not hard"

test-hard: env ## run the long fuzzers
	$(PYTEST) -m hard

test-avx2: env ## run the library's tests as on a processor without AVX-512
	cache=$$(mktemp -d) && ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OPENBLAS_CORETYPE=Haswell \
		TORCHINDUCTOR_CACHE_DIR="$$cache" $(PYTEST) -m "not slow and not hard" tests/library; \
		status=$$?; rm -rf "$$cache"; exit $$status

test-wheel: env ## build sdist and wheel in dist/, install the wheel, and run the layers' tests outside of the checkout
	$(RUN) scripts/check_wheel.py

docs: env $(SPHINX)/.made ## build the documentation site: build/docs/index.html
	PYTHONPATH=$(SPHINX) $(RUN) -m sphinx --fail-on-warning --keep-going --fresh-env --write-all --quiet \
		-c docs . build/docs
	@echo build/docs/index.html

# Sphinx beside the environment and not in it: no test and no run needs Sphinx.
$(SPHINX)/.made: pyproject.toml
	rm -rf $(@D)
	$(RUN) -m pip install --quiet --target $(@D) $$($(RUN) -c "import tomllib; \
		print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'])")
	@touch "$@"

lint: env ## check style
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

reproduce-mnistrot: env ## train rows of the MNIST-rot table and compare: ROWS=a,b SEEDS=0,1,2 SCALE=smoke
	$(RUN) scripts/reproduce.py mnist_rot --rows "$(or $(ROWS),mnistrot_pdo_p8)" --seeds "$(SEEDS)" --scale "$(SCALE)"

reproduce-cifar: env ## the same for CIFAR; RECIPE=cifar_short instead of the paper's 300 epochs
	$(RUN) scripts/reproduce.py cifar --rows "$(or $(ROWS),$(CIFAR_ROWS))" --seeds "$(SEEDS)" --scale "$(SCALE)" --recipe "$(RECIPE)"

campaign: env ## train a list of runs in order of value, the same command goes on: LIMIT=9m LIST=runs.csv ONLY='*p6_26' PUBLISH=1
	$(RUN) scripts/campaign.py --limit "$(LIMIT)" --list "$(LIST)" --only "$(ONLY)" --outputs "$(OUTPUTS)" \
		$(if $(PUBLISH),--publish)

sweep-groups: env ## train one MNIST-rot network with eight groups, none of more parameters than p8: GROUPS=p1,p8 SEEDS=0,1,2
	$(RUN) scripts/sweep_groups.py --seeds "$(SEEDS)" $(if $(GROUPS),--groups "$(GROUPS)")

compare: env ## compare the runs in outputs/ with the paper and with results/; PUBLISH=1 adds them to results/ and README.md
	$(RUN) scripts/compare.py mnist_rot cifar $(if $(PUBLISH),--publish --readme README.md)

report: env ## all runs, tables and figures as one page: outputs/report.html
	$(RUN) scripts/report.py

demo: env ## networks that read a digit while it turns, as one page for a browser: outputs/demo.html
	$(RUN) scripts/make_demo.py

view: env ## look at a tracked run in the terminal (wandb leet): RUN=outputs/..., by default the newest
	@newest=$$(find "$(VIEW)" -type d \( -name 'run-2*' -o -name 'offline-run-2*' \) -prune 2>/dev/null \
		| sed 's,.*run-\(2[0-9_]*\)-[^/]*$$,\1 &,' | sort | tail -n 1 | cut -d ' ' -f 2-); \
	if [ -z "$$newest" ]; then echo "no W&B run lies below $(VIEW)"; exit 1; fi; \
	$(RUN) -m wandb leet "$$newest"

benchmark: env ## time layers and networks beside ordinary ones: PRECISION=fp32,bf16, on a GPU MODE=eager,graphs (quiet machine, long)
	$(RUN) scripts/benchmark.py --precision "$(PRECISION)" --mode "$(MODE)"

clean: ## remove .venv and caches (outputs/, data/ and results/ stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -exec rm -rf {} +
