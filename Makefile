# `make repro` runs everything on the built-in dataset, `make test` and `make test-slow` check everything.
# Each makes its own environment in .venv; nothing else on the machine is touched.

PYTHON ?= python3
BIN := .venv/bin
# The make 3.81 of macOS looks for commands in the exported PATH only with another shell than /bin/sh.
SHELL := /bin/bash
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

PRESETS := flickr8k hour captioner trained_blocks clip guests image_places report_a report_a_lite report_b report_b_lite

.PHONY: install repro differences $(PRESETS) test pytest test-slow torture queue check format ui bench bench-keras gpu clean

install: .venv/.installed

repro: NAME = $(shell sed -n '/^dataset:/,/^[a-z]*:$$/s/^  name: *\([^ ]*\).*/\1/p' params.yaml)
repro: .venv/.installed
	dvc repro
	@echo
	@echo "The comparison:      reports/$(NAME)/comparison.html (also .md and .csv)"
	@echo "Photos and captions: reports/$(NAME)/gallery/index.html"
	@echo "Every run in MLflow: make ui"
	@$(MAKE) --no-print-directory differences

# A line where the results in git were computed on another kind of processor, or models of another preset are left over.
differences:
	@git diff --quiet -- dvc.lock reports || \
		echo 'dvc.lock or reports differ from those in git. See how: dvc metrics diff. Go back: git restore dvc.lock reports'

# make flickr8k [SOURCE=folder with the two zips]: presets/flickr8k.yaml, and so on, each to a report of its own. Without
# the zips there they are downloaded. params.yaml is changed; `git restore params.yaml` goes back.
SOURCE ?= data/flickr8k
$(PRESETS): REPORT = reports/$(if $(filter flickr8k,$@),$@,flickr8k_$@)
$(PRESETS): .venv/.installed
	captionlab preset $@
	dvc exp run -S dataset.source=$(SOURCE)
	@echo
	@echo "The comparison: $(REPORT)/comparison.html; photos and captions: $(REPORT)/gallery/index.html"

# make test [PROCESSES=3]: the checks beside the tests, without the slow ones. Those of a file stay in one process and in
# their order.
PROCESSES ?= 3
test: .venv/.installed
	@$(MAKE) --no-print-directory --jobs 2 check pytest

pytest:
	pytest -m "not slow and not docs" --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder

# make torture [MINUTES=15 of bad data]: kills, damaged and malicious files, full disks, no MLflow, many clients;
# renders reports/reliability.md. One to three hours, and root for the full disks.
MINUTES ?= 15
torture: .venv/.installed
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m torture --minutes $(MINUTES)

# The slow tests, then the how-to pages and the notebook, followed step by step in copies of the project.
test-slow: .venv/.installed
	pytest -m slow --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder
	pytest -m docs --numprocesses 2 --dist loadgroup

check: .venv/.installed
	ruff check .
	ruff format --check .
	mypy src tests bench

format: .venv/.installed
	ruff check --fix .
	ruff format .

ui: .venv/.installed
	captionlab ui

# make queue [JOBS=2]: starts DVC's queued experiments, JOBS at once, each with its share of the cores.
JOBS ?= 2
queue: .venv/.installed
	cores=$$(getconf _NPROCESSORS_ONLN); \
	OMP_NUM_THREADS=$$(( cores > $(JOBS) ? cores / $(JOBS) : 1 )) dvc queue start -j $(JOBS)

# Speeds beside another library's or the machine's limit, to reports/benchmarks.md: a quarter of an hour on a quiet
# machine where `make repro` has run. BENCH=--smoke only tries whether all runs.
BENCH ?=
bench: .venv/.installed
	for part in extraction training shared decoding startup export growth stages; do python bench/$$part.py $(BENCH) || exit 1; done

# make gpu [SOURCE=folder with Flickr8k's zips]: the tests that need an NVIDIA GPU, then its speeds, to reports/gpu.md;
# six minutes. Speeds are measured even if a test fails. Without .venv it runs with $(PYTHON), if that has PyTorch and
# pytest: bench/gpu.py says what else is needed. (presets/gpu.yaml is something else: captionlab preset gpu.)
gpu:
	@test ! -e .venv && $(PYTHON) -c 'import torch, pytest' 2> /dev/null || $(MAKE) --no-print-directory install
	@export PYTHONPATH=src:$$PYTHONPATH; python=$(PYTHON); test ! -e $(BIN)/python || python=$(BIN)/python; \
	$$python -m pytest -m cuda -rs tests/*/test_*_on_gpu.py; tests=$$?; \
	$$python bench/gpu.py $(if $(wildcard $(SOURCE)/Flickr8k_Dataset.zip),--source $(SOURCE)) && exit $$tests

# Keras in an environment of its own, for the comparison in bench/training.py.
bench-keras: .venv-keras/.installed

.venv-keras/.installed: bench/keras-requirements.txt
	$(PYTHON) -m venv .venv-keras
	.venv-keras/bin/python -m pip install --quiet --requirement $<
	@touch $@

clean:
	rm -rf .venv .venv-keras .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The environment of a copied or moved project names the former folder: it is made again.
MOVED := $(filter-out $(CURDIR),$(shell cat .venv/.installed 2>/dev/null))
ifneq ($(MOVED),)
.PHONY: .venv/.installed
endif

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "captionlab needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(if $(MOVED),--clear) .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@echo '$(CURDIR)' > $@
