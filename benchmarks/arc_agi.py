"""ARC-AGI: learn tasks from their demonstrations, answer their tests in two attempts.

``python benchmarks/arc_agi.py --budget 1200 --n-tasks 20 --resume arc.ckpt --out
arc.jsonl`` trains on training tasks and on the demonstrations of evaluation tasks, as
the paper does, and writes a submission for the tests of the latter, which are never
trained on and choose nothing. ``--max-side`` leaves out tasks with larger grids, by
their demonstrations and the questions of their tests.
"""

import json
from collections import defaultdict

import numpy as np
from _report import (
    figures,
    interval,
    or_skip,
    parser,
    prepare,
    record,
    show,
    show_literature,
    train,
    trained,
)

from sktrm import TRMSolver
from sktrm.arc import arc_submission, pass_at_k
from sktrm.datasets import fetch_arc_agi

# Two attempts, public evaluation tasks of ARC-AGI-1 and -2.
LITERATURE = [
    ("TRM, attention, 7M parameters", "44.6 / 7.8", "arXiv:2510.04871"),
]


def read_arguments(arguments=None):
    found = parser(__doc__, budget=1200, holds_out=False)
    add = found.add_argument
    add("--version", type=int, choices=[1, 2], default=1)
    add("--n-tasks", type=int, default=20, help="evaluation tasks; 0 for all")
    add(
        "--n-training-tasks", type=int, default=0, help="of the training subset; -1 all"
    )
    add("--max-side", type=int, default=30, help="of the grids of the tasks taken")
    add("--votes", type=int, help="views that vote; all that were trained")
    add("--submission", default="submission.json", help="file to write")
    return found.parse_args(arguments)


def choose(arc, args):
    """Return the names of evaluation and training tasks, in the order of a shuffle.

    ConceptARC's come last: the others are the same with them and without.
    """
    concepts = set(arc.task_ids[arc.subset == "concept"])
    judged = set(arc.task_ids[np.char.startswith(arc.subset, "evaluation")])
    largest = defaultdict(int)
    for question, answer, task, is_test in zip(
        arc.data, arc.target, arc.task_ids, arc.is_test, strict=True
    ):
        # The answers that are judged are not looked at; those of others are learned.
        is_hidden = is_test and task in judged
        sides = question.shape if is_hidden else question.shape + answer.shape
        largest[task] = max(largest[task], *sides)
    shuffle = np.random.RandomState(args.seed)
    order = [
        *shuffle.permutation([task for task in largest if task not in concepts]),
        *(task for task in largest if task in concepts),
    ]
    fitting = [str(task) for task in order if largest[task] <= args.max_side]
    evaluation = [task for task in fitting if task in judged]
    training = [task for task in fitting if task not in judged]
    n_training = len(training) if args.n_training_tasks < 0 else args.n_training_tasks
    return evaluation[: args.n_tasks or None], training[:n_training]


def read(args):
    """Return rows to learn from, rows to answer, and the tasks judged."""
    # ConceptARC is among the paper's training tasks.
    concept = args.size == "paper" and args.n_training_tasks != 0
    arc = fetch_arc_agi(args.version, concept=concept, data_home=args.data_home)
    evaluation, training = choose(arc, args)
    is_judged = np.isin(arc.task_ids, evaluation) & arc.is_test
    is_learned = np.isin(arc.task_ids, [*evaluation, *training]) & ~is_judged
    return (_rows(arc, is_learned), _rows(arc, is_judged)), len(evaluation)


def _rows(arc, mask):
    rows = np.flatnonzero(mask)
    grids = ([source[i] for i in rows] for source in (arc.data, arc.target))
    return *grids, arc.task_ids[rows]


def by_task(answers, task_ids):
    """Return the right answers of each task, as in Kaggle's files."""
    solutions = defaultdict(list)
    for answer, task in zip(answers, task_ids, strict=True):
        solutions[str(task)].append(answer.tolist())
    return dict(solutions)


def make_solver(args):
    """Return the recipe's solver, for grids of the size that was taken."""
    solver = TRMSolver.from_recipe(f"arc-agi-{args.version}", args.size)
    # A test of few tasks may hold a colour that no demonstration has.
    return solver.set_params(
        canvas=(args.max_side, args.max_side), handle_unknown="ignore"
    )


def check(path, solutions):
    """Raise ValueError if the file is no submission for just these tasks."""
    with open(path, encoding="utf-8") as file:
        submission = json.load(file)
    if set(submission) != set(solutions):
        raise ValueError(f"{path} is not about the tasks that were asked.")
    for task, tests in submission.items():
        for test in tests:
            if len(tests) != len(solutions[task]) or set(test) != {
                "attempt_1",
                "attempt_2",
            }:
                raise ValueError(f"{path} has no two attempts at each test of {task}.")
    return submission


def run(args):
    """Train, answer, report; return the figures."""
    prepare(args)
    data = or_skip(read, args)
    if data is None:
        return None
    ((X, y, ids), (X_test, y_test, test_ids)), n_tasks = data
    solver = make_solver(args)
    seconds = train(args, solver, X, y, task_ids=ids)
    about = trained(solver, seconds)
    votes = args.votes or solver._sizes["n_views"]
    arc_submission(solver, X_test, test_ids, augment_votes=votes, path=args.submission)
    solutions = by_task(y_test, test_ids)
    submission = check(args.submission, solutions)
    found = {
        **figures(X_test, y_test, solver.solve(X_test, task_ids=test_ids)),
        "n_tasks": n_tasks,
        "n_learned": len(set(ids)),
        "votes": votes,
        **{f"pass@{k}": pass_at_k(submission, solutions, k) for k in (1, 2)},
        "demonstrations": solver.score(X, y, task_ids=ids),
    }
    for k in (1, 2):
        found[f"pass@{k}_interval"] = interval(found[f"pass@{k}"], n_tasks)
    low, high = found["pass@2_interval"]
    print(
        f"{n_tasks} evaluation tasks, {len(X_test)} tests, {votes} views: pass@1 "
        f"{found['pass@1']:.3f}, pass@2 {found['pass@2']:.3f} (95 %: {low:.3f} to "
        f"{high:.3f}); demonstrations learned {found['demonstrations']:.3f}; "
        f"{args.submission} is a valid submission"
    )
    show("without views, first attempt", found)
    record(args, solver._device, about, found)
    return found


def main():
    run(read_arguments())
    show_literature(LITERATURE)


if __name__ == "__main__":
    main()
