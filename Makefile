# Two commands for a fresh machine: `make demo` and `make test`. Everything else is for development.
PYTHON ?= python3
BIN := .venv/bin
# Byte code is left to the first import: most of what is installed never is.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
SETUP := pyproject.toml constraints.txt

.PHONY: demo test oracle mutants lint docs docs-tables dist clean

demo: .venv/demo.stamp
	$(BIN)/nanogen demo

test: .venv/test.stamp lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

oracle: .venv-oracle/oracle.stamp
	.venv-oracle/bin/pytest -m oracle tests/oracle

# Faults put into a copy of the tree must be noticed: all of them, SAMPLE=10 of them, or TOGETHER=1 at once.
mutants: .venv/test.stamp
	$(BIN)/python tests/mutants/mutants.py $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(TOGETHER),--together)

lint: .venv/test.stamp
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The documentation as a site; open public-docs/index.html.
docs: .venv/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The tables of README.md and docs/, from records/.
docs-tables: .venv/test.stamp
	$(BIN)/python tools/docs_tables.py

# Wheel and sdist in dist/, with the same bytes for the same commit.
dist: .venv/test.stamp
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation

clean:
	rm -rf .venv .venv-oracle outputs build dist public-docs

.venv/bin/python .venv-oracle/bin/python:
	$(PYTHON) -m venv $(@D)/..

.venv/demo.stamp: $(SETUP) | .venv/bin/python
	@echo "Installing torch and what it needs into .venv, once: one to five minutes, by the network"
	$(BIN)/python $(subst --quiet,,$(INSTALL)) -e '.[demo]' && touch $@

.venv/test.stamp: $(SETUP) | .venv/bin/python
	$(BIN)/python $(INSTALL) -e '.[demo,data,judges,vae,dev]' && touch $@

.venv/docs.stamp: $(SETUP) | .venv/bin/python
	$(BIN)/python $(INSTALL) -e '.[docs]' && touch $@

.venv-oracle/oracle.stamp: $(SETUP) | .venv-oracle/bin/python
	.venv-oracle/bin/python $(INSTALL) -e '.[oracle]' && touch $@
