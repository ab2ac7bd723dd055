# Every target sets up the virtual environment it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* src/*)

.PHONY: demo test lint types bench device sanitize fuzz clean

demo: $(VENV)/.demo
	$(BIN)/synbench-fast demo --out synbench-demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST)

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

# The C++ core under address, undefined behaviour and thread sanitizers; needs GCC.
sanitize: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "cmake>=3.24" "pybind11>=2.13"
	CI=1 $(BIN)/python tests/sanitize.py

# Coverage-guided fuzzing of the readers (atheris) and of the core (libFuzzer, where there is a clang++).
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "atheris>=3"
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

clean:
	rm -rf build $(VENV) synbench-demo
