# AgentFlow's commands. `make demo` and `make test` need python3 >= 3.11, make, and root or sudo; everything else they bring.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check lock clean
MAKEFLAGS += --no-print-directory
BIN := .venv/bin

help: ## Show these lines
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

setup: ## Make .venv from requirements.lock and bring runsc (quick when nothing changed)
	@scripts/setup.sh

demo: setup ## Start a local cluster, review real code with a team of agents, say where the report is, stop
	@$(BIN)/python -m agentflow.cluster.demo

test: setup ## Run every test, the quick ones first (ARGS="-k name" chooses)
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## Lint, types, layers and unit tests, without a cluster: before each commit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit

lock: setup ## Resolve pyproject.toml anew into requirements.lock (all extras, Python 3.11 and later, with hashes)
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --all-extras --upgrade --no-header -q -o requirements.lock
	@scripts/setup.sh

clean: ## Remove .venv, caches and build products
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
