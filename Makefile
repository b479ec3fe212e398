# Two commands matter: `make demo` trains and shows a captioner, `make test` checks everything.
# Both make .venv first. PYTHON names the Python it is made with: 3.11 or later.

PYTHON ?= python3
IN = .venv/bin/python -m

.PHONY: setup demo test lint lock clean

setup:
	@command -v "$(PYTHON)" >/dev/null || { echo "no $(PYTHON) here: install Python 3.11 or later, or name yours: make setup PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is `"$(PYTHON)" --version 2>&1`, and Python 3.11 or later is needed; name another: make setup PYTHON=python3.12"; exit 1; }
	@"$(PYTHON)" scripts/make_environment.py

demo: setup
	@.venv/bin/python scripts/demo.py

test: lint
	@$(IN) pytest

lint: setup
	@$(IN) ruff check
	@$(IN) ruff format --check
	@$(IN) mypy

# Renews every pin within the ranges of pyproject.toml. Hashes, and no address to fetch from.
lock: setup
	@$(IN) uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock

# Leaves runs/ and data/ alone.
clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -path ./.git -prune -o -name __pycache__ -prune -exec rm -rf {} +
