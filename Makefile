# One verb a task; CI runs exactly these. `make` alone lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-emit-find-links --no-header --no-strip-extras
OIDC := tests/oidc
T ?=
BENCHMARK ?= ../shared/classifier-benchmark

##@ Start
.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} \
		/^##@ / {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: install
install: $(VENV)/installed ## Make .venv and install the locked requirements

.PHONY: run
run: $(VENV)/installed ## Start OpenRemedy; Ctrl-C stops it
	@$(BIN)/python -m openremedy.launcher

.PHONY: demo
demo: $(VENV)/installed ## The same with a week of alerts to look around in; its data is in data/demo
	@OPENREMEDY_DATA_DIR=data/demo $(BIN)/python -m openremedy.launcher --demo

.PHONY: migrate
migrate: $(VENV)/installed ## Bring the database to this code's schema
	$(BIN)/python -m flask --app wsgi db upgrade

##@ Develop
.PHONY: test
test: $(VENV)/installed-dev provider ## Run the tests; T="tests/test_x.py -k word" runs some
	$(BIN)/python -m pytest $(or $(T),-n auto --dist loadfile --no-loadscope-reorder)

.PHONY: provider
provider: ## Install the provider that the tests of single sign-on start
	@if command -v npm >/dev/null; then $(MAKE) -s $(OIDC)/node_modules/installed; \
	else echo "npm is missing: the tests of single sign-on will not run" >&2; fi

.PHONY: lint
lint: $(VENV)/installed-dev ## Style and format (ruff)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: format
format: $(VENV)/installed-dev ## Mend style and format where ruff can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: types
types: $(VENV)/installed-dev ## Types (mypy --strict)
	$(BIN)/mypy

.PHONY: contracts
contracts: $(VENV)/installed-dev ## Who may import whom (import-linter)
	$(BIN)/lint-imports

.PHONY: bandit
bandit: $(VENV)/installed-dev ## Habits that make code unsafe (bandit)
	@# It warns of each part of a line whose nosec it did not need, so what it says is shown when it finds something.
	@said=$$($(BIN)/bandit --quiet --configfile pyproject.toml --recursive \
		openremedy adapters config migrations wsgi.py scripts 2>&1) || { echo "$$said"; exit 1; }

.PHONY: check
check: lint types contracts bandit ## lint, types, contracts and bandit

.PHONY: audit
audit: $(VENV)/installed-dev ## Known vulnerabilities of what is locked (pip-audit); asks PyPI or OSV
	@$(BIN)/python scripts/audit.py $(T)

.PHONY: docs
docs: $(VENV)/docs/installed ## Render the documentation into build/docs; a broken link is an error
	$(VENV)/docs/bin/sphinx-build -W --keep-going -q -c docs . build/docs

.PHONY: fixtures
fixtures: $(VENV)/installed-dev ## Write the adapters' expected files anew; read them before committing
	$(BIN)/python tests/golden.py

.PHONY: bench
bench: $(VENV)/installed-dev $(VENV)/alerta/installed ## Time the door and the verdicts against others (15 minutes); T=--smoke takes two
	$(BIN)/python -m bench $(T)

.PHONY: bench-prune
bench-prune: $(VENV)/installed-dev ## Time intake while a year of rows is deleted, and measure the disk (10 minutes)
	PYTHONPATH=.:tests $(BIN)/python scripts/bench_prune.py $(T)

.PHONY: bench-ui
bench-ui: $(VENV)/installed-dev ## Time the lists, the search and the overview with 100,000 incidents (3 minutes)
	$(BIN)/python scripts/bench_ui.py

.PHONY: eval
eval: $(VENV)/installed-train ## Measure the classifier; BENCHMARK=FOLDER says on what (5 minutes)
	$(BIN)/python scripts/eval.py $(BENCHMARK)

.PHONY: train-matcher
train-matcher: $(VENV)/installed-train ## Learn openremedy/classifier/matcher.json anew, byte for byte; BENCHMARK=FOLDER
	$(BIN)/python scripts/train_matcher.py --benchmark $(BENCHMARK)

.PHONY: bench-storm
bench-storm: $(VENV)/installed-dev ## Send 10,000 alerts of 50 causes through real processes (5 minutes)
	PYTHONPATH=.:tests $(BIN)/python -m bench.storm --out storm.json

.PHONY: bench-scaling
bench-scaling: $(VENV)/installed-dev ## Two web and two worker hosts behind nginx, in network namespaces; as root (8 minutes)
	$(BIN)/python scripts/bench_scaling.py $(T)

.PHONY: faults
faults: $(VENV)/installed-dev ## Break everything that can break under load and look what is lost; T=--short takes 3 minutes, all 30
	PYTHONPATH=tests $(BIN)/python -m faults $(T)

.PHONY: upgrade-check
upgrade-check: $(VENV)/installed-dev ## The release before serves while the schema moves on, then gives way (2 minutes)
	PYTHONPATH=tests $(BIN)/python -m faults.upgrade

.PHONY: first-incident
first-incident: ## Time what a newcomer does, from a clone to a classified incident, with nothing installed (1 minute)
	scripts/time_first_incident.sh

.PHONY: image-check
image-check: $(VENV)/installed-dev ## Build the image of the Dockerfile and run it; as root (2 minutes)
	$(BIN)/python scripts/check_image.py

.PHONY: units-check
units-check: $(VENV)/installed-dev ## Boot a systemd with the units of deploy/systemd and run them; as root (half a minute)
	$(BIN)/python scripts/check_units.py

.PHONY: hooks
hooks: $(VENV)/installed-dev ## Run the quick checks before each commit
	$(BIN)/pre-commit install

.PHONY: screenshots
screenshots: $(VENV)/installed-dev ## Take pictures of every page; those of the README go to docs/screenshots
	$(BIN)/python scripts/screenshots.py

##@ Maintain
.PHONY: lock
lock: $(VENV)/installed-dev ## Resolve requirements*.in into requirements*.txt, with hashes
	$(COMPILE) requirements.in -o requirements.txt
	$(COMPILE) requirements-otel.in -o requirements-otel.txt
	$(COMPILE) requirements-dev.in -o requirements-dev.txt
	$(COMPILE) requirements-train.in -o requirements-train.txt
	$(COMPILE) requirements-bench.in -o requirements-bench.txt
	$(COMPILE) requirements-docs.in -o requirements-docs.txt

.PHONY: clean
clean: ## Remove .venv and caches; never your data
	rm -rf $(VENV) $(OIDC)/node_modules build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: pip runs again only when a lock file is newer. bin/pip is the last thing that venv makes, so an interrupted
# one is made anew.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "OpenRemedy needs Python 3.11 or newer as '$(PYTHON)'; choose another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/installed: $(BIN)/pip requirements.txt
	@echo "Installing the locked requirements into $(VENV): half a minute, once."
	$(PIP) install --quiet --require-hashes -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(BIN)/pip requirements.txt requirements-dev.txt
	@echo "Installing the locked requirements for development into $(VENV): half a minute, once."
	$(PIP) install --quiet --require-hashes -r requirements-dev.txt
	@touch $(VENV)/installed $@

$(VENV)/installed-train: $(VENV)/installed requirements-train.txt
	@echo "Installing what the matcher is trained with into $(VENV): a few seconds, once."
	$(PIP) install --quiet --require-hashes -r requirements-train.txt
	@touch $@

$(VENV)/alerta/installed: $(BIN)/pip requirements-bench.txt
	@echo "Installing what the benchmark compares with into $(VENV)/alerta: half a minute, once."
	$(PYTHON) -m venv --clear $(VENV)/alerta
	$(VENV)/alerta/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-bench.txt
	@touch $@

$(VENV)/docs/installed: $(BIN)/pip requirements-docs.txt
	@echo "Installing what renders the documentation into $(VENV)/docs: a few seconds, once."
	$(PYTHON) -m venv --clear $(VENV)/docs
	$(VENV)/docs/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes -r requirements-docs.txt
	@touch $@

$(OIDC)/node_modules/installed: $(OIDC)/package-lock.json
	@echo "Installing the identity provider of the tests into $(OIDC)/node_modules: a few seconds, once."
	cd $(OIDC) && npm ci --silent
	@touch $@
