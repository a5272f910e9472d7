PYTHON ?= python3
BIN := .venv/bin
DOCS := README.md scenarios/README.md tools/changes/README.md tools/own_files/README.md tools/concern/CARD.md
DEMO := scenarios/suites/demo/3215b5db.yaml
ENGLISH_DEMO := scenarios/suites/english_demo/10d5c717.yaml
export OMP_NUM_THREADS ?= 1

.PHONY: demo demo-small test lint docs clean

demo: .venv/ready
	@$(BIN)/auditor testbed english base; case $$? in \
	0) set -x; env -u OMP_NUM_THREADS $(BIN)/auditor run $(ENGLISH_DEMO) --budget 80000;; \
	5) echo 'so a model of the small language is audited instead'; $(MAKE) --no-print-directory demo-small;; \
	*) exit 1;; esac

demo-small: .venv/ready
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
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,llm,english,topics]'
	touch $@

clean:
	rm -rf .venv build dist audit-reports auditor.db*
