# Two commands do everything: `make run` and `make test`. Both set up what they need first.
#
# Needs a Debian-like system with Python 3.11 or later (with venv and pip), make and git; the rest is
# installed into .venv from requirements.lock.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$p; break; fi; done)
# Most tests wait for servers and processes, not for the CPU.
JOBS ?= 3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml requirements.lock | sha256sum | cut -c1-16)

.PHONY: run test test-full lint bench bench-queue bench-replay bench-queries docs clean setup lock

setup: $(STAMP)

$(STAMP):
	@test -n "$(PYTHON)" || { echo "Flux needs Python 3.11 or later: apt-get install python3 python3-venv python3-pip" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv is missing: apt-get install python3-venv python3-pip" >&2; exit 1; }
	@command -v git >/dev/null || { echo "git is missing: apt-get install git" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what requirements.lock names into $(VENV)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-* && touch $@

run: $(STAMP)
	@ONCE=$(ONCE) $(BIN)/python examples/orders/demo.py

# ARGS go to pytest: `make test ARGS="-k queue"`.
test: $(STAMP) lint
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

test-full: $(STAMP) lint
	FLUX_TEST_SCALE=20 $(BIN)/python -m pytest -n 2 --timeout 3600

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The queue beside other queues; ARGS="--jobs 10000" and the like. Installs the contenders first.
bench-queue: $(STAMP)
	$(BIN)/python -m benchmarks.queues $(ARGS)

# How long it takes to put a database back, and replay against the traffic's own speed.
bench-replay: $(STAMP)
	$(BIN)/python -m benchmarks.replay $(ARGS)

# Blame, history, trace and why against the size of the log; ARGS="--mutations 10000000".
bench-queries: $(STAMP)
	$(BIN)/python -m benchmarks.queries $(ARGS)

# The pages made from the database's comments and from the settings.
docs: $(STAMP)
	$(BIN)/python docs/generate.py

# A new lock: the tools in it are exactly what was resolved, with hashes, and no address of an index.
lock:
	$(BIN)/python -m piptools compile --quiet --extra dev --all-build-deps --generate-hashes \
		--allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links \
		--strip-extras --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache examples/orders/.flux
