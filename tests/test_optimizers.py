"""Muon beside AdamW: who moves what, and how far."""

import copy
import pickle

import pytest
import torch
from conftest import tiny_classifier, tiny_solver

from sktrm._optimizers import OPTIMIZERS, MuonWithAdamW

LR = 0.1


def parameters():
    generator = torch.Generator().manual_seed(0)
    shapes = {"map": (24, 40), "embedding": (12, 40), "vector": (40,)}
    made = {}
    for name, shape in shapes.items():
        made[name] = torch.nn.Parameter(torch.randn(shape, generator=generator))
        made[name].grad = torch.randn(shape, generator=generator)
    return made


def moves(name, weight_decay=0.0):
    """How far one step moves each parameter, in learning rates."""
    ours = parameters()
    before = {key: value.detach().clone() for key, value in ours.items()}
    groups = [{"params": list(ours.values())}]
    OPTIMIZERS[name](groups, lr=LR, betas=(0.9, 0.95), weight_decay=weight_decay).step()
    return {key: (before[key] - ours[key].detach()) / LR for key in ours}


def test_muon_takes_orthogonal_steps_with_the_maps_and_adamw_the_rest():
    muon, adamw = moves("muon"), moves("adamw")
    for name in ("embedding", "vector"):
        torch.testing.assert_close(muon[name], adamw[name])
    lengths = torch.linalg.svdvals(muon["map"])
    # All directions alike, as near as Newton and Schulz come in five iterations.
    assert lengths.max() / lengths.min() < 2.5
    assert torch.linalg.svdvals(adamw["map"]).max() / lengths.max() > 1.5
    # Elements as large as AdamW's: about a fifth of the learning rate.
    assert 0.1 < muon["map"].square().mean().sqrt() < 0.3


def test_the_learning_rate_of_the_net_reaches_both_parts(sudokus):
    solver = tiny_solver(
        optimizer="muon", lr=0.01, lr_schedule="constant", lr_warmup_steps=1000
    ).fit(*sudokus)
    optimizer = solver.net_.optimizer_
    assert [type(part).__name__ for part in optimizer.parts] == ["Muon", "AdamW"]
    rates = [part.param_groups[0]["lr"] for part in optimizer.parts]
    assert rates[0] == rates[1]
    assert 0 < rates[0] < 0.01


def test_moments_can_be_taken_over(sudokus):
    solver = tiny_solver(optimizer="muon").fit(*sudokus)
    optimizer = solver.net_.optimizer_
    taken = tiny_solver(optimizer="muon", max_epochs=1).fit(*sudokus).net_.optimizer_
    taken.load_state_dict(optimizer.state_dict())
    for part, other in zip(optimizer.parts, taken.parts, strict=True):
        assert part.state_dict()["state"].keys() == other.state_dict()["state"].keys()
        torch.testing.assert_close(
            list(part.state_dict()["state"].values()),
            list(other.state_dict()["state"].values()),
        )
    taken.param_groups[0]["lr"] = 0.5
    assert taken.parts[0].param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    ("make", "parameters", "name"),
    [
        (tiny_solver, {}, "AdamW"),
        (tiny_solver, {"symbols": range(1, 5)}, "Muon"),
        (tiny_solver, {"symbols": range(1, 5), "dtype": "float64"}, "AdamW"),
        (tiny_classifier, {}, "Muon"),
        (tiny_classifier, {"dtype": "float64"}, "AdamW"),
    ],
)
def test_auto_is_muon_where_it_pays_and_rounding_matters_little(
    sudokus, make, parameters, name
):
    X, y = sudokus
    if make is tiny_classifier:
        X, y = X.reshape(len(X), -1), y[:, 0, 0]
    model = make(max_epochs=1, **parameters).fit(X, y)
    assert type(model.net_.optimizer_).__name__.startswith(name)


def test_the_optimiser_stays_that_of_the_first_fit(sudokus):
    solver = tiny_solver(optimizer="muon", warm_start=True, max_epochs=1).fit(*sudokus)
    solver.set_params(optimizer="adamw").fit(*sudokus)
    assert isinstance(solver.net_.optimizer_, MuonWithAdamW)
    copied = pickle.loads(pickle.dumps(solver)).fit(*sudokus)
    assert isinstance(copied.net_.optimizer_, MuonWithAdamW)


def test_a_copy_of_the_optimiser_steps_alike():
    given = parameters()
    optimizer = MuonWithAdamW([{"params": list(given.values())}], lr=LR)
    optimizer.step()
    copied_parameters, copied = copy.deepcopy((given, optimizer))
    for name, parameter in copied_parameters.items():  # copies have no gradient
        parameter.grad = given[name].grad.clone()
    copied.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    copied.step()
    for name, parameter in given.items():
        torch.testing.assert_close(copied_parameters[name], parameter)
