# `make help` lists what there is. Everything runs from .venv, made from requirements.lock alone.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# As many tests at once in `make test`; each process of them starts servers of its own.
TEST_PROCESSES ?= 4
# A run starts five processes, the tests some hundreds: none of them shall compile everything anew.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d; say: make PYTHON=/path/to/python3" % sys.version_info[:2])'
	@echo "installing into $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

.PHONY: install
install: $(VENV)/.installed ## install everything into .venv

.PHONY: run
run: install ## start the whole system with demo data; options: make run ARGS="--port 9000"
	@exec $(BIN)/brokage up --demo $(ARGS)

.PHONY: tour
tour: install ## play the README's tour against a system of its own
	@$(BIN)/python -m infra.tour

.PHONY: test
test: install ## every test, on real servers of their own; some of them: make test ARGS="-k orders"
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not alone"
	@$(BIN)/python -m pytest -m alone tests/e2e
else
	@$(BIN)/python -m pytest $(ARGS)
endif

.PHONY: test-unit
test-unit: install ## the tests that need no server; seconds
	@$(BIN)/python -m pytest tests/unit tests/architecture $(ARGS)

.PHONY: faults
faults: install ## break a system under traffic for a minute, and prove it; options: make faults ARGS="--seconds 600"
	@$(BIN)/brokage faults $(ARGS)

.PHONY: bench
bench: install ## measure this machine, some minutes; options: make bench ARGS="--profile full"
	@$(BIN)/brokage bench $(ARGS)

.PHONY: peers
peers: install ## the same saga as it is usually written, measured beside ours
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: races
races: install ## races between use cases; other numbers: make races RACE_ROUNDS=5000 RACE_SEED=8
	@$(BIN)/python -m pytest tests/races $(ARGS)

.PHONY: fuzz
fuzz: install ## requests made from the OpenAPI document, an hour's worth; other ones: make fuzz FUZZ_EXAMPLES=20 FUZZ_SEED=8
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-300} $(BIN)/python -m pytest -s tests/integration/bad_inputs/test_fuzz.py $(ARGS)

.PHONY: faults-matrix
faults-matrix: install ## every step boundary, broken in every way, with processes that are really killed; ten minutes
	@BROKAGE_FAULTS_MATRIX=all $(BIN)/python -m pytest tests/faults/test_matrix.py $(ARGS)

.PHONY: check
check: install ## format, lint, strict types, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/architecture

.PHONY: format
format: install ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: docs
docs: install ## regenerate diagrams and schemas from the code
	$(BIN)/python -m infra.documents

.PHONY: lock
lock: ## resolve requirements.lock anew (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-emit-index-url \
		--upgrade pyproject.toml --output-file requirements.lock

.PHONY: clean
clean: ## remove the virtual environment, the local data and caches
	rm -rf $(VENV) .brokage .mypy_cache .ruff_cache .hypothesis dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
