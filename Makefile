# Needs git, make and Python 3.11 or later; everything else is installed below .venv/ and .duecourse/.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

export SAM_CLI_TELEMETRY := 0
# Set in many container images; then each of the tests' thousands of processes would compile all that it imports anew.
unexport PYTHONDONTWRITEBYTECODE
SAM_VERSION := 1.170.0
UV_VERSION := 0.13.9
UV := $(or $(shell command -v uv),$(CURDIR)/.duecourse/uv/bin/uv)
RUN := $(UV) run --frozen
SAM := $(UV) tool run --from aws-sam-cli==$(SAM_VERSION) sam
BUILD_DIR := .aws-sam/build
EXPORT := $(UV) export --frozen --quiet --no-default-groups --no-emit-project --no-header

# What Lambda runs: arm64 on Amazon Linux 2023 (glibc 2.34), Python 3.13.
LAMBDA_PLATFORM := aarch64-manylinux_2_28
LAMBDA_PYTHON := 3.13

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(UV) ## a whole day of compliance refreshes on this machine, in a minute
	@$(RUN) duecourse demo

.PHONY: test
test: $(UV) ## every test, with a real PostgreSQL and the deployed template
	$(RUN) pytest -n 4 --dist loadfile --no-loadscope-reorder

# In an environment of its own, beside .venv. Where there are pyenv's shims, uv finds its interpreters by their folders alone.
.PHONY: test-lambda-python
test-lambda-python: $(UV) ## unit and sql tests on the Python that Lambda runs, where this machine has it
	@python=$$(ls -d "$$HOME"/.pyenv/versions/$(LAMBDA_PYTHON).*/bin/python 2>/dev/null | tail -n 1); \
	python=$${python:-$$($(UV) python find $(LAMBDA_PYTHON) --no-python-downloads 2>/dev/null)}; \
	if [ -z "$$python" ]; then echo 'skipped: no Python $(LAMBDA_PYTHON) on this machine'; exit 0; fi; \
	UV_PROJECT_ENVIRONMENT=.duecourse/python-$(LAMBDA_PYTHON) $(RUN) --python "$$python" \
	    pytest tests/unit tests/sql -q -n 4 --dist loadfile -p no:cacheprovider -m "not slow"

.PHONY: bench
bench: $(UV) ## every measurement against our rivals: 20 minutes; rewrites docs/performance.md
	@$(RUN) duecourse bench

.PHONY: bench-small
bench-small: $(UV) ## the same in two minutes; fails where a ratio has regressed
	@$(RUN) duecourse bench --small

.PHONY: chaos
chaos: $(UV) ## 100,000 jobs under a storm of faults, three times: an hour and a half; rewrites docs/reliability.md
	@$(RUN) duecourse chaos

.PHONY: chaos-small
chaos-small: $(UV) ## the same with 3,000 jobs, in three minutes; fails where a job is lost, doubled, stuck or out of order
	@$(RUN) duecourse chaos --small

.PHONY: check
check: $(UV) ## every static check: ruff, mypy, import-linter, cfn-lint, the runtime lock
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) python -m duecourse.lint_template
	$(RUN) duecourse email build --check
	$(RUN) python -m duecourse.openapi --check
	$(RUN) python -m duecourse.job_catalogue --check
	@$(EXPORT) | diff functions/requirements.txt - || { echo 'functions/requirements.txt is not what uv.lock says: run `make lock`'; exit 1; }

.PHONY: lock
lock: $(UV) ## resolve the dependencies again and export what Lambda gets
	$(UV) lock
	$(EXPORT) --output-file functions/requirements.txt

# Not with --cached: SAM would look for changes in functions/ alone, and miss those of infra/migrations/.
.PHONY: build
build: $(UV) ## sam build: arm64 packages for Lambda in .aws-sam/, from any machine
	$(SAM) build --build-dir $(BUILD_DIR)

.PHONY: validate
validate: $(UV) ## sam validate --lint
	$(SAM) validate --lint

.PHONY: clean
clean: ## remove what was built and cached; the local stack's data stays
	rm -rf .aws-sam .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist
	find functions duecourse infra tests -name __pycache__ -type d -prune -exec rm -rf {} +

# uv itself, from PyPI, where the machine has none.
$(CURDIR)/.duecourse/uv/bin/uv:
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$name; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo 'make: Python 3.11 or later is needed and none is on PATH: install one, e.g. apt install python3 python3-venv' >&2; exit 1; \
	fi; \
	rm -rf .duecourse/uv && mkdir -p .duecourse; \
	if ! log=$$($$python -m venv .duecourse/uv 2>&1); then \
	    echo "make: $$python cannot make virtual environments ($$(echo "$$log" | tr -s '\n ' ' '))" >&2; \
	    echo 'make: on Debian and Ubuntu: apt install python3-venv; or install uv, https://docs.astral.sh/uv/' >&2; exit 1; \
	fi; \
	echo "installing uv $(UV_VERSION) into .duecourse/uv"; \
	.duecourse/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# An uv that was found on PATH is used as it is.
ifneq ($(UV),$(CURDIR)/.duecourse/uv/bin/uv)
.PHONY: $(UV)
$(UV): ;
endif

# ---- called by `sam build`, with ARTIFACTS_DIR set -----------------------------------------------------------------------

FUNCTIONS := DailyComplianceRefreshFunction DailyDocumentExpiryFunction DailyExpiryCheckFunction \
    DailyFilingRemindersFunction DailyDigestFunction DailyFilingCheckFunction NotificationsWorkerFunction \
    FilingRemindersWorkerFunction ScheduledEmailWorkerFunction EmailCriticalWorkerFunction EmailWorkerFunction \
    EmailBulkWorkerFunction SesEventsWorkerFunction UnsubscribeFunction ApiFunction TokensFunction ComplianceRefreshWorkerFunction UpkeepWorkerFunction RelayFunction SweepFunction \
    MigrateFunction

.PHONY: $(FUNCTIONS:%=build-%) build-DependencyLayer

# The package's root holds functions/ and infra/migrations/: a folder functions/email at the root would shadow the
# standard library's email.
$(FUNCTIONS:%=build-%):
	mkdir -p "$(ARTIFACTS_DIR)/infra"
	cp -R functions "$(ARTIFACTS_DIR)/"
	cp -R infra/migrations "$(ARTIFACTS_DIR)/infra/"
	find "$(ARTIFACTS_DIR)" -name __pycache__ -type d -prune -exec rm -rf {} +

# python/lib/python3.13/site-packages is the second of the two places where Lambda looks in a layer. There, an emulator
# that runs another Python finds its own libraries first. bin/ holds scripts of the machine that built, of no use.
build-DependencyLayer: SITE = $(ARTIFACTS_DIR)/python/lib/python$(LAMBDA_PYTHON)/site-packages
build-DependencyLayer: $(UV)
	$(UV) pip install --quiet --target "$(SITE)" --python-platform $(LAMBDA_PLATFORM) --python-version $(LAMBDA_PYTHON) \
	    --only-binary :all: --no-deps --no-compile-bytecode --requirements functions/requirements.txt
	rm -rf "$(SITE)/bin" "$(SITE)/.lock"
