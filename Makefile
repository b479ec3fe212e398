# Two commands matter: `make demo` trains and shows a captioner, `make test` checks everything.
# Both make .venv first. PYTHON names the Python it is made with: 3.11 or later.

PYTHON ?= python3
IN = .venv/bin/python -m

.PHONY: setup demo test pytest lint style types lock clean

setup:
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or later, or name yours: make setup PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is `"$(PYTHON)" --version 2>&1`, and Python 3.11 or later is needed; name another: make setup PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" scripts/make_environment.py

demo: setup
	@.venv/bin/python scripts/demo.py

# The types are checked on one core while the first tests run: it takes most of a minute.
test: style
	@$(MAKE) --no-print-directory --jobs=2 types pytest

# Whole files go to one process each, so that what a file sets up is set up once.
pytest: setup
	@$(IN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: style types

style: setup
	@$(IN) ruff check
	@$(IN) ruff format --check

types: setup
	@$(IN) mypy

# Renews every pin within the ranges of pyproject.toml. Hashes, and no address to fetch from. The
# images get of the same versions those that they need: to serve, and to train as well.
COMPILE = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --quiet
SERVE = --extra serving --extra tracing
lock: setup
	@$(IN) $(COMPILE) --all-extras --upgrade --output-file requirements.lock
	@$(IN) $(COMPILE) $(SERVE) --upgrade --constraints requirements.lock --output-file deploy/runtime.lock
	@$(IN) $(COMPILE) $(SERVE) --extra training --upgrade --constraints requirements.lock \
		--output-file deploy/training.lock

# Leaves runs/ and data/ alone.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +
