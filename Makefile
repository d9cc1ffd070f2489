# Drupelet. `make` alone lists the targets. Each installs what it needs into .venv first; that takes
# a minute the first time and nothing later. Needed before: make, python3 (3.11 or later), python3-venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := daemon/requirements
PYTEST := $(BIN)/python -m pytest
PIP := $(BIN)/python -m pip --disable-pip-version-check

SEED ?= 17
RUNS ?= 1000000
NODES ?= 3

# Hard limits: a lost wake-up must not hang a run. The targets themselves are far quicker.
TEST_S := 600
CHECK_S := 300
REAL_S := 600
NETNS_S := 600
SIM_S := 600
BENCH_S := 3600
FUZZ_S := 14400
LIMIT = timeout --kill-after=10

.DEFAULT_GOAL := help
.PHONY: help venv dev run test check format bench fuzz sim real netns lock clean \
  real-nodes real-relays netns-nodes netns-relays real-args netns-args

help: ## this list
	@echo 'Drupelet: a cluster of Raspberry Pis. Targets:'
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo 'Variables: SEED=17 (sim), RUNS=1000000 (fuzz), NODES=3 (run), ARGS=... (pytest, bench, sim).'

venv: $(VENV)/.run ## .venv with what the daemon needs

dev: $(VENV)/.dev ## .venv with the development tools besides

run: $(VENV)/.run ## a cluster of three nodes on this machine, in the foreground
	$(BIN)/drupelet demo -n $(NODES)

test: $(VENV)/.dev ## every test that needs no root and no other program
	$(LIMIT) $(TEST_S) $(PYTEST) $(wildcard tests/unit tests/tidy tests/sim tests/ladder) $(ARGS)

check: $(VENV)/.dev ## formatting, lint, types, and the rules of the house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(LIMIT) $(CHECK_S) $(BIN)/mypy
	$(LIMIT) $(CHECK_S) $(PYTEST) tests/tidy $(ARGS)

format: $(VENV)/.dev ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## ours and other systems, side by side
	$(LIMIT) $(BENCH_S) $(BIN)/python tests/bench/run.py $(ARGS)

fuzz: $(VENV)/.fuzz ## junk into every parser, RUNS executions each
	$(LIMIT) $(FUZZ_S) $(BIN)/python tests/fuzz/run_all.py --runs $(RUNS)

sim: $(VENV)/.run ## clusters, their processes, and strangers, in virtual time; SEED replays a run exactly
	$(LIMIT) $(SIM_S) $(BIN)/python -m drupelet.simulator --seed $(SEED)
	$(LIMIT) $(SIM_S) $(BIN)/python -m tests.sim.process_seeds --seed $(SEED)000 --seeds 500 $(ARGS)
	$(LIMIT) $(SIM_S) $(BIN)/python -m tests.sim.stranger_seeds --seed $(SEED)000 --seeds 500 $(ARGS)

# These two wait most of the time: two halves side by side, unless ARGS names a path.
RELAYED := relay% once way words http_calls
halves = $(filter $(RELAYED:%=tests/$(1)/test_%.py),$(wildcard tests/$(1)/test_*.py))
others = $(filter-out $(RELAYED:%=tests/$(1)/test_%.py),$(wildcard tests/$(1)/test_*.py))
side_by_side = +$(MAKE) --no-print-directory -j2 --output-sync=target $(if $(findstring tests/,$(ARGS)),$(1)-args,$(1)-nodes $(1)-relays)

real: $(VENV)/.dev ## tests with real processes, and with Erlang where it is installed
	$(call side_by_side,real)

real-nodes:
	$(LIMIT) $(REAL_S) $(PYTEST) $(call others,integration) tests/oracle tests/ladder --ladder 2 --durations=10 $(ARGS)

real-relays:
	$(LIMIT) $(REAL_S) $(PYTEST) $(call halves,integration) --durations=10 $(ARGS)

netns: $(VENV)/.dev ## tests in network namespaces; needs root
	$(call side_by_side,netns)

netns-nodes:
	$(LIMIT) $(NETNS_S) $(PYTEST) $(call others,netns) tests/ladder --ladder 3 --durations=10 $(ARGS)

netns-relays:
	$(LIMIT) $(NETNS_S) $(PYTEST) $(call halves,netns) --durations=10 $(ARGS)

real-args netns-args:
	$(LIMIT) $(REAL_S) $(PYTEST) $(ARGS)

# -- the environment

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo 'python3 is missing. Type: sudo apt install python3 python3-venv' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Drupelet needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.13 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'The module venv is missing. Type: sudo apt install python3-venv' >&2; exit 1; }
	@echo 'Making $(VENV) ...'
	@$(PYTHON) -m venv $(VENV)

# Exactly the files of the locks, by digest; then this tree itself, editable, without any download.
$(VENV)/.run: $(LOCKS)/run.lock $(LOCKS)/build.lock pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes --only-binary=:all: -r $(LOCKS)/build.lock -r $(LOCKS)/run.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev $(VENV)/.fuzz $(VENV)/.bench: $(VENV)/.%: $(LOCKS)/%.lock $(VENV)/.run
	$(PIP) install --quiet --require-hashes --only-binary=:all: -r $<
	@touch $@

# New versions: writes the locks anew from pyproject.toml, from the public index only.
COMPILE = env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null \
  CUSTOM_COMPILE_COMMAND='make lock' build/lock/bin/pip-compile --quiet --upgrade --strip-extras \
  --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
  --resolver=backtracking

lock: ## new versions of everything into the lock files
	@$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet pip-tools
	$(COMPILE) -o $(LOCKS)/build.lock $(LOCKS)/build.in
	$(COMPILE) -o $(LOCKS)/run.lock pyproject.toml
	set -e; for extra in dev fuzz bench relay; do \
	  $(COMPILE) --extra $$extra -c $(LOCKS)/run.lock -o $(LOCKS)/$$extra.lock pyproject.toml; done
	@! grep -nE '(://|file:/|@ /)' $(LOCKS)/*.lock || { echo 'A lock names an address.' >&2; exit 1; }

clean: ## remove everything that a target made
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find daemon tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf daemon/drupelet.egg-info
