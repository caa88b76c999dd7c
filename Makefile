# `make demo` and `make test` need Python >= 3.11 and pip, nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check lint types format examples bench clean

# make demo                                  9x9 Sudokus from the generator
# make demo DATA=puzzles.csv [MAX_RATING=1.5] your own puzzles
demo: $(READY)
	$(BIN)/python examples/demo_sudoku.py $(if $(DATA),--data "$(DATA)") $(if $(MAX_RATING),--max-rating $(MAX_RATING))

test: $(READY)
	$(BIN)/python -m pytest

check: lint types test

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

examples: $(READY)
	set -e; for example in examples/plot_*.py; do MPLBACKEND=agg $(BIN)/python $$example; done

bench: $(READY)
	$(BIN)/python benchmarks/foundation.py
	$(BIN)/python benchmarks/choices.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "sktrm needs Python >= 3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,plot]'
	touch $(READY)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
