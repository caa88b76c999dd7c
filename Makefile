# `make demo` and `make test` need Python >= 3.11 and pip, nothing else.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
OLDEST := .venv-oldest
# Tests at a time.
JOBS ?= 2

.PHONY: demo test check check-oldest lint types format examples bench \
	bench-choices bench-curves bench-growth bench-noise \
	bench-sudoku bench-mazes bench-arc clean

# make demo                                  9x9 Sudokus from the generator
# make demo DATA=puzzles.csv [MAX_RATING=1.5] your own puzzles
demo: $(READY)
	$(BIN)/python examples/demo_sudoku.py $(if $(DATA),--data "$(DATA)") $(if $(MAX_RATING),--max-rating $(MAX_RATING))

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS)

check: lint types test

# The contract and the ecosystem on the oldest scikit-learn that is supported.
check-oldest: $(OLDEST)/.ready
	$(OLDEST)/bin/python -m pytest -n $(JOBS) tests/test_common.py tests/test_ecosystem.py \
		tests/test_classifier.py tests/test_tables.py

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

# All cases but the attention over 900 cells, of which a step takes too long on two cores.
SPEED_CASES := "512, mlp, 81 cells" "512, attention, 81 cells" \
	"128, mlp, 81 cells" "128, attention, 81 cells" \
	"equivariant 32, 81 x 9" "equivariant 96, 81 x 9" "table of 20 columns"

bench: $(READY)
	$(BIN)/python benchmarks/foundation.py
	$(BIN)/python benchmarks/speed.py --rounds 3 --cases $(SPEED_CASES)

# What stands behind the defaults of loss and halting threshold: eight minutes.
bench-choices: $(READY)
	$(BIN)/python benchmarks/choices.py

# What stands behind the encoding of numbers in tables: 50 minutes on one core.
bench-curves: $(READY)
	$(BIN)/python benchmarks/curves.py --threads 1

bench-noise: $(READY)
	$(BIN)/python benchmarks/noisy_labels.py --threads 1

# What depth and length cost: seven minutes.
bench-growth: $(READY)
	$(BIN)/python benchmarks/growth.py

# The published benchmarks. make bench-sudoku ARGS='--budget 600 --out sudoku.jsonl'
bench-sudoku: $(READY)
	$(BIN)/python benchmarks/sudoku_extreme.py $(ARGS)

bench-mazes: $(READY)
	$(BIN)/python benchmarks/maze_hard.py $(ARGS)

bench-arc: $(READY)
	$(BIN)/python benchmarks/arc_agi.py $(ARGS)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "sktrm needs Python >= 3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,plot]'
	touch $(READY)

$(OLDEST)/.ready: pyproject.toml constraints-oldest.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), "the oldest versions need Python 3.11 or 3.12"'
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[plot]' pandas polars pytest \
		pytest-xdist
	touch $(OLDEST)/.ready

clean:
	rm -rf .venv $(OLDEST) .mypy_cache .pytest_cache .ruff_cache
