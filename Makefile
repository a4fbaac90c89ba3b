# make demo   from a fresh machine: environment, install, quickstart search
# make test   the same from nothing: install with test extras, run the tests
# make check  what CI runs; never edits        make fmt  edits
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: demo test check fmt venv clean

demo: venv
	$(BIN)/mixopt search pipelines/jobs/quickstart.yaml
	@echo "open runs/quickstart/report.html"

test: venv
	$(BIN)/python -m pytest -n 2  # two workers: half of the time goes into processes that are killed and started

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

fmt: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(STAMP)

# torch comes through pip, which knows where a CPU build may lie (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL); the rest through
# uv, ten times faster. On a machine with an NVIDIA GPU the plain wheel of the registry is the right one.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mixopt needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv -c constraints.txt
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[test]'
	@touch $(STAMP)

clean:
	rm -rf .venv runs
