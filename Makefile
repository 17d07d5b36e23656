# Everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: install test lint demo run bench protos schemas clean

$(BIN)/espan-bridge: pyproject.toml $(shell find bridge -name '*.pyx')
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test,demo,lint]'
	touch $@

install: $(BIN)/espan-bridge

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
