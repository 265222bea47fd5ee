# `make run`, then open http://localhost:4180. All that is needed beforehand: Python 3.11 or newer, and Go (or oauth2-proxy).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
BIN := .venv/bin
IMAGE := gatehouse:dev
TAG = $(IMAGE)$(if $(filter all,$(STORES)),-all-stores)
# Two files of tests at a time: most of their time they wait. `make test PYTEST_ARGS=` runs one after the other.
PYTEST_ARGS ?= -n 2 --dist loadfile
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The client's wheel; each server hands out the one of its own version.
CLIENT := dist/mlflow_gatehouse-$(VERSION)-py3-none-any.whl
# Another base image than the Dockerfile's: what tests/container/engine.sh made where none can be pulled.
DEBIAN ?= $(shell cat .build/engine/base 2>/dev/null)

# The shell sets USER too; only one of the local people counts from there.
ifeq ($(origin USER),command line)
PERSON := $(USER)
else
PERSON := $(or $(filter alice bob carol,$(USER)),alice)
endif

.PHONY: run token test test-fast kubernetes-test neighbours-test fuzz bench check upstream-check format image sbom reproducible audit outdated lock client clean help

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: ## serve http://localhost:4180 (PORT=…, DATA=…) with a local sign-in
	@exec $(PYTHON) -m local.set_up

token: .venv/ready ## print an identity token of the local provider (USER=bob, ISSUER=…)
	@$(BIN)/python -m local.token $(PERSON) $(if $(ISSUER),--issuer $(ISSUER))

test: .venv/ready ## the whole suite
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: .venv/ready ## what needs no Docker, browser, gcloud or root
	@$(BIN)/python -m pytest -m 'not slow and not apart' $(PYTEST_ARGS)

kubernetes-test: .venv/ready ## the chart on a real cluster of this machine: as root, a quarter of an hour the first time
	@$(BIN)/python -m pytest -m apart tests/kubernetes

neighbours-test: .venv/ready ## the neighbours that are too large for `make test`: Ray, Kubeflow Pipelines, a model that is served
	@$(BIN)/python -m pytest -m apart tests/neighbours

fuzz: .venv/ready ## any request at all by a viewer, with a new seed each round (MINUTES=…, SEED=… of a run that failed)
	@FUZZ_MINUTES=$(MINUTES) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/access/test_fuzz.py -q -s

bench: .venv/ready ## side by side with the plain set-up (ROUNDS=…, SCENARIOS=…, QUICK=1)
	@$(BIN)/python -m bench

check: .venv/ready ## format, lint, types, imports between rooms, shell and Dockerfile lint
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/shellcheck $$(git ls-files '*.sh' '.ci/*')
	@$(BIN)/hadolint $$(git ls-files '*Dockerfile')
	@! command -v go >/dev/null || "$$($(BIN)/python -m release.tools actionlint)" -color
	@! command -v go >/dev/null || { go -C listener vet ./... && test -z "$$(gofmt -l listener proxy)"; }

upstream-check: .venv/ready ## what another release of MLflow would break (MLFLOW=3.16.0)
	@tests/upstream/against.sh $(MLFLOW)

format: .venv/ready ## let ruff mend what it can
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

image: ## build the container image gatehouse:dev (STORES=all for S3 and Azure too, DEBIAN=… for another base image)
	@docker build $(if $(DEBIAN),--build-arg DEBIAN=$(DEBIAN)) --build-arg VERSION=$(VERSION) \
	  $(if $(filter all,$(STORES)),--build-arg STORES=all-stores) \
	  --build-arg REVISION=$$(git describe --always --dirty 2>/dev/null || echo unknown) \
	  --tag $(TAG) .
	@$(MAKE) --silent sbom STORES=$(STORES)

sbom: .venv/ready ## write the bill of materials of the image into dist/ (`make image` does)
	@$(BIN)/python -m release.sbom $(TAG) dist/$(subst :,-,$(TAG)).cdx.json

reproducible: .venv/ready ## build the image twice without any cache; what differs between the two but times
	@for n in 1 2; do docker build --quiet --no-cache $(if $(DEBIAN),--build-arg DEBIAN=$(DEBIAN)) \
	  $(if $(filter all,$(STORES)),--build-arg STORES=all-stores) --tag gatehouse:same-$$n . >/dev/null || exit; done
	@$(BIN)/python -m release.reproducible gatehouse:same-1 gatehouse:same-2
	@docker rmi gatehouse:same-1 gatehouse:same-2 >/dev/null

audit: .venv/ready ## known vulnerabilities in what the image holds, as far as databases can be reached
	@IMAGE=$(TAG) $(BIN)/python -m release.audit

outdated: .venv/ready ## which pin is behind
	@$(BIN)/python -m release.outdated

cloud-test: .venv/ready ## the deploy tool on a real project, taken down again: PROJECT=…, ARGS="--domain=… --oauth-client=…"
	@$(BIN)/python -m deploy.cloud_test --project=$(PROJECT) $(ARGS)

lock: .venv/ready ## pin the Python dependencies anew (UPGRADE=1: the newest of each)
	@UPGRADE=$(UPGRADE) PATH=$(CURDIR)/$(BIN):$$PATH requirements/lock.sh

client: $(CLIENT) ## build the wheel of the client, which the server hands out, into dist/

$(CLIENT): .venv/ready client/build_wheel.py client/pyproject.toml client/README.md $(shell find client/src -name '*.py')
	@$(BIN)/python client/build_wheel.py dist >/dev/null

clean: ## remove what was set up and built (not the data)
	@rm -rf .venv .build dist

.venv/ready: requirements/dev.txt requirements/uv.txt pyproject.toml client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: error: $(PYTHON) is $$($(PYTHON) -V 2>&1), and 3.11 is needed" >&2; echo "    fix: make run PYTHON=python3.11" >&2; exit 78; }
	@echo "setting up Python in .venv ..." >&2
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/uv.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable . --editable client
	@touch $@
	@echo "Python is set up in .venv" >&2
