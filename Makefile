# Two commands: `make repro` runs everything on the built-in dataset, `make test` checks everything.
# Both make their own environment in .venv; nothing else on the machine is touched.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: repro flickr8k report_a report_a_lite report_b report_b_lite image_places test check format ui clean

repro: .venv/.installed
	dvc repro
	@echo
	@echo "The comparison:      reports/scenes/comparison.html (also .md and .csv)"
	@echo "Photos and captions: reports/scenes/gallery/index.html"
	@echo "Every run in MLflow: make ui"

# make flickr8k [SOURCE=folder with the two zips]; without the zips there they are downloaded.
SOURCE ?= data/flickr8k
LARGER := -S build_vocab.min_count=5 -S training.epochs=10 -S training.photos_per_step=32 \
	-S baseline.lite2_wide.input=512 -S baseline.lite2_wide.hidden=512 -S baseline.lite2_wide.dropout=0.5 \
	-S baseline.lite2_deep.hidden=256 \
	-S attention.lite2.input=512 -S attention.lite2.hidden=512 -S attention.lite2.memory=512 \
	-S attention.lite2.dropout=0.5
flickr8k: .venv/.installed
	dvc exp run -S dataset.name=flickr8k -S dataset.source=$(SOURCE) $(LARGER)
	@echo
	@echo "The comparison: reports/flickr8k/comparison.html; photos and captions: reports/flickr8k/gallery/index.html"

# make report_a [SOURCE=...]: presets/report_a.yaml, and so on; params.yaml is changed, `git checkout` goes back.
report_a report_a_lite report_b report_b_lite image_places: .venv/.installed
	captionlab preset $@
	dvc exp run -S dataset.source=$(SOURCE)

test: .venv/.installed check
	pytest

check: .venv/.installed
	ruff check .
	ruff format --check .
	mypy src tests bench

format: .venv/.installed
	ruff check --fix .
	ruff format .

ui: .venv/.installed
	captionlab ui

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "captionlab needs Python 3.11 or newer; run: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
