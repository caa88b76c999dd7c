"""Sudoku-Extreme: train on 1,000 puzzles for a given time, solve hard unseen ones.

``python benchmarks/sudoku_extreme.py --budget 1800 --resume sudoku.ckpt --out
sudoku.jsonl`` fetches the data, holds some training puzzles out to choose the weights
by, trains for 30 minutes and reports on test puzzles, which choose nothing.
``--load sudoku-extreme`` reports on the weights of the package, or of a file, instead;
``--start-from sudoku-extreme`` trains on from them;
``--reference DIR`` trains the authors' code, a checkout of theirs in DIR.
"""

import numpy as np
from _report import (
    figures,
    or_skip,
    parser,
    prepare,
    record,
    show,
    show_literature,
    test_part,
    three_parts,
    train,
    trained,
)

from sktrm import TRMSolver, load_pretrained
from sktrm.datasets import fetch_sudoku_extreme, is_solved_sudoku

# Exact match, steps at prediction and source.
LITERATURE = [
    ("HRM, 27M parameters", "55.0 (16 steps)", "arXiv:2506.21734"),
    ("TRM, MLP mixer, 5M", "87.4 (16); re-runs 84.8 to 87.3", "arXiv:2510.04871"),
    ("TRM, attention, 7M", "74.7 (16)", "arXiv:2510.04871"),
    ("SE-RRM, symbol-equivariant, 2M", "93.7 (16), 98.2 (64)", "arXiv:2603.02193"),
    (
        "digit-equivariant mixer, 0.79M",
        "95.4 (16), 99.05 (64)",
        "github.com/Aakash-Marthandan/Fixed-Point-Reasoner-Structures",
    ),
    ("winner takes all over 4 starts, 7M", "96.9 (16)", "arXiv:2601.19085"),
    ("TRM, 100 noisy rollouts, 5M", "98.75 (64)", "arXiv:2605.19943"),
    ("EqR, 128 starts, 5M", "99.8 (64)", "arXiv:2605.21488, abstract"),
]


def read_arguments(arguments=None):
    found = parser(__doc__, budget=1800)
    found.add_argument("--n-train", type=int, default=1000, help="puzzles to learn")
    found.add_argument(
        "--passes", type=int, default=12, help="over the puzzles between validations"
    )
    found.add_argument("--tries", type=int, default=1, help="in two more reports")
    found.add_argument("--load", help="what load_pretrained takes; no training then")
    found.add_argument("--start-from", help="what load_pretrained takes: train on")
    found.add_argument("--reference", help="a checkout of the authors' code")
    found.add_argument("--reference-set", default="{}", help="their settings, as JSON")
    args = found.parse_args(arguments)
    if args.reference and args.resume:
        found.error("--resume goes with our code, not with --reference")
    if args.load and (args.resume or args.reference or args.save or args.start_from):
        found.error(
            "--load trains nothing: leave out --resume, --reference, --save and "
            "--start-from"
        )
    if args.reference and args.start_from:
        found.error("--start-from goes with our code, not with --reference")
    return args


def read(args):
    """Return puzzles to train on, to choose by and to test with, and their ratings.

    Where weights are loaded, there are none of the first two.
    """
    test = fetch_sudoku_extreme("test", data_home=args.data_home)
    if args.load:
        return None, None, *test_part(args, test)
    given = {"random_state": args.seed, "data_home": args.data_home}
    some = fetch_sudoku_extreme("train", n_samples=args.n_train, **given)
    return three_parts(args, some, test)


def ways(args, solver):
    """Yield a name and parameters for each way to predict."""
    for n_steps in sorted({solver.n_supervision_steps, 16, 32}):
        how = {"n_rollouts": 1, "max_steps": n_steps}
        yield f"one try, at most {n_steps} steps", how
    if solver.symbols is not None:  # else one try is the default
        yield "by default", {}
    if args.tries > 1:
        tries = {"n_rollouts": args.tries}
        yield f"{args.tries} tries", tries
        yield f"{args.tries} tries, verifier", {**tries, "verifier": is_solved_sudoku}


def to_train(args):
    """Return the solver to train, new or fitted before."""
    if args.start_from is None:
        return TRMSolver.from_recipe("sudoku-extreme", args.size)
    return load_pretrained(args.start_from, device=args.device).set_params(
        warm_start=True
    )


def run(args):
    """Train and report; return the figures of each way to predict."""
    prepare(args)
    data = or_skip(read, args)
    if data is None:
        return []
    train_rows, validation, test, rating = data
    if args.reference:
        from _authors import run_authors

        return [run_authors(args, train_rows, validation, test, rating)]
    if args.load:
        solver = load_pretrained(args.load, device=args.device)
        about = {"n_parameters": sum(p.numel() for p in solver.module_.parameters())}
    else:
        solver = to_train(args)
        X, y = (np.concatenate([part] * args.passes) for part in train_rows)
        X_val, y_val = validation
        seconds = train(args, solver, X, y, X_val=X_val, y_val=y_val)
        about = trained(solver, seconds)
    found = []
    for name, how in ways(args, solver):
        found.append(
            {"way": name, **figures(*test, solver.solve(test[0], **how), rating)}
        )
        show(name, found[-1])
        record(args, solver._device, about, found[-1])
    return found


def main():
    run(read_arguments())
    show_literature(LITERATURE)


if __name__ == "__main__":
    main()
