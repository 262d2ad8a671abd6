# Every habit of the project as a target. `make help` lists them.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@echo "making .venv: 1 to 3 minutes, most of them for torch"
	$(PYTHON) -m venv .venv
	@awk '/^uv==/ {on = 1} on {print} on && !/\\$$/ {exit}' requirements.lock > .venv/uv.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@echo "reading what the classes take, for checks and editors"
	$(BIN)/python -m lab.engine.config.editors
	@touch $@

.PHONY: setup
setup: .venv/.ready ## make .venv from requirements.lock

.PHONY: train
train: setup ## train: make train ARGS="model=mlp data=mnist"
	$(BIN)/python src/train.py $(ARGS)

.PHONY: test
test: setup ## the tests that take minutes at most
	$(BIN)/pytest -m "not slow" -n $(WORKERS) --dist loadfile $(ARGS)

.PHONY: test-all
test-all: setup ## every test
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(ARGS)

.PHONY: lint
lint: setup ## check style, formatting, and which room imports which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

.PHONY: format
format: setup ## mend style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: setup ## check types
	$(BIN)/mypy

.PHONY: check-configs
check-configs: setup ## compose every config group with every other, and hold all keys against signatures
	$(BIN)/pytest tests/test_configs.py $(ARGS)

.PHONY: schema
schema: setup ## let editors complete keys and choices of configs while you type
	$(BIN)/python -m lab.engine.config.editors vscode

.PHONY: completion
completion: setup ## complete `python src/train.py …` by Tab: adds a line to your shell's start file
	$(BIN)/python -m lab.engine.cli.completion $(ARGS)

.PHONY: tensorboard
tensorboard: setup ## watch all runs at http://localhost:6006
	$(BIN)/tensorboard --logdir logs --host 127.0.0.1

.PHONY: sweep
sweep: setup ## a sweep: make sweep ARGS="sweep=lr model=lenet"
	$(BIN)/python src/train.py -m $(if $(ARGS),$(ARGS),sweep=lr)

.PHONY: compare
compare: setup ## which run won, and by how much: make compare ARGS="DIR baseline=NAME", else of the newest sweep
	$(BIN)/python scripts/compare.py $(if $(ARGS),$(ARGS),out=logs/report)

.PHONY: dashboard
dashboard: setup ## the study of a sweep that Optuna draws for, at http://localhost:8080: make dashboard ARGS="sweep=DIR"
	$(BIN)/python scripts/dashboard.py $(ARGS)

.PHONY: bench
bench: setup ## what the template costs over a hand-written loop
	$(BIN)/python benchmarks/overhead.py $(ARGS)

.PHONY: reproduce
reproduce: setup ## run the published results again: make reproduce ARGS="mnist_lenet --seeds 5"
	$(BIN)/python scripts/reproduce.py $(ARGS)

.PHONY: lock
lock: setup ## renew requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev pyproject.toml -o requirements.lock

.PHONY: clean
clean: ## remove caches; runs, data and .venv stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find src scripts benchmarks tests -name __pycache__ -prune -exec rm -rf {} +
