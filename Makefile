# make demo, make test: each sets itself up. An activated virtual environment is used as it is; otherwise .venv is made here.
# Other settings: PYTHON=python3.12  VENV=path  TORCH_INDEX=https://download.pytorch.org/whl/cpu  ARGS="train.max_minutes=20"
PYTHON ?= python3
VENV ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
PY := $(VENV)/bin/python
STAMP := $(VENV)/.rewarm-installed
PIP := $(PY) -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^\(torch==.*\)/\1/p' constraints.txt)
TORCH_INDEX ?=
ARGS ?=
PYTEST_ARGS ?= -q -n 2 --dist worksteal

.PHONY: help setup demo test lint format types bench docs check-docs build clean

help:
	@echo "make demo   set up, then run the whole way on the embedded default (ARGS=\"train.max_minutes=20\" for a longer one)"
	@echo "make test   set up, then run the tests"
	@echo "make lint | types | docs | bench | build | clean"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "rewarm needs Python 3.11 or newer; this is %d.%d: make PYTHON=python3.11 ..." % v[:2])'
	@test -x $(PY) || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@if $(PY) -c 'import torch' 2>/dev/null; then \
		echo "keeping the torch that is installed: $$($(PY) -c 'import torch; print(torch.__version__)')"; \
		if [ -f $(VENV)/.rewarm-made ]; then echo "installing rewarm"; $(PIP) install -q -c constraints.txt -e '.[dev]'; \
		else echo "installing rewarm and what it lacks"; $(PIP) install -q -e '.[dev]'; fi; \
	else \
		echo "installing $(TORCH) (a minute or two)"; \
		$(PIP) install -q $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH) && touch $(VENV)/.rewarm-made && \
		echo "installing rewarm" && $(PIP) install -q -c constraints.txt -e '.[dev]'; \
	fi
	@touch $@

demo: $(STAMP)
	@$(VENV)/bin/rewarm demo $(ARGS)

test: $(STAMP)
	$(PY) -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP)
	$(PY) -m mypy

bench: $(STAMP)
	$(PY) benchmarks/startup.py
	$(PY) benchmarks/threads.py

docs: $(STAMP)
	$(PY) -m rewarm.reference docs/reference.md
	$(PY) benchmarks/render.py

check-docs: $(STAMP)
	$(PY) -m rewarm.reference docs/reference.md --check
	$(PY) benchmarks/render.py --check

build: $(STAMP)
	$(PIP) install -q build
	$(PY) -m build

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "runs/ and the download cache are kept"
