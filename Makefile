# The whole loop of this project. CI calls `make lint` and `make test` and nothing else.
BIN := .venv/bin
CODE := src tests scripts
# A file's tests stay on one worker. The slow suites come first by name, and the fast ones fill what is left.
SIDE_BY_SIDE := --dist loadfile --no-loadscope-reorder
# Without bytecode each worker, each node and each command would compile all of the code again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-matrix faults faults-long unit lint format shape reference docs update image bench bench-check clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: ## Make or repair .venv (every target below does it by itself)
	@scripts/bootstrap.sh

demo: venv ## Two parties find common customers and train a model neither could train alone
	@$(BIN)/sfworker demo

test: venv ## Run all tests, job processes included in the coverage, which must reach 90 %
	@$(BIN)/coverage erase
	PYTHONPATH=$(CURDIR)/tests/untraced $(BIN)/coverage run -m pytest --numprocesses 2 $(SIDE_BY_SIDE)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

test-matrix: venv ## Run what `make test` leaves out: every protocol, label party and bad input, alerts of faults, operations
	$(BIN)/pytest -m matrix --numprocesses 2 $(SIDE_BY_SIDE) --timeout 600 --durations 20

faults: venv ## Break processes, Redis and disks at random moments, and print how each ended (under 40 minutes)
	$(BIN)/pytest tests/faults -m faults --timeout 1800 --moments 7

faults-long: venv ## The same at many more moments, and random bytes for minutes; writes the table of the documents
	$(BIN)/pytest tests/faults tests/contract -m faults --timeout 7200 --moments 20 --fault-table docs/developer_guide/faults.table.md

unit: venv ## Run the fast tests, which need no engine
	$(BIN)/pytest --numprocesses 2 $(SIDE_BY_SIDE) tests/unit

lint: venv ## Check format, style, types and layers
	$(BIN)/black --check $(CODE)
	$(BIN)/flake8 $(CODE)
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pylint src
	$(BIN)/hadolint docker/Dockerfile

format: venv ## Format the code
	$(BIN)/black $(CODE)

shape: venv ## Count how dense the code is, beside projects that read well (ARGS=--densest lists where)
	@$(BIN)/python -m scripts.shape $(ARGS)

reference: venv ## Write docs/reference, from the code that it describes, and the dashboards
	$(BIN)/python -m scripts.reference
	$(BIN)/python -m scripts.dashboards

docs: venv ## Build the documentation as a site in build/site, which needs no server; any broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Open build/site/index.html"

update: venv ## Renew uv.lock and .venv, and say what changed
	$(BIN)/uv lock --upgrade
	@scripts/bootstrap.sh
	@echo "Now run make lint test, read docs/developer_guide/dependencies.md if they fail, and commit uv.lock."

image: venv ## Build the container image on a stand-in for its base, and run a job in it (root, buildah, debootstrap)
	docker/verify.sh

bench: venv ## Compare all tasks with SecretFlow itself, and write docs/performance (40 minutes; ARGS="--help")
	@$(BIN)/uv sync --quiet --locked --inexact --extra bench
	$(BIN)/python -m tests.performance.benchmark_tasks $(ARGS)

bench-check: venv ## Fail when the worker has become a quarter slower, compared with SecretFlow (3 minutes)
	$(BIN)/python -m tests.performance.check_ratios

clean: ## Remove what builds and tests leave (.venv stays)
	rm -rf .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache build dist htmlcov
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
