# What to do with a checkout; `make help` lists it. Everything is installed into .venv and nothing outside it, but for the
# container engine, which is set up only with consent (scripts/setup_engine.py).

PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1 && { echo $$each; break; }; done)
BIN := .venv/bin
IMAGES := python:3.11-slim jupyter-kernel-gateway
PIP := $(BIN)/python -m pip --disable-pip-version-check

# $(call PYTEST,arguments,those of the first run alone): what fails beside others on a busy machine runs once more and alone.
PYTEST = $(BIN)/pytest $(1) $(2) || { [ $$? -eq 1 ] \
	&& echo '==> What failed, once more and alone; only what fails again counts' \
	&& $(BIN)/pytest $(1) --last-failed --last-failed-no-failures none; }

.DEFAULT_GOAL := help
.PHONY: help coverage demo dist docs test test-browser test-clients test-compat-clients test-cpython test-e2b test-languages test-mcp test-providers test-pyright test-ray test-ray-conformance test-slow test-vm unit lint format typecheck engine images bench bench-prepare bench-short clean
.NOTPARALLEL:

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.installed  ## code running in a sandbox, from nothing
	@echo '==> An engine, and an image to make sandboxes from'
	@$(BIN)/python scripts/setup_engine.py --images python:3.11-slim \
		|| echo '==> Going on without: the demo makes its sandbox from namespaces, with bubblewrap'
	@echo '==> The demo: examples/demo.py'
	@$(BIN)/python examples/demo.py

test: .venv/.installed-dev lint typecheck  ## all that CI runs: format, lint, types, tests
	@echo '==> An engine for the tests, and the images they need'
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@echo '==> The tests (most of them wait for an engine, so there are more workers than cores)'
	@$(call PYTEST,,-n 4)

test-e2b: .venv/.installed-dev  ## E2B's SDK and programs on it, each in an environment of its own
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@$(call PYTEST,-m e2b tests/e2b)

test-clients: .venv/.installed-dev  ## clients of SandboxFusion's interface, each in an environment of its own
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@$(call PYTEST,-m clients tests/clients)

test-compat-clients: .venv/.installed-dev  ## programs for ms-enclave from PyPI, each in an environment of its own
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) multi
	@$(BIN)/pytest -m compat_clients tests/compat

test-languages: .venv/.installed-dev  ## programs in every language of the image multi, which is built if it is not there
	@$(BIN)/python scripts/setup_engine.py --images python:3.11-slim multi \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@$(BIN)/pytest -m languages tests/languages

unit: .venv/.installed-dev  ## the tests that need no engine and start no interpreter: a verdict in a minute or two
	@$(BIN)/pytest -n 2 -m 'not docker and not bubblewrap and not processes'

coverage: .venv/.installed-dev  ## which lines the tests without an engine execute, the agent in its sandboxes included; holds the floors
	@echo '==> Coverage; a test that fails here is judged by make test'
	@$(BIN)/python scripts/measure_coverage.py

test-cpython: .venv/.installed-dev  ## some of CPython's own tests in sandboxes, where this machine has them
	@$(BIN)/pytest -n 2 -m cpython tests/cpython

test-providers: .venv/.installed-dev  ## tool calls with the real SDKs of model providers
	@$(call PYTEST,-m providers tests/providers)

test-vm: .venv/.installed-dev  ## bubblewrap and limits under cgroup v2, in a virtual machine of Debian 12 without acceleration (hours)
	@$(BIN)/python scripts/test_vm.py $(if $(PARTS),--only $(PARTS)) $(if $(TESTS),-- $(TESTS))

test-pyright: .venv/.installed-dev  ## what the documents show, checked with pyright
	@$(BIN)/pytest -m pyright tests/types

test-browser: .venv/.installed-dev  ## the server's page in Chromium (Debian's package), driven by Playwright
	@$(PIP) install -q 'playwright>=1.50'
	@$(BIN)/pytest -m browser tests/browser

test-mcp: .venv/.installed-dev  ## the MCP server under the official SDKs, each in an environment of its own
	@$(call PYTEST,-m mcp tests/mcp)

test-ray: private BIN := .envs/ray/bin
test-ray: .envs/ray/.installed  ## managers over two simulated nodes of a Ray cluster
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@$(call PYTEST,-m ray tests/ray tests/test_documents.py)

test-ray-conformance: private BIN := .envs/ray/bin
test-ray-conformance: .envs/ray/.installed  ## what every manager can do, over a Ray cluster, with bubblewrap and Docker
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: tests that need the engine are skipped (with CI=true they fail)'
	@$(call PYTEST,-m ray tests/conformance/test_managers.py)

test-slow: test-pyright test-providers test-clients test-mcp test-e2b test-ray  ## the slow suites that CI runs

lint: .venv/.installed-dev  ## check format and style
	@echo '==> Format and style'
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

format: .venv/.installed-dev  ## put the format right
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

typecheck: .venv/.installed-dev  ## check the types
	@echo '==> Types'
	@$(BIN)/mypy --strict enclave $(wildcard ms_enclave)

engine: .venv/.installed  ## set up a container engine if none answers
	@$(BIN)/python scripts/setup_engine.py

images: .venv/.installed  ## have the images: pulled where a registry answers, else built
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES)

bench: .venv/.installed-dev  ## measure everything beside other programs and write docs/benchmarks (12 minutes; NOTE="..." is put on top)
	@$(BIN)/python scripts/setup_engine.py --images $(IMAGES) \
		|| echo '==> Going on without: what needs the engine is left out'
	@$(BIN)/python -m benchmarks --output docs/benchmarks --note '$(NOTE)'

bench-prepare: .venv/.installed-dev  ## make the environments of other programs that make bench needs, once
	@$(BIN)/python -m benchmarks --prepare

bench-short: .venv/.installed-dev  ## a few ratios that nothing may make much worse (CI)
	@echo '==> An engine for the short benchmarks'
	@$(BIN)/python scripts/setup_engine.py --images python:3.11-slim \
		|| echo '==> Going on without: what needs the engine is left out'
	@$(BIN)/python -m benchmarks --short

docs: .venv/.installed-dev  ## build the documentation's site into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: .venv/.installed-dev  ## build the wheel and the source distribution, and check them as the index would
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >/dev/null
	@$(BIN)/twine check --strict dist/*

clean:  ## remove the virtual environment, builds and caches
	rm -rf .venv .envs .tox build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Ray brings much with it; the environment of the other tests stays as it is without.
.envs/ray/.installed: .venv/.installed-dev
	@echo '==> Installing ms-enclave, the tools of its tests and Ray into .envs/ray'
	@rm -rf .envs/ray
	@$(BIN)/python -m venv .envs/ray
	@.envs/ray/bin/python -m pip --disable-pip-version-check install -q -e '.[dev,ray]'
	@touch $@

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo 'Python 3.10 or later is needed: apt-get install python3 python3-venv'; exit 1; }
	@echo '==> Making the virtual environment .venv with $(PYTHON)'
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo 'venv is missing: apt-get install python3-venv'; exit 1; }

.venv/.installed: .venv/bin/python setup.cfg setup.py pyproject.toml
	@echo '==> Installing ms-enclave and what it stands on into .venv'
	@$(PIP) install -e '.[bubblewrap]'
	@touch $@

.venv/.installed-dev: .venv/bin/python setup.cfg setup.py pyproject.toml
	@echo '==> Installing ms-enclave and the tools of its tests into .venv'
	@$(PIP) install -e '.[dev]'
	@touch .venv/.installed $@
