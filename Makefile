# make demo | stop | test | lint | install | clean. Everything is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
EXTRAS ?= [dev]

# Containers tend to forbid it; then each of Ray's processes compiles torch and Ray anew, 10 s of CPU time each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo stop test lint install clean
.DEFAULT_GOAL := demo

demo: install
	@.venv/bin/rayrec run configs/demo.yaml

stop:
	@.venv/bin/rayrec stop configs/demo.yaml

test: install
	@.venv/bin/python -m pytest

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

install: .venv/installed

# uv is taken from the PATH or fetched into .venv. Where it can't be had or does not reach a package index, pip does the same, slower.
PACKAGES = --quiet --constraint constraints.txt --editable '.$(EXTRAS)'

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'rayrec needs Python 3.11 or newer; say where it is, as in: make demo PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'this Python lacks venv; install it: sudo apt install python3-venv'; exit 1; }
	@echo 'installing into .venv; this takes a few minutes the first time'
	@$(PYTHON) -m venv .venv
	@uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install --quiet uv || true
	@PATH="$$PATH:$(CURDIR)/.venv/bin"; \
	  uv pip install --python .venv/bin/python $(PACKAGES) \
	  || { echo 'uv did not do it; pip tries the same'; .venv/bin/python -m pip install $(PACKAGES); }
	@touch $@

clean:
	@if [ -x .venv/bin/rayrec ]; then .venv/bin/rayrec stop configs/demo.yaml; fi
	rm -rf .venv workspace/demo build rayrec.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
