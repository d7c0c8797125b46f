# Everything is done in a virtual environment of the checkout's own; nothing else needs installing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=

.PHONY: help run test test-lightning test-deploy check lint format docs migrate upgrade bench \
	build build-prod secrets up-prod up-dev down lock clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: .venv/run.done ## Set up and serve on http://localhost:8000 (PORT, DATABASE_URL, SHARED_LEDGER_DATA)
	@exec $(BIN)/shared-ledger serve $(ARGS)

test: .venv/dev.done ## Set up and run all tests (ARGS="-m 'not slow'" for the quick ones)
	$(BIN)/python -m pytest $(ARGS)

test-lightning: .venv/dev.done ## Test with real Lightning nodes, which are built first if Go is there
	$(BIN)/python -m pytest tests/lightning $(ARGS)

test-deploy: .venv/dev.done ## Test nginx, and the containers where they can be started
	$(BIN)/python -m pytest -rs tests/deploy $(ARGS)

check: lint .venv/dev.done ## Lint, types and import rules
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(BIN)/lint-imports

lint: .venv/dev.done ## Look for faults of style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/dev.done ## Mend what can be mended by a program
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: .venv/dev.done ## Build the documentation's site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

migrate: .venv/run.done ## Bring the book's tables up to date
	$(BIN)/shared-ledger migrate $(ARGS)

upgrade: .venv/run.done ## The same with Alembic
	$(BIN)/alembic upgrade head $(ARGS)

bench: .venv/run.done ## Measure this machine (ARGS="--json FILE")
	$(BIN)/shared-ledger bench $(ARGS)

build: .venv/dev.done ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

build-prod: ## Build the image that production runs (VERSION is its tag)
	docker build -f deploy/Dockerfile -t shared-ledger:$(VERSION) .

secrets: ## Write deploy/.env with secrets of its own, once
	@test ! -e deploy/.env || { echo "deploy/.env is there already" >&2; exit 1; }
	@umask 077; $(PYTHON) -c 'import re, secrets, sys; sys.stdout.write(re.sub( \
		r"(?m)^\w+=$$", lambda line: line[0] + secrets.token_hex(24), sys.stdin.read()))' \
		< deploy/.env.example > deploy/.env

up-prod: build-prod ## Start production: http://localhost:8080 (PROFILES="prod dashboards tracing")
	$(COMPOSE) $(PROFILES:%=--profile %) up -d --wait

up-dev: build-prod ## Start what developers need: http://localhost:8000, PostgreSQL on 5432
	@test -e deploy/.env || $(MAKE) secrets
	$(COMPOSE) --profile dev up -d --wait

down: ## Stop what up-prod and up-dev have started; the data stay
	$(COMPOSE) --profile '*' down

export VERSION ?= local
PROFILES ?= prod dashboards
COMPOSE := docker compose -f deploy/compose.yaml

lock: .venv/dev.done ## Write the locked dependencies anew (ARGS=--upgrade: their newest versions)
	$(BIN)/uv pip compile $(LOCK) $(RUN) $(ARGS) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile $(LOCK) $(RUN) $(ARGS) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile $(LOCK) $(IMAGE) $(ARGS) -c requirements-dev.lock pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile $(LOCK) $(ARGS) tests/lightning/lnbits.in -o tests/lightning/lnbits.lock

# With hashes and without addresses: the lock files name no registry.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header
RUN := --extra client --extra embedded --extra service --extra nats --extra traces --extra build
# In an image is no database, and whatever the service may be configured to need.
IMAGE := --extra service --extra nats --extra traces

clean: ## Remove what was built; the data stay
	rm -rf .venv dist build site .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/run.done: requirements.lock pyproject.toml | .venv
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev.done: requirements-dev.lock pyproject.toml | .venv
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ .venv/run.done

.venv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; name it: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "Python's venv module is needed (Debian and Ubuntu: apt-get install python3-venv)" >&2; \
		exit 1; }
