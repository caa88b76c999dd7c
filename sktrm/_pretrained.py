"""Fitted solvers in safetensors files: numbers and JSON, nothing that runs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from sklearn.utils.validation import check_is_fitted

from sktrm._device import DTYPES, choose_device
from sktrm._encoding import GridEncoder, Vocabulary
from sktrm._solver import TRMSolver
from sktrm.augmentation import (
    Augmentation,
    Dihedral,
    SudokuGroup,
    SymbolPermutation,
    Translation,
)

WEIGHTS = Path(__file__).parent / "weights"
_SUFFIX = ".safetensors"
# Entry of the file's metadata that describes the solver, and the form it has.
_ENTRY, _FORMAT = "sktrm", 1
_DTYPES = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_AUGMENTATIONS = {
    kind.__name__: kind
    for kind in (Dihedral, SudokuGroup, SymbolPermutation, Translation)
}
# What an encoder knows.
_ENCODER = {
    *("ignore_value", "handle_unknown", "given_canvas", "vocabulary", "length"),
    *("x_shape", "x_canvas", "y_shape", "y_canvas", "y_follows_x", "y_dtype"),
    *("answer_symbols", "answer_tokens"),
}
# Of this machine or this training; whoever loads the file has their own.
_NOT_STORED = (
    *("callbacks", "device", "gradient_checkpointing", "random_state", "verbose"),
    "warm_start",
)
_FITTED = (
    "n_features_in_",
    "feature_names_in_",
    "tasks_",
    "n_outputs_",
    "n_iter_",
    "validation_score_",
    "_sizes",
    "_loss",
    "_seeds",
    "_n_slots",
)


def save_pretrained(
    solver: TRMSolver, path: str | PathLike[str], *, dtype: str = "bfloat16"
) -> None:
    """Store a fitted solver in a safetensors file.

    The file holds the weights that predict and, as JSON, parameters, symbols and sizes:
    no code, unlike a pickle. Training can go on with a loaded solver, but starts anew
    from the weights that predict. ``callbacks``, ``device``,
    ``gradient_checkpointing``, ``random_state``, ``verbose`` and ``warm_start`` are not
    stored.

    Parameters
    ----------
    solver : TRMSolver
        Fitted.
    path : str or path-like
        File to write, whose name ends in ``.safetensors``.
    dtype : {"bfloat16", "float16", "float32"}, default="bfloat16"
        Precision of the stored weights. With "float32" the loaded solver answers as
        the stored one; the others halve the file.

    Raises
    ------
    TypeError
        If ``solver`` is no TRMSolver.
    ValueError
        If a symbol or an augmentation has no form in JSON, or for another ``dtype`` or
        ending of ``path``.
    FileNotFoundError
        If there is no such folder.

    See Also
    --------
    load_pretrained : Reads such files.
    """
    if not isinstance(solver, TRMSolver):
        raise TypeError(
            f"solver must be a TRMSolver, got {type(solver).__name__}: pickle other "
            f"estimators."
        )
    check_is_fitted(solver)
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {sorted(_DTYPES)}, got {dtype!r}.")
    if not fspath(path).endswith(_SUFFIX):
        raise ValueError(f"path must end in {_SUFFIX}, got {fspath(path)!r}.")
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"There is no folder {Path(path).parent}.")
    weights = {
        name: _stored(tensor, _DTYPES[dtype])
        for name, tensor in solver.module_.state_dict().items()
    }
    description = _describe(solver)
    save_file(weights, path, metadata={_ENTRY: json.dumps(description)})


def _stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a copy of ``tensor`` to store; whole numbers keep their dtype."""
    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def _describe(solver: TRMSolver) -> dict[str, Any]:
    """Return everything of a fitted solver but its weights, for JSON."""
    parameters = solver.get_params(deep=False)
    found = list(solver._found_symmetries)
    return {
        "format": _FORMAT,
        "parameters": {
            name: _to_json(value)
            for name, value in parameters.items()
            if name not in _NOT_STORED
        },
        "encoder": _describe_encoder(solver._encoder),
        "fitted": {
            name: _to_json(getattr(solver, name))
            for name in _FITTED
            if hasattr(solver, name)
        },
        "found_symmetries": _to_json(found),
        "history": _to_json(solver.history_),
    }


def _describe_encoder(encoder: GridEncoder) -> dict[str, Any]:
    """Return what an encoder learned, for JSON."""
    learned = {name: _to_json(value) for name, value in vars(encoder).items()}
    for symbol in (*encoder.vocabulary.symbols, encoder.ignore_value):
        if not isinstance(symbol, str | int | float | np.generic | None):
            raise ValueError(
                f"A solver is stored as JSON, so its symbols must be strings, numbers, "
                f"truth values or None, got {symbol!r}."
            )
    learned["vocabulary"] = _to_json(encoder.vocabulary.symbols)
    learned["y_dtype"] = encoder.y_dtype.str
    return learned


def _to_json(value: Any) -> Any:
    """Return ``value`` in lists, dicts, numbers and strings."""
    if isinstance(value, Augmentation):
        return _augmentation_to_json(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {name: _to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple | range | set | frozenset):
        return [_to_json(part) for part in value]
    return value


def _augmentation_to_json(augmentation: Augmentation) -> dict[str, Any]:
    kind = type(augmentation).__name__
    if _AUGMENTATIONS.get(kind) is not type(augmentation):
        raise ValueError(
            f"augmentation must hold classes of sktrm.augmentation to be stored, got "
            f"{augmentation!r}."
        )
    return {"augmentation": kind, **_to_json(asdict(augmentation))}


def load_pretrained(
    name: str | PathLike[str], *, device: str = "auto", dtype: str | None = None
) -> TRMSolver:
    """Return a fitted solver that comes with the package, or one of your own.

    Parameters
    ----------
    name : str or path-like
        Name of a model of this package, whose card lies beside it in
        ``sktrm/weights``; or the path of a file of :func:`save_pretrained`, which must
        end in ``.safetensors``.
    device : str, default="auto"
        The solver's ``device``.
    dtype : str, default=None
        The solver's ``dtype``, the precision it works in; None keeps that of the
        stored solver.

    Returns
    -------
    solver : TRMSolver
        Fitted: ``predict`` at once, or train on with ``partial_fit``.

    Raises
    ------
    ValueError
        If there is no such model or no such device, or the file is none of
        :func:`save_pretrained` or not whole; the message says which.
    FileNotFoundError
        If ``name`` is a path and there is no such file.
    """
    path = _find(name)
    choose_device(device)  # a solver falls back to the CPU, which was not asked for
    if dtype not in (None, "auto", *DTYPES):
        known = ["auto", *sorted(DTYPES)]
        raise ValueError(f"dtype must be one of {known} or None, got {dtype!r}.")
    description, weights = _read(path)
    parameters: dict[str, Any] = {"device": device}
    if dtype is not None:
        parameters["dtype"] = dtype
    try:
        return _rebuild(description, weights, parameters)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not describe a solver that this version of sktrm can rebuild "
            f"({type(error).__name__}: {error})."
        ) from error


def _find(name: str | PathLike[str]) -> Path:
    """Return the file that ``name`` means."""
    text = fspath(name)
    if text.endswith(_SUFFIX):
        if not Path(text).is_file():
            raise FileNotFoundError(f"There is no file {text}.")
        return Path(text)
    models = sorted(path.stem for path in WEIGHTS.glob(f"*{_SUFFIX}"))
    if text not in models:
        known = (
            f"one of {models}" if models else "a path: no model comes with sktrm yet"
        )
        raise ValueError(
            f"name must be {known}, or a path that ends in {_SUFFIX}, got {text!r}."
        )
    return WEIGHTS / f"{text}{_SUFFIX}"


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return description and weights of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}.") from error
    broken = next((n for n, w in weights.items() if not w.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"{path} is broken: not all values of {broken} are finite.")
    if _ENTRY not in metadata:
        raise ValueError(
            f"{path} holds weights, but no description of a solver: it was not written "
            f"by sktrm.save_pretrained."
        )
    try:
        description = json.loads(metadata[_ENTRY])
    except ValueError as error:
        raise ValueError(f"{path} has a broken description: {error}.") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != _FORMAT:
        raise ValueError(
            f"{path} has a description of format {found!r}; this version of sktrm "
            f"reads format {_FORMAT}."
        )
    return description, weights


def _rebuild(
    description: dict[str, Any],
    weights: dict[str, torch.Tensor],
    parameters: dict[str, Any],
) -> TRMSolver:
    """Make the fitted solver of a description."""
    stored = {n: _from_json(v) for n, v in description["parameters"].items()}
    solver = TRMSolver(**{**stored, **parameters})
    solver._validate_params()
    encoder = _rebuild_encoder(description["encoder"])
    fitted = {n: v for n, v in description["fitted"].items() if n in _FITTED}
    for name in ("feature_names_in_", "tasks_"):
        if name in fitted:
            fitted[name] = np.array(fitted[name], object)
    solver.__setstate__(
        {
            **vars(solver),
            **fitted,
            "_encoder": encoder,
            "classes_": encoder.classes,
            "history_": description["history"],
            "_found_symmetries": _from_json(description["found_symmetries"]),
            # Training would go on from the weights that predict.
            "_weights": [weights, weights],
        }
    )
    return solver


def _rebuild_encoder(learned: dict[str, Any]) -> GridEncoder:
    """Make the fitted encoder of a description."""
    encoder = GridEncoder()
    different = _ENCODER ^ {*learned, "given_canvas"}  # older files have no canvas
    if different:
        raise KeyError(f"{sorted(different)} in its encoder")
    for name, value in learned.items():
        # Shapes and tokens are tuples, symbols a list.
        is_tuple = isinstance(value, list) and name != "answer_symbols"
        setattr(encoder, name, tuple(value) if is_tuple else value)
    encoder.vocabulary = Vocabulary(learned["vocabulary"])
    encoder.y_dtype = np.dtype(learned["y_dtype"])
    return encoder


def _from_json(value: Any) -> Any:
    """Return augmentations in place of their descriptions."""
    if isinstance(value, list):
        return [_from_json(part) for part in value]
    if not isinstance(value, dict):
        return value
    fields: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part
        for name, part in value.items()
    }
    return _AUGMENTATIONS[fields.pop("augmentation")](**fields)
