# `make bench` compares, `make test` checks. Both make their own virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: bench test conformance docs soak reference clean

bench: $(VENV)/.installed
	$(BIN)/python run_bench.py

test: $(VENV)/.installed-test
	$(BIN)/python tests/browsers.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto

# Writes the table of how far the weights are from those of other implementations.
conformance: $(VENV)/.installed-test
	$(BIN)/pytest tests/test_traces.py -k same_weights --conformance docs/methods/conformance.md

# Damages records ten thousand times and shows them to everything that reads records. About ten minutes.
FAULTS ?= 10000
soak: $(VENV)/.installed-test
	$(BIN)/pytest tests/test_damage.py --faults $(FAULTS) --timeout 0

# Pages of the package weighting and of its modules, as HTML in docs/api.
MODULES := $(subst /,.,$(basename $(filter-out %/__init__.py,$(wildcard weighting/*.py weighting/testing/*.py))) weighting.testing)
docs: $(VENV)/.installed-test
	$(BIN)/pdoc weighting $(MODULES) --template-directory docs/template --output-directory docs/api

# Makes the committed reference again: every number and picture of the README and of results/reference. About two hours.
reference: $(VENV)/.installed-test
	rm -rf results/reference plots/reference
	set -e; for suite in quick full coba_ablation val_feedback fair aa; do \
		$(BIN)/python run_bench.py $$suite --out results/reference --plots plots/reference; done
	set -e; for paper in famo gradnorm coba; do \
		$(BIN)/python run_bench.py reproduce $$paper --out results/reference; done
	$(BIN)/python run_bench.py calibrate aa --out results/reference
	$(BIN)/python run_bench.py overhead --out results/reference
	$(BIN)/python run_bench.py check --record --against results/reference
	$(BIN)/python run_bench.py check --repetitions 20 --against results/reference
	PYTHONPATH=. $(BIN)/python tests/planted_regressions.py

# torch goes in the same command as what depends on it, so that nothing else can choose its version.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-test: requirements-test.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
