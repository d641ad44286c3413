# Each target makes the virtual environment first, if it is not there.
python ?= python3
bin := .venv/bin

.PHONY: run test test-all check format bench docs

run: .venv/ready
	$(bin)/penstock run

test: .venv/ready
	$(bin)/pytest -q -n 2 -m "not slow"

test-all: .venv/ready
	$(bin)/pytest -q -n 2 --hypothesis-profile thorough

check: .venv/ready
	$(bin)/ruff check . && $(bin)/ruff format --check . && $(bin)/mypy

format: .venv/ready
	$(bin)/ruff check --fix . ; $(bin)/ruff format .

bench: .venv/ready
	for file in bench/*.py; do echo "== $$file"; $(bin)/python $$file || exit 1; done

docs: .venv/docs
	$(bin)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(python) -m venv .venv
	$(bin)/pip install -q -c constraints.txt -e ".[run,exact,test]"
	touch $@

.venv/docs: .venv/ready
	$(bin)/pip install -q -c constraints.txt -e ".[docs]"
	touch $@
