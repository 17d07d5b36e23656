# Everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install test lint demo run bench accuracy torture fuzz lock interop dist

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

# What is broken for real, at length. Variables of the command line are the scenarios' options: `make torture`,
# `make torture ONLY=kills,terms KILLS=1000`, `make torture ONLY=soak SOAK_S=1800`.
torture: install
	$(BIN)/python -m tests.torture $(if $(ONLY),--only $(ONLY)) $(ARGS) -- \
		$(filter-out ONLY=% ARGS=% VENV=% PYTHON=%,$(MAKEOVERRIDES))

# Inputs of every decoder, or of TARGET alone, for SECONDS each; SANITIZE=1 with kernels that watch every access.
fuzz: install
	$(BIN)/python -m pip install --quiet --group fuzz
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60) $(if $(TARGET),--target $(TARGET)) $(if $(SANITIZE),--sanitize)

# The versions and hashes that the image is made of, for every Python from 3.11 on; UPGRADE=1 takes the newest.
LOCK := --universal --python-version 3.11 --generate-hashes --no-annotate --quiet --custom-compile-command 'make lock'
lock: install
	$(BIN)/python -m pip install --quiet --group lock
	$(BIN)/uv pip compile pyproject.toml $(LOCK) $(if $(UPGRADE),--upgrade) --output-file requirements.lock
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" \
		| $(BIN)/uv pip compile - $(LOCK) $(if $(UPGRADE),--upgrade) --output-file build.lock

# Real peers: builds those that the tools here allow (PEERS= some of them), then runs the tests, which say what they skip.
interop: install
	$(BIN)/python -m pip install --quiet --group interop
	$(BIN)/python -m tests.interop.peers $(PEERS)
	$(BIN)/python -m pytest tests/interop $(ARGS)

# The sdist and a manylinux wheel, in dist/, each installed and run away from this folder; ARGS=--quick keeps neither and
# compiles without optimisation.
dist: install
	$(BIN)/python -m pip install --quiet --group dist
	$(BIN)/python -m tests.release $(ARGS)
