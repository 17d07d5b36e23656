# Everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install test lint demo run bench accuracy interop

# Again when dependencies or compiled kernels change; without a C compiler their plain twins serve.
$(INSTALLED): pyproject.toml $(shell find bridge -name '*.pyx' -o -name '*.pxd')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,lint]'
	touch $@

install: $(INSTALLED)

test: install
	$(BIN)/python -m pytest $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: install
	$(BIN)/python examples/demo.py $(if $(KEEP),--keep)

run: install
	$(BIN)/espan-bridge run --config conf/bridge.toml

bench: install
	$(BIN)/python -m tests.bench $(ARGS)

accuracy: install
	$(BIN)/python -m tests.accuracy $(ARGS)

# Real peers: builds those that the tools here allow (PEERS= some of them), then runs the tests, which say what they skip.
interop: install
	$(BIN)/python -m tests.interop.peers $(PEERS)
	$(BIN)/python -m pytest tests/interop $(ARGS)
