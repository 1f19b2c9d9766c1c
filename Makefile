# Every target makes its own environment, .venv, from a bare python3 with venv; nothing else is needed.
# `make PYTHON=python3.12 test` chooses another interpreter, `make TESTS=tests/io test` a part of the tests.

PYTHON ?= python3
TESTS ?=
# Two processes, one compiled loop each: on two cores faster than one process with two threads.
PYTEST ?= NUMBA_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-integration test-exhaustive lint types layers docs check format lock clean

demo: .venv/ready  ## a phantom through the whole pipeline, to a report
	.venv/bin/lungvq doctor
	.venv/bin/lungvq demo -o demo-output

test: .venv/ready  ## all tests that need nothing but Python
	$(PYTEST) $(TESTS)

test-integration: .venv/ready  ## tests that need a browser, a PACS, DCMTK or poppler; installs what it may
	@missing=""; \
	command -v chromium >/dev/null || missing="$$missing chromium"; \
	command -v pdftotext >/dev/null || missing="$$missing poppler-utils"; \
	[ -x /usr/sbin/Orthanc ] || command -v Orthanc >/dev/null || missing="$$missing orthanc"; \
	ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so* >/dev/null 2>&1 || missing="$$missing orthanc-dicomweb"; \
	[ -x /usr/bin/dsrdump ] || missing="$$missing dcmtk"; \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
		&& apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } \
		|| echo "not here, and not to be installed from here:$$missing; tests that need them will be skipped"
	$(PYTEST) -m integration $(TESTS)

test-exhaustive: .venv/ready  ## tests that take many minutes, before a release
	.venv/bin/python -m pytest -m exhaustive $(TESTS)

lint: .venv/ready
	.venv/bin/ruff check
	.venv/bin/ruff format --check

types: .venv/ready
	.venv/bin/mypy

layers: .venv/ready
	.venv/bin/lint-imports

docs: .venv/ready  ## the site, then every command and example in it
	.venv/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	.venv/bin/python docs/run_examples.py

check: lint types layers  ## what can be said without running anything

format: .venv/ready
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

.venv/ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "lungvq needs Python 3.11, 3.12 or 3.13; choose one with: make PYTHON=python3.x ..."; exit 1; }
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv || { \
		echo "python3 cannot make environments; on Debian: apt install python3-venv"; exit 1; }
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock:  ## pin the newest releases that fit; the one target that needs uv
	{ echo "# Made by make lock, for Python 3.11 to 3.13 on Linux, macOS and Windows."; \
		uv pip compile --quiet --universal --python-version 3.11 --group dev --no-header --no-annotate \
		--no-emit-index-url pyproject.toml; } > requirements-dev.lock

clean:
	rm -rf .venv demo-output build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
