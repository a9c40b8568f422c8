# All targets use a local virtual environment, which is built on first use. Needs Python 3.11+ and make.

PYTHON ?= python3
# Most tests wait for processes and for time to pass, so there are more of them at once than a machine has cores.
WORKERS ?= 6
# Tests start hundreds of processes: each would compile choreo again where the environment forbids to keep what it compiled.
export PYTHONDONTWRITEBYTECODE :=
PARALLEL := -n $(WORKERS) --dist loadscope --no-loadscope-reorder
BIN := .venv/bin
.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "choreo needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12"; exit 1; }
	@echo "Creating a virtual environment in .venv ..."
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.created pyproject.toml
	@echo "Installing choreo and the packages of the demo (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

.venv/.dev: .venv/.created pyproject.toml
	@echo "Installing choreo with its development tools (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch .venv/.demo $@

demo: .venv/.demo  ## Run the food-delivery story: seven services, real workers, an embedded server
	@$(BIN)/python -m handlers.demo

test: .venv/.dev  ## Run every test that this machine can run, in random order (PYTEST="-k joins")
	@$(BIN)/python -m pytest $(PARALLEL) $(PYTEST)

unit: .venv/.dev  ## Run the tests that open no socket, in seconds
	@$(BIN)/python -m pytest tests/unit -n 2 $(PYTEST)

test-all: .venv/.dev  ## Run every test on each Python of this machine, and with the lowest versions (VERSIONS="3.13 lowest")
	@CHOREO_TESTS=all $(BIN)/python -m tests.environments $(VERSIONS) -- $(PARALLEL) $(PYTEST)

package: .venv/.dev  ## Build the wheel and the sdist into dist/, and check them
	@rm -rf dist
	@$(BIN)/python -m build
	@$(BIN)/python -m twine check --strict dist/*

chaos: .venv/.dev  ## Hunt for lost events for a long time (CHAOS_ORDERS=2000; CHAOS_SEED=... repeats a run)
	@CHAOS_ORDERS=$${CHAOS_ORDERS:-2000} $(BIN)/python -m pytest tests/chaos -s --durations=10

bench: .venv/.dev  ## Measure choreo beside stock Celery (12 minutes at most)
	@$(BIN)/python -m bench

bench-peers: .venv/.dev  ## Measure choreo beside FastStream, Nameko, dramatiq, celery-pubsub (builds .bench-envs/)
	@$(BIN)/python -m bench --peers

pictures: .venv/.dev  ## Draw the pictures of docs/web.md anew, with an installed Chromium
	@$(BIN)/python -m tests.browser.pictures
	@$(BIN)/python -m tests.browser.story_pictures

lint: .venv/.dev  ## Check style (ruff) and types (mypy strict)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev  ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environment and all built files
	rm -rf .venv .bench-envs .test-envs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*

.PHONY: help demo test unit test-all package chaos bench bench-peers pictures lint format clean
