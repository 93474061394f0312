# Needs only make and Python 3.11 or newer. `make` lists what there is.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
MADE := $(VENV)/.made
SERVER := $(VENV)/.installed-server
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

##@ Use it

.PHONY: run
run: $(SERVER) ## try it: server, broker and three agents with live values  (ARGS="--duration 10")
	@$(BIN)/pingup demo $(ARGS)

.PHONY: start
start: $(SERVER) ## the server  (ARGS="--http-port 9000")
	@$(BIN)/pingup serve $(ARGS)

.PHONY: migrate
migrate: $(SERVER) ## bring the databases up to date; the server also does it when it starts
	@$(BIN)/pingup migrate $(ARGS)

##@ Work on it

.PHONY: dev
dev: $(DEV) ## the server, started again at every change of the code
	@$(BIN)/watchfiles --filter python '$(BIN)/pingup serve $(ARGS)' pingup

.PHONY: test
test: $(DEV) ## all tests  (ARGS="tests/test_codec.py")
	@$(BIN)/pytest -n auto $(ARGS)

.PHONY: coverage
coverage: $(DEV) ## all tests, and what of the code they ran; details in htmlcov/
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n auto $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report

.PHONY: bench
bench: $(DEV) ## measure speed and memory
	@$(BIN)/python -m tests.benchmarks $(ARGS)

.PHONY: faults
faults: $(DEV) ## break everything for real, and count what is lost  (ARGS="--only 'disk full' --runs 3")
	@$(BIN)/python -m tests.faults $(ARGS)

.PHONY: check
check: lint ## all that is checked without running: lint, format, types, layers
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: lint
lint: $(DEV) ## the linter alone
	@$(BIN)/ruff check .

.PHONY: format
format: $(DEV) ## write the code in the one format
	@$(BIN)/ruff format .

.PHONY: clean
clean: ## take away what make and the tools made; data stays
	@rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis
	@rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Stamps: each is newer than what it was made from, so that a second run starts at once.

$(MADE):
	@command -v $(PYTHON) >/dev/null || \
		{ echo "$(PYTHON) is not installed: Pingup needs Python 3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Pingup needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
		"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make a virtual environment." \
		"On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Making the virtual environment $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(SERVER): $(MADE) pyproject.toml
	@echo "Installing Pingup and the server's packages"
	@$(PIP) install --editable '.[server]'
	@touch $@

$(DEV): $(MADE) pyproject.toml
	@echo "Installing Pingup and the tools for working on it"
	@$(PIP) install --editable '.[dev]'
	@touch $(SERVER) $@
