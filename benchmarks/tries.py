"""How random states of further tries are dealt to interchangeable symbols.

``python benchmarks/tries.py sudokus.csv --min-rating 7`` lets the weights of the
package, which were not trained on it, solve puzzles of the file (columns source,
question, answer, rating) with 1 to 16 tries, but none of those that sudoku.py tests
with. The package deals a state to the symbols
in the order in which a question shows them; by name, or the same part to all, are here
alone.
"""

import argparse

import numpy as np
from _report import add_machine, choosing_part, prepare, split

from sktrm import load_pretrained
from sktrm.datasets import load_sudoku
from sktrm.nn.equivariant import EquivariantEmbedding
from sktrm.nn.recursion import Embedding


def same_for_all(self, state, inputs):
    """Give the part of the first symbol to all of them."""
    return Embedding.allot(self, state[:, :, :1].expand_as(state), inputs)


DEALS = {
    "in order of appearance": EquivariantEmbedding.allot,
    "by name": Embedding.allot,
    "the same for all": same_for_all,
}


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sudoku", help="CSV file of 9x9 puzzles")
    parser.add_argument("--min-rating", type=float, default=0)
    parser.add_argument("--n-puzzles", type=int, default=400)
    parser.add_argument("--tries", type=int, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--noise", type=float, help="deviation of the random states")
    parser.add_argument("--seed", type=int, default=0)
    add_machine(parser)
    return parser.parse_args()


def main():
    args = read_arguments()
    prepare(args)
    bunch = load_sudoku(args.sudoku)
    (rest, _), _ = choosing_part(np.arange(len(bunch.data)), bunch.target)
    _, (tested, _) = split(rest, bunch.target[rest], 500, 0)
    hard = np.setdiff1d(np.flatnonzero(bunch.rating >= args.min_rating), tested)
    rows = np.random.RandomState(args.seed).permutation(hard)[: args.n_puzzles]
    X, y = bunch.data[rows], bunch.target[rows]
    solver = load_pretrained("sudoku-extreme")
    if args.noise:
        solver.set_params(rollout_noise=args.noise)
    print(f"{len(X)} puzzles\n{'states are dealt':<25}{'tries':<8}{'solved':<10}steps")
    for name, allot in DEALS.items():
        EquivariantEmbedding.allot = allot
        for n_tries in args.tries:
            solutions = solver.solve(X, n_rollouts=n_tries)
            exact = (solutions.answers == y).all(axis=(1, 2)).mean()
            steps = solutions.n_steps.mean()
            print(f"{name:<25}{n_tries:<8}{exact:<10.4f}{steps:.1f}", flush=True)


if __name__ == "__main__":
    main()
