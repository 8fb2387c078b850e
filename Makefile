# `make demo` and `make test` set up all they need on a fresh machine.
#   make demo PYTHON=python3.12    another interpreter
#   make demo EXTRA=gpu            faiss-gpu instead of faiss-cpu
# `make demo-grid` trains 123 small models, an hour on two cores:
#   make demo-grid JOBS=16            16 at a time, one core each, instead of 2
#   make demo-grid SEEDS=0 KEEPS=0.1  21 of them, a quarter of an hour; METHODS='random nearest' chooses, too
# `make demo-study` runs a study of the digits by Snakemake, 15 minutes on two cores, to examples/study/digits/report.
PYTHON ?= $(shell for python in python3 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null \
	&& echo $$python && break; done)
VENV ?= .venv
EXTRA ?= cpu
BIN := $(VENV)/bin
RUN_INSTALLED := PATH="$(abspath $(BIN)):$$PATH"

.PHONY: demo demo-grid demo-study test lint man clean

demo: $(VENV)/.installed
	$(RUN_INSTALLED) examples/quickstart.sh demo

demo-grid: $(VENV)/.installed
	$(RUN_INSTALLED) examples/study/digits.sh study

demo-study: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA),study]'
	cd examples/study && $(RUN_INSTALLED) snakemake --configfile digits.yaml --cores $(or $(JOBS),2) report

# One thread a process, since the tests themselves run in parallel; one process a file, since some share a long setup.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

man: $(VENV)/.installed
	$(BIN)/python man/build.py

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo 'dprune needs Python 3.11 or 3.12: make PYTHON=/path/to/it' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group $*
	touch $@

clean:
	rm -rf $(VENV) demo study .mypy_cache .pytest_cache .ruff_cache
