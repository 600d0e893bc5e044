# Everything here does its own set-up: a fresh machine needs Python >= 3.11, make and git.

PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip
LOCK := $(UV) compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -q

.PHONY: demo test check fmt bench bench-auth prove-limits prove-faults prove-redaction simulate-limits lock clean

demo: .venv/.runtime
	$(BIN)/stratmaster-router demo $(ARGS)

test: .venv/.dev .venv-litellm/.installed
	$(BIN)/pytest $(ARGS)

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(UV) check -q -p $(BIN)/python
	$(BIN)/python scripts/check_requirements.py

fmt: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.dev
	PYTHONPATH=packages/router/tests $(BIN)/python -m bench $(ARGS)

bench-auth: .venv/.dev
	PYTHONPATH=packages/router/tests $(BIN)/python -m bench.auth $(ARGS)

prove-limits: .venv/.dev
	PYTHONPATH=packages/router/tests $(BIN)/python scripts/prove_limits.py $(ARGS)

prove-faults: .venv/.dev .venv-litellm/.installed
	PYTHONPATH=packages/router/tests $(BIN)/python scripts/prove_faults.py $(ARGS)

prove-redaction: .venv/.dev
	PYTHONPATH=packages/router/tests $(BIN)/python scripts/prove_redaction.py $(ARGS)

simulate-limits: .venv/.dev
	PYTHONPATH=packages/router/tests $(BIN)/python scripts/simulate_limits.py $(ARGS)

# Resolve anew. The locks are hashed requirements files: uv.lock would write registry addresses into the repository.
lock: .venv/.bootstrap
	$(LOCK) packages/router/pyproject.toml --group pyproject.toml:dev -o requirements/dev.txt
	$(LOCK) packages/router/pyproject.toml -c requirements/dev.txt -o requirements/runtime.txt
	$(LOCK) packages/router/pyproject.toml --extra litellm -c requirements/runtime.txt -o requirements/litellm.txt
	$(LOCK) pyproject.toml --group pyproject.toml:bootstrap -c requirements/dev.txt -o requirements/bootstrap.txt

clean:
	rm -rf .venv .venv-litellm .cache

.venv/.bootstrap: requirements/bootstrap.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	touch $@

.venv/.runtime: .venv/.bootstrap requirements/runtime.txt packages/router/pyproject.toml
	$(UV) install -q --compile-bytecode -p $(BIN)/python --require-hashes -r requirements/runtime.txt
	$(UV) install -q -p $(BIN)/python --no-deps --no-build-isolation -e packages/router
	touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	$(UV) install -q --compile-bytecode -p $(BIN)/python --require-hashes -r requirements/dev.txt
	touch $@

# LiteLLM has an environment of its own: see docs/decisions/0012-litellm-bridge.md.
.venv-litellm/.installed: .venv/.bootstrap requirements/litellm.txt packages/router/pyproject.toml
	test -x .venv-litellm/bin/python || $(BIN)/uv venv -q -p $(BIN)/python .venv-litellm
	$(UV) install -q --compile-bytecode -p .venv-litellm/bin/python --require-hashes -r requirements/litellm.txt -r requirements/bootstrap.txt
	$(UV) install -q -p .venv-litellm/bin/python --no-deps --no-build-isolation -e packages/router
	touch $@
