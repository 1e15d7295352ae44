# On a fresh machine with python3 (3.11 or later), venv and make:
#   make demo   pretrain, fine-tune and evaluate on the built-in simulator
#   make test   run the test suite, WORKERS=2 files at a time
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

# Waiting threads spin for some 50 us, then sleep. Spinning longer slows training many times over
# beside other programs; sleeping at once costs a third of the speed on an idle machine.
demo: export GOMP_SPINCOUNT = 10000
demo: $(VENV)/demo.installed
	$(RUN) pretrain/run.py
	$(RUN) finetune/rt1.py
	$(RUN) eval/world_model.py --checkpoint runs/rt1
	$(RUN) eval/simpler.py --task pick_coke_can --checkpoint runs/rt1

test: $(VENV)/test.installed
	$(RUN) -m pytest --numprocesses $(WORKERS) --dist loadfile

lint: $(VENV)/dev.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.installed: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/test.installed: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/dev.installed: pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[test,dev]'
	touch $@

clean:
	rm -rf $(VENV)
