# make demo and make test start from nothing but Python, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-faults lint format bench gain docs fuzz index wiring verify clean

demo: $(VENV)/.light  ## Recommend with the light core; then install what training needs, carry weights over and train.
	$(BIN)/kzoo recommend timm:resnet26d --exclude-same
	$(BIN)/kzoo compare timm:resnet50d timm:resnet26d
	$(MAKE) --no-print-directory $(VENV)/.training
	PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/demo.sh

test: $(VENV)/.full  ## Install everything that tests need and run the whole suite.
	$(BIN)/python -m pytest

test-faults: $(VENV)/.full  ## Every fault at every request to the Hub, one at a time, and those that take long to try: some minutes.
	$(BIN)/python -m pytest -m faults

lint: $(VENV)/.full  ## Style, types, and whether the index fits registry and code.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/kzoo index --check

format: $(VENV)/.full
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench  ## Measure; writes benchmarks/results.
	$(BIN)/python -m benchmarks.pairs
	$(BIN)/python -m benchmarks.search
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.headers
	$(BIN)/python -m benchmarks.tasks
	$(BIN)/python -m benchmarks.surgery
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.fusing
	$(BIN)/python -m benchmarks.amalgamating

gain: $(VENV)/.bench  ## Does a good start help? At most an hour on two cores; resumes where it was stopped. Writes benchmarks/results.
	$(BIN)/python -m benchmarks.gain
	$(BIN)/python -m benchmarks.gain_tables

docs: $(VENV)/.full  ## Write docs/commands.md from the commands' help, the verdicts of claims, and the README's picture.
	$(BIN)/python -m docs.commands
	$(BIN)/python -m docs.verdicts
	$(BIN)/kzoo compare timm:resnet18 timm:resnet26d --plot docs/matching.svg

fuzz: $(VENV)/.full  ## 100,000 hostile inputs, half a minute; writes benchmarks/results/fuzz.json.
	$(BIN)/python -m benchmarks.fuzz

index: $(VENV)/.full  ## Compile the registry into the index, about two minutes.
	$(BIN)/kzoo index

wiring: $(VENV)/.full  ## Write every dvc.yaml from the studies' stages and the imports of their modules.
	$(BIN)/python -m kzoo.studies.wiring

verify: $(VENV)/.full  ## Slow checks: whole rankings, every head, a byte-identical rebuild. Writes benchmarks/results.
	$(BIN)/python -m pytest -m slow -s

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("kzoo needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.light: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/.training: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo; echo "Next, torch and what else training needs are installed: about 5 GB, some minutes."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[training]'
	touch $@ $(VENV)/.light

$(VENV)/.full: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torch,test]'
	touch $@ $(VENV)/.light $(VENV)/.training

$(VENV)/.bench: $(VENV)/.full
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	touch $@
