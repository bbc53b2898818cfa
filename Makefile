# Two commands do everything on a fresh machine with Python >= 3.10 and a C++ compiler:
#   make demo    install into .venv and train a network on handwritten digits
#   make test    install what the tests need and run them
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SETUP := pyproject.toml setup.py constraints.txt $(wildcard csrc/*)

.PHONY: demo test check docs sanitize sanitize-cpu sanitize-emulated clean

demo: $(VENV)/.demo
	$(BIN)/python -m torchlayer demo

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

check: $(VENV)/.all
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: $(VENV)/.all
	$(BIN)/python -m sphinx -q -n -W -b html docs docs/_build/html

# On a machine with a GPU and the CUDA toolkit.
sanitize: $(VENV)/.test
	$(BIN)/python tests/sanitize_cuda.py

# Anywhere: the address and undefined-behaviour sanitizers; minutes, most of them compiling.
sanitize-cpu: $(VENV)/.test
	$(BIN)/python tests/sanitize_cpu.py

# On x86-64: the same for the CUDA kernels, without a GPU.
sanitize-emulated: $(VENV)/.test
	$(BIN)/python tests/emulate_cuda.py

# A stamp a set of extras; the constraints make the environment the same everywhere.
$(VENV)/.demo: EXTRAS = vis
$(VENV)/.test: EXTRAS = test
$(VENV)/.all: EXTRAS = test,docs,dev
$(VENV)/.demo $(VENV)/.test $(VENV)/.all: $(SETUP) | $(BIN)/python
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e ".[$(EXTRAS)]"
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "torchlayer needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist out docs/_build *.egg-info torchlayer/*.so
