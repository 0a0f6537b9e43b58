# make demo       the whole story on this machine: 1 minute
# make demo-campaign  a campaign in Slack, with an account that breaks: 1 minute
# make demo-wired the same events through every kind of subscription, into a stand-in of each service: 30 s
# make demo-source  three jobs of a source that is played from recorded answers, SOURCE=openai-batch: 15 s
# make demo-bus   events of jobs and of another program at a real NATS server: 20 s
# make lint       format, faults, types, imports, and how large it is: 1 minute, 10 s when little has changed
# make test-fast  what to run before each commit: format, imports, units, the store on SQLite, the API: 2 minutes
# make test       lint, and what shows most faults: 6 minutes on two cores
# make verify     the other tests: kills, brokers, a browser, packaging, documents, fuzzing, all branches of relay/core: 12 minutes
# make bench      the measurements: 15 minutes
# make bench-against  this version beside an earlier one, REF=COMMIT: half an hour. ends with 1 if it is worse
# make test-oldest-postgres  the whole store suite on Debian's PostgreSQL 15: 3 minutes
# make soak       the long tests, whole: 20,000 generated requests, 500 kills, an hour of operations: 3 hours
# make audit      asks whether a pinned package has a known vulnerability: 30 s
# make lock       pins the packages again, with their hashes, after a change in pyproject.toml: needs uv
# make release    wheel, sdist, clients, chart, SBOM and image into dist/, with checksums: 2 minutes. BASE as of image
# make pictures   the pictures of the dashboard in docs/img, and of messages in docs/guides: 6 minutes, needs Chromium
# make docs       the documentation site, into site/: open site/index.html. 20 s
# make image      the container image revor-relay, by docker or podman. BASE=debian: without a registry, 4 minutes
# make clean      removes what the others made
#
# Needs git, make and Python 3.11 or newer. Set PYTHON to choose one: make test PYTHON=/opt/python/bin/python3.12
# All paths are relative, so the folder may have a space in its name.

CORE := tests/unit/core tests/unit/planner

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	"$$name" -c '$(NEW_ENOUGH)' >/dev/null 2>&1 && { echo "$$name"; break; }; done)
BIN := .venv/bin
READY := .venv/.ready

# Size of `make soak`: generated requests, kills, seconds of random operations. The same seed makes the same cases.
SOAK_CASES ?= 20000
SOAK_KILLS ?= 500
SOAK_SEED ?= 20260520
SOAK_SECONDS ?= 3600

# A file's tests run in one worker, as they share its databases. Unit tests compute: one worker per processor. The
# others spend half of their time waiting for processes and databases: two per processor. tests/support/order.py says
# in which order they run. Each worker imports for five seconds.
AT_ONCE := -q --dist loadfile --no-loadscope-reorder
TWO_EACH := $$($(BIN)/python -c 'import os; print(2 * (os.cpu_count() or 1))')

# The variables that would make a run here depend on whose shell it is.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Without byte code each of the thousand processes of the tests compiles for five seconds.
unexport PYTHONDONTWRITEBYTECODE

# A virtual environment knows the path that it was made at: a folder that was moved gets a new one.
$(shell [ "$$(cat .venv/.made-at 2>/dev/null)" = "$$PWD" ] || rm -f $(READY))

# The tests that need PostgreSQL by their names; the others of a folder by their parameter.
NO_POSTGRES := -k "not postgres and not Postgres" $(patsubst %,--ignore=%,$(wildcard tests/*/test_*postgres*.py)) \
	--ignore=tests/api/test_api_schemathesis.py

# On the oldest PostgreSQL that is supported, or a loud skip where Debian's cannot be had. `make verify` runs the named
# statements and the tests of these files on it, `make soak` the whole store suite.
ON_OLDEST = POSTGRES_TEST_VERSION=15 $(BIN)/python -m pytest $(AT_ONCE) -rs -n auto -k "postgres or Postgres"
FOR_OLDEST := $(patsubst %,tests/store/test_%.py,postgres_statements store_registration store_job_groups store_group_work store_incidents)

.PHONY: help docs image pictures demo demo-wired demo-campaign demo-bus demo-source test verify test-fast test-oldest-postgres lint bench bench-against soak audit lock release clean
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(READY)
	@echo "==> relay demo"
	$(BIN)/relay demo

# OPTIONS="--keep --seed 5 --database postgresql://…"
demo-wired demo-campaign demo-bus: $(READY)
	@echo "==> $@"
	$(BIN)/python -m tests.stories $(@:demo-%=%) $(OPTIONS)

# A preset, or a file with a definition and recorded answers.
SOURCE ?= openai-batch
demo-source: $(READY)
	@echo "==> $@ $(SOURCE)"
	$(BIN)/python -m tests.stories.source "$(SOURCE)"

pictures: $(READY)
	@echo "==> pictures of the dashboard, into docs/img"
	$(BIN)/python -m tests.support.dashboard_pictures
	@echo "==> pictures of messages, into docs/guides"
	$(BIN)/python -m tests.support.message_pictures

docs: $(READY)
	@echo "==> the documentation site, into site/"
	artefacts=$$($(BIN)/python -m tests.support.environments artefacts)
	NO_MKDOCS_2_WARNING=1 "$$artefacts" -m mkdocs build --strict # --quiet would hide the warnings of --strict
	echo "==> open site/index.html"

# BASE: another base image; debian: one made here of Debian's packages, as root, for machines without a registry.
# ENGINE: docker or podman; by default the first that answers. ARCHIVE: a file to save the image in, for `docker load`.
BASE ?=
ENGINE ?=
ARCHIVE ?=
image: $(if $(filter debian,$(BASE)),$(READY))
	@archive="$(or $(ARCHIVE),build/image/revor-relay.tar)"
	if [ "$(BASE)" = debian ]; then
		echo "==> the image, on a base of Debian's packages"
		$(BIN)/python -m tests.support.image "$$archive"
	fi
	engine="$(ENGINE)"
	for name in docker podman; do
		[ -n "$$engine" ] || ! "$$name" info > /dev/null 2>&1 || engine=$$name
	done
	[ -n "$$engine" ] || { echo "neither 'docker info' nor 'podman info' answers: start Docker, install podman, or as root on Debian add BASE=debian" >&2; exit 1; }
	echo "==> the image revor-relay, into $$engine"
	if [ "$(BASE)" = debian ]; then
		"$$engine" load --quiet --input "$$archive"
		"$$engine" tag localhost/revor-relay revor-relay # Docker looks for the short name elsewhere
		[ -n "$(ARCHIVE)" ] || rm "$$archive"
	else
		export BUILDAH_FORMAT=docker # podman's other format has no health check
		"$$engine" build --tag revor-relay $(if $(BASE),--build-arg BASE="$(BASE)") \
			--build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' relay/__init__.py)" \
			--build-arg REVISION="$$(git rev-parse HEAD)" --build-arg CREATED="$$(git show --no-patch --format=%cI)" . || {
			echo "$$engine built no image. Without a registry, as root on Debian: add BASE=debian" >&2; exit 1; }
		[ -z "$(ARCHIVE)" ] || "$$engine" save --output "$(ARCHIVE)" revor-relay
	fi

lint: $(READY)
	@echo "==> ruff: faults and format"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	echo "==> mypy: types, strictly"
	$(BIN)/mypy
	echo "==> import-linter: which package may import which"
	$(BIN)/lint-imports
	echo "==> vulture: dead code"
	$(BIN)/vulture
	$(BIN)/python .ci/count.py

# Lint runs beside the first tests, which leave it a processor while they start.
test: $(READY)
	@$(MAKE) lint > .lint.log 2>&1 & lint=$$!
	trap 'kill $$lint 2> /dev/null || true' EXIT
	echo "==> pytest: what is not marked verify"
	$(BIN)/python -m pytest $(AT_ONCE) -n $(TWO_EACH) -m "not verify"
	wait $$lint || { cat .lint.log; exit 1; }
	trap - EXIT
	cat .lint.log
	echo "==> make test passed"

# All of relay/core's own tests run again, and only they are measured: coverage makes them twice as slow.
verify: $(READY)
	@rm -f .coverage .coverage.*
	echo "==> pytest: what is marked verify"
	$(BIN)/python -m pytest $(AT_ONCE) -n $(TWO_EACH) -m verify $(patsubst %,--ignore=%,$(CORE))
	echo "==> pytest: relay/core, every branch of it"
	$(BIN)/python -m pytest $(AT_ONCE) -n auto $(CORE) --cov=relay/core --cov-branch --cov-report=term:skip-covered --cov-fail-under=100
	echo "==> pytest: registration, groups and incidents on PostgreSQL 15"
	$(ON_OLDEST) $(FOR_OLDEST)
	echo "==> make verify passed"

test-fast: $(READY)
	@echo "==> ruff and import-linter"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	echo "==> pytest: units, the store on SQLite, the API"
	FUZZ_TEST_COUNT=80 $(BIN)/python -m pytest $(AT_ONCE) -n auto -m "not verify" $(NO_POSTGRES) tests/unit tests/api tests/store

test-oldest-postgres: $(READY)
	@echo "==> pytest: the store on PostgreSQL 15"
	$(ON_OLDEST) tests/store

bench: $(READY)
	@echo "==> benchmarks"
	$(BIN)/python tests/benchmarks/run.py
	$(BIN)/python tests/benchmarks/polling.py --presets --out $$(mktemp -d)

# REF: a commit or tag; none: what CHANGELOG.md names. OPTIONS: such as "--only publish --database SQLite --rounds 9".
REF ?=
OPTIONS ?=
bench-against: $(READY)
	@echo "==> this version beside an earlier one"
	$(BIN)/python tests/benchmarks/against.py $(if $(REF),--ref "$(REF)") $(OPTIONS)

soak: export SOAK := 1
soak: $(READY)
	@echo "==> fuzz: $(SOAK_CASES) requests to the API, and an eighth of that to each parser, from the seed $(SOAK_SEED)"
	FUZZ_TEST_COUNT=$(SOAK_CASES) FUZZ_TEST_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -q -n auto --durations=10 \
		--hypothesis-show-statistics tests/api/test_api_schemathesis.py tests/api/test_fuzz_*.py tests/fuzz/ \
		tests/store/test_fuzzed_sink.py tests/store/test_two_pollers.py tests/e2e/test_fuzzed_upstream.py
	echo "==> a hostile sink: $$(($(SOAK_CASES) / 10)) answers, and what they cost"
	FUZZ_TEST_COUNT=$(SOAK_CASES) FUZZ_TEST_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -q -rP tests/simulation/test_hostile_sink.py
	echo "==> the worst legal requests, one at a time, at a relay whose /livez is watched: alone on the machine"
	$(BIN)/python -m pytest -q -rP -n 0 tests/e2e/test_stalls.py
	echo "==> properties, simulations, stores, installs and restarts: what make verify runs smaller"
	$(BIN)/python -m pytest $(AT_ONCE) -n auto --durations=10 tests/simulation tests/packaging $(CORE) tests/e2e/test_canaries.py tests/paths tests/e2e/test_demo.py tests/e2e/test_demo_campaign.py \
		tests/e2e/test_cluster.py tests/e2e/test_rolling_restart.py tests/e2e/test_socket_activation.py tests/store --ignore=tests/simulation/test_hostile_sink.py --ignore=tests/store/test_fuzzed_sink.py --ignore=tests/store/test_two_pollers.py
	$(MAKE) test-oldest-postgres
	echo "==> brokers: 10,000 events to each, killed twice and cut off"
	$(BIN)/python -m pytest -q -rP -n 0 tests/bus tests/api/test_api_asyncapi.py
	echo "==> kills: $(SOAK_KILLS) at random moments, and one at each chosen one, from the same seed"
	KILL_TEST_COUNT=$(SOAK_KILLS) KILL_TEST_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -q -rP --durations=10 tests/e2e/test_kill*.py tests/e2e/test_power_loss.py
	echo "==> operations: $(SOAK_SECONDS) s of random ones from outside on each database, from the same seed"
	OPERATIONS_TEST_SECONDS=$(SOAK_SECONDS) OPERATIONS_TEST_SEED=$(SOAK_SEED) $(BIN)/python -m pytest -q -rP -n 2 tests/e2e/test_random_operations.py
	echo "==> soaked: all held"

audit: $(READY)
	@echo "==> pip-audit: known vulnerabilities of pinned packages"
	PYTHON="$(BIN)/python" bash .ci/audit

# Existing pins stay. UPGRADE="--upgrade-package NAME" raises one, UPGRADE=--upgrade all of them.
UPGRADE ?=
LOCKED := --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet $(UPGRADE)
lock:
	@command -v uv > /dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	uv pip compile $(LOCKED) --all-extras --group dev --output-file tests/requirements.lock pyproject.toml
	echo hatchling | uv pip compile $(LOCKED) --all-extras -c tests/requirements.lock --output-file deploy/requirements.lock \
		pyproject.toml -
	echo pip-audit | uv pip compile $(LOCKED) --output-file .ci/audit.lock -
	uv pip compile $(LOCKED) --group clients --output-file tests/clients.lock
	uv pip compile $(LOCKED) --group artefacts --output-file tests/artefacts.lock

# PARTS: only these, such as "relay chart".
PARTS ?=
release: $(READY)
	@echo "==> the archives of a release, into dist"
	$(BIN)/python .ci/release.py --artefacts "$$($(BIN)/python -m tests.support.environments artefacts)" $(PARTS)

clean:
	rm -rf .venv .venv-* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* .lint.log dist build site clients/typescript/node_modules clients/typescript/dist

$(READY): tests/requirements.lock pyproject.toml
	@if ! "$(PYTHON)" -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then
		echo "revor-relay needs Python 3.11 or newer, and found none: install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3" >&2
		exit 1
	fi
	echo "==> $$("$(PYTHON)" --version): making .venv (the first time takes a minute)"
	rm -rf .venv
	if ! "$(PYTHON)" -m venv .venv; then
		echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, install the package python3-venv" >&2
		exit 1
	fi
	echo "==> installing the packages that tests/requirements.lock pins"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile \
		--require-hashes --no-deps -r tests/requirements.lock
	echo "==> installing revor-relay from this folder"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	echo "$$PWD" > .venv/.made-at
	touch $(READY)
