# `make demo` runs the main job from nothing to a score; `make test` runs everything that must hold.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SAMPLE := demo/photos
CACHE := demo/cache
RUN := demo/run
PHOTOS ?= $(SAMPLE)

.PHONY: demo test lint types bench clean

$(VENV)/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/maskprep sample $(SAMPLE) --people 24
	$(BIN)/maskprep run $(SAMPLE) --cache $(CACHE)
	$(BIN)/maskprep status $(CACHE)
	$(BIN)/maskprep sheet $(CACHE)
	$(BIN)/masktrain fit $(CACHE) --model tf_efficientnet_lite0 --epochs 3 --out $(RUN)
	$(BIN)/masktrain evaluate $(RUN) $(CACHE) --answers $(SAMPLE)/eval_answers.csv
	$(BIN)/masktrain predict $(RUN) $(SAMPLE)/eval/images --out demo/predictions.csv
	@echo
	@echo "tables         $(CACHE)/*.parquet, $(CACHE)/stats.json"
	@echo "contact sheet  $(CACHE)/sheet-face.png"
	@echo "run            $(RUN)/ (config.yaml, metrics.jsonl, best.safetensors)"
	@echo "predictions    demo/predictions.csv"

test: lint types
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

# PHOTOS is any folder of labelled photos; faces.py and audit.py need to know what is true, recipes.py takes hours
bench: $(VENV)/installed
	test -d $(PHOTOS) || $(BIN)/maskprep sample $(PHOTOS)
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/crop.py $(PHOTOS)
	$(BIN)/python benchmarks/memory.py $(PHOTOS)
	$(BIN)/maskprep run $(PHOTOS) --cache demo/bench-cache
	$(BIN)/python benchmarks/gather.py demo/bench-cache
	$(BIN)/python benchmarks/duplicates.py demo/bench-cache
	$(BIN)/python benchmarks/mattes.py $(PHOTOS)
	$(BIN)/python benchmarks/training.py demo/bench-cache
	test -d demo/bench-run || $(BIN)/masktrain fit demo/bench-cache --epochs 1 --out demo/bench-run
	$(BIN)/python benchmarks/predict.py demo/bench-run demo/bench-cache --photos $(PHOTOS)

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
