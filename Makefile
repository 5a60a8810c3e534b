# `make demo` runs the main job from nothing to a score; `make test` runs everything that must hold.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SAMPLE := demo/photos
CACHE := demo/cache
RUN := demo/run
PHOTOS ?= $(SAMPLE)

.PHONY: demo lock test lint types docs bench clean

$(VENV)/installed: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The newest versions that pyproject.toml allows. torch and torchvision go together and are raised by hand; what a build of theirs for
# CUDA brings is left to them. OpenCV's packages share one folder: all get the version of opencv-python.
LOCK := .venv-lock
lock:
	rm -rf $(LOCK) && $(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --disable-pip-version-check --editable '.[dev]' $$(grep -E '^torch(vision)?==' requirements.lock)
	opencv=$$($(LOCK)/bin/python -c "import importlib.metadata as m; print(m.version('opencv-python'))"); \
	$(LOCK)/bin/python -m pip install --disable-pip-version-check --force-reinstall --no-deps \
		opencv-python==$$opencv opencv-contrib-python==$$opencv opencv-python-headless==$$opencv
	{ sed -n '/^#/p' requirements.lock; $(LOCK)/bin/python -m pip freeze --exclude-editable \
		| grep -vE '^(nvidia|cuda|triton)' | sed 's/+[a-z0-9]*$$//'; } > $(LOCK)/new
	mv $(LOCK)/new requirements.lock && rm -rf $(LOCK)

# Masks drawn on 60 generated portraits; without a network on the built-in one.
demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/maskprep sample $(SAMPLE) --portraits auto --people 60 --eval-people 0
	$(BIN)/maskprep crop $(SAMPLE) --cache $(CACHE) --size 128x128
	$(BIN)/maskprep sheet $(CACHE)
	$(BIN)/maskprep faces $(CACHE)
	$(BIN)/maskprep audit $(CACHE) --top 5
	$(BIN)/masktrain fit $(CACHE) --folds all --photos 1 --epochs 8 --out $(RUN)
	@echo
	@echo "Look at"
	@echo "  $(CACHE)/sheet-face.png      the crops, by class"
	@echo "  $(CACHE)/faces.png           which face was chosen, where it was not clear"
	@echo "  $(CACHE)/audit/report.html   what may be wrong in the photos"

test: lint types
	$(BIN)/python -m pytest -n auto --dist loadfile --max-worker-restart 0

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

docs: $(VENV)/installed
	$(BIN)/python docs/build_site.py

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
	rm -rf $(VENV) $(LOCK) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
