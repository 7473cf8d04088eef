# Every target sets up what it needs, also from a fresh clone: a virtual environment with the versions of
# constraints.txt, and for the browser tests a Chromium (installed only when absent, as root, on Debian).

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt
# Wheels read for their data only, never imported; what they require would clash with the rest.
DATA_WHEELS := imagecorruptions nlpaug
SOURCES := src tests scripts conftest.py $(wildcard examples benchmarks)
PURE := reduction quantization quota tasks stability perturb cost probes

.DEFAULT_GOAL := help
.PHONY: help demo test slow check coverage bench docs format wheel light browser clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 18

demo: $(VENV)/.run ## the main job: pocket, six accelerations, one report (runs/pocket-demo/report.html)
	$(VENV)/bin/steadyvlm demo

test: $(VENV)/.dev browser ## the default tests: offline, on the CPU
	$(PY) -m pytest

slow: $(VENV)/.dev browser ## the tests that take minutes
	$(PY) -m pytest -m slow

check: $(VENV)/.dev ## format, lint, strict types, import contracts, docs in sync
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) scripts/generate_docs.py --check

coverage: $(VENV)/.dev ## line and branch coverage of the pure folders, which must be 100 %
	$(PY) -m pytest -q tests/contracts $(foreach folder,$(PURE),$(wildcard tests/$(folder)) src/steadyvlm/$(folder)) \
		$(foreach folder,$(PURE),--cov=steadyvlm.$(folder)) --cov-branch --cov-fail-under=100

bench: $(VENV)/.dev ## the speed ratios of the README, measured on this machine
	$(PY) -m benchmarks

docs: $(VENV)/.dev ## write docs/cli.md and docs/methods.md again from the code
	$(PY) scripts/generate_docs.py

format: $(VENV)/.dev ## format the code and mend what ruff can mend
	$(VENV)/bin/ruff format $(SOURCES)
	$(VENV)/bin/ruff check --fix $(SOURCES)

wheel: $(VENV)/.dev ## build the wheel, install it bare (no torch) and use it
	PYTHON="$(PYTHON)" sh scripts/check_wheel.sh

light: $(VENV)/.dev ## the tests of what needs no torch, on the other supported Pythons of this machine
	sh scripts/light_tests.sh

browser:
	@sh scripts/ensure_browser.sh

clean: ## remove what make and the tools made; results in runs/ stay
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	find src tests scripts benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "steadyvlm needs Python 3.11 or newer; name one: make PYTHON=python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: pyproject.toml constraints.txt | $(PY)
	@echo "Installing steadyvlm and the libraries of constraints.txt into $(VENV) (once; torch is large)."
	$(PIP_INSTALL) --editable '.[models,int8,perturb]'
	$(PIP_INSTALL) --no-deps $(DATA_WHEELS)
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(PY)
	@echo "Installing steadyvlm, its extras and the developer tools into $(VENV) (once; torch is large)."
	$(PIP_INSTALL) --editable '.[all,dev]'
	$(PIP_INSTALL) --no-deps $(DATA_WHEELS)
	@touch $(VENV)/.run $@
