# Every target sets up the virtual environment it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* src/*)

.PHONY: demo test lint types bench device clean

demo: $(VENV)/.demo
	$(BIN)/synbench-fast demo --out synbench-demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST)

.PHONY: docs
docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.demo
	$(BIN)/synbench-fast bench

# GPU tests and benchmarks with the packages that PYTHON already has, no network.
device:
	$(PYTHON) benchmarks/device.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf build $(VENV) synbench-demo
