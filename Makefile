PYTHON ?= python3
BIN := .venv/bin
DOCS := README.md scenarios/README.md tools/changes/README.md tools/own_files/README.md
DEMO := scenarios/suites/demo/3215b5db.yaml
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint docs clean

demo: .venv/ready
	$(BIN)/auditor run $(DEMO)

test: .venv/ready lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m cogapp --check $(DOCS)

docs: .venv/ready
	$(BIN)/python -m cogapp -r $(DOCS)

.venv/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,llm]'
	touch $@

clean:
	rm -rf .venv build dist audit-reports auditor.db*
