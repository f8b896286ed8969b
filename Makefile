# Highbeam. `make help` explains the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BROKER ?= embedded
USE_CASE ?= car_sensors
DEMO_ARGS ?=
PYTEST_ARGS ?=
CHAOS_ARGS ?=

# Values as they were given: make would expand $(…) in them, in its command line and when it exports them.
VERBATIM := JOB PROJECT BUCKET REGION NAME PARAMETERS GCLOUD_ARGS REPO TAG BUILDER DRY_RUN
$(foreach name,$(VERBATIM),$(eval override $(name) := $$(value $(name))))
export $(VERBATIM)

.DEFAULT_GOAL := help
.PHONY: help setup demo train test test-integration test-nightly bench bench-quick bench-latency bench-windows accuracy fraud chaos lint type docs docs-site schemas-check template launch clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: BROKER=apache or a kafka:// address, USE_CASE=payment_fraud (demo), DEMO_ARGS, PYTEST_ARGS, CHAOS_ARGS, PYTHON"

setup: $(VENV)/.installed ## make .venv with everything the other targets need (Python 3.11 to 3.13, nothing else)

$(VENV)/.installed: setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Python 3.11 to 3.13 is needed: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing into $(VENV): 3 GB, two to five minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[train,broker,dev]'
	@touch $@

demo: setup ## a simulated fleet, a broker: events archived, a model trained on the archive, live anomalies (Ctrl-C ends it); USE_CASE=payment_fraud: its owners' payments
	$(BIN)/python -m demo --use_case $(USE_CASE) --broker $(BROKER) $(DEMO_ARGS)

train: setup ## train the car_sensors model on a simulated history into ./runs/models
	$(BIN)/python -m demo.history --rows 120000 --output runs/history.parquet
	$(BIN)/python -m model.train --use_case car_sensors --data runs/history.parquet --registry runs/models

# Four processes keep two cores busy: tests of whole jobs also wait, for brokers and for leases that run out.
PYTEST := $(BIN)/python -m pytest -n 4 --dist worksteal

test: setup ## the tests, 9 minutes on two idle cores of today, 13 on older ones; what needs Java or Go is skipped with the reason where they are missing
	$(PYTEST) -m "not nightly" $(PYTEST_ARGS)

test-integration: setup ## only the tests on Apache Kafka and Prism
	$(PYTEST) -m "integration and not nightly" $(PYTEST_ARGS)

test-nightly: setup ## only what CI runs at night: timed tests, and repetitions of what another test shows
	$(PYTEST) -m nightly $(PYTEST_ARGS)

bench: setup ## all measurements of docs/performance.md but latency (Java and gcc needed, about 45 minutes)
	$(BIN)/python -m bench

bench-quick: setup ## what got slower than recorded, in pairs (Java needed, under 3 minutes)
	$(BIN)/python -m bench.quick

bench-windows: setup ## windows alone, in the whole job, against Kafka Streams and Flink SQL (Java, about 40 minutes)
	$(BIN)/python -m bench.windows

bench-latency: setup ## 30 minutes at 10,000 events/s on each local runner, and 3 of payments with all their windows (Java needed)
	$(BIN)/python -m bench.latency --seconds 1800 --runner DirectRunner
	$(BIN)/python -m bench.latency --seconds 1800 --runner PrismRunner
	$(BIN)/python -m bench.fraud_latency

accuracy: setup ## what the detector finds in unlabelled data, against its goals: docs/accuracy.md (about 25 minutes)
	$(BIN)/python -m bench.accuracy

fraud: setup ## what is found on the public fraud benchmark: docs/fraud.md (about 7 minutes)
	$(BIN)/python -m bench.accuracy --only fraud

chaos: setup ## whole jobs under faults, 10 minutes: is anything lost? (Java, Go for all of it; CHAOS_ARGS='--seed 7 --list')
	$(BIN)/python -m chaos $(CHAOS_ARGS)

lint: setup ## ruff: style and mistakes; the import contracts of pyproject.toml
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

type: setup ## mypy --strict
	$(BIN)/mypy

docs: setup ## check every link, command and flag of the documentation
	$(BIN)/python -m pytest tests/unit/test_docs.py $(PYTEST_ARGS)

docs-site: setup ## the documentation as a site in site/, with a search that needs no network: open site/index.html
	$(BIN)/mkdocs build --strict

schemas-check: setup ## a change of the schemas breaks no old data and no old reader; docs/schemas.md says what they say
	$(BIN)/python -m schemas.check
	$(BIN)/python -m schemas.docs --check

template: setup ## build and publish the Flex Templates: PROJECT= REPO= BUCKET= [REGION= TAG= BUILDER=docker|cloud DRY_RUN=1]
	@$(BIN)/python -m templates.publish build --project="$$PROJECT" --repo="$$REPO" --bucket="$$BUCKET" \
	  --region="$$REGION" --tag="$$TAG" --builder="$$BUILDER" $(if $(DRY_RUN),--dry_run)

launch: setup ## start a job from one: JOB=score PROJECT= BUCKET= PARAMETERS='a=b c=d' [REGION= NAME= GCLOUD_ARGS= DRY_RUN=1]
	@$(BIN)/python -m templates.publish launch --job="$$JOB" --project="$$PROJECT" --bucket="$$BUCKET" --region="$$REGION" \
	  --name="$$NAME" --parameters="$$PARAMETERS" --gcloud_args="$$GCLOUD_ARGS" $(if $(DRY_RUN),--dry_run)

clean: ## remove what the targets made
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist runs site *.egg-info
