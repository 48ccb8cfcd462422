# make demo | stop | test | lint | docs | reference | install | clean. Everything is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
EXTRAS ?= [dev]

# Container images often set it. Then Python keeps no compiled code, and each of Ray's processes compiles torch and Ray again, which
# takes 10 s of CPU time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo stop test lint docs reference install clean
.DEFAULT_GOAL := demo

demo: install
	@.venv/bin/rayrec run configs/demo.yaml

stop:
	@.venv/bin/rayrec stop configs/demo.yaml

# Two processes share the files of tests, in the order of tests/conftest.py.
test: install
	@.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=10

lint: install
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/typos

# After a change of rayrec/config/.
reference: install
	.venv/bin/python docs/make_reference.py

# The pages are written to site/; open site/index.html.
docs: install
	@NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

install: .venv/installed

# uv is taken from the PATH or installed into .venv. If it can't be installed, or reaches no package index, pip does the same more slowly.
PACKAGES = --quiet --constraint constraints.txt --editable '.$(EXTRAS)'

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'rayrec needs Python 3.11 or newer; name it like this: make demo PYTHON=python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'this Python has no venv; install it: sudo apt install python3-venv'; exit 1; }
	@echo '1/3 Making .venv'
	@$(PYTHON) -m venv .venv
	@echo '2/3 Looking for uv'
	@uv --version >/dev/null 2>&1 || .venv/bin/python -m pip install --quiet uv || true
	@echo '3/3 Downloading and installing 6.5 GB of packages; the first time, this takes a few minutes'
	@PATH="$$PATH:$(CURDIR)/.venv/bin"; \
	  uv pip install --python .venv/bin/python $(PACKAGES) \
	  || { echo 'uv could not install the packages; trying pip'; .venv/bin/python -m pip install $(PACKAGES); }
	@touch $@
	@echo 'rayrec is installed. To use it in this shell, now run: . .venv/bin/activate'

clean:
	@if [ -x .venv/bin/rayrec ]; then .venv/bin/rayrec stop configs/demo.yaml; fi
	rm -rf .venv workspace/demo build site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
