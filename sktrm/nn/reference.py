"""Models from the weights of the TRM authors' code."""

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from sktrm.nn.recursion import TinyRecursionModel

# Wrappers that compilation and the loss head leave before a name.
_WRAPPERS = re.compile(r"^(_orig_mod\.|model\.)*(inner\.)?")
_NAMES = {
    "H_init": "y_init",
    "L_init": "z_init",
    "embed_tokens.embedding_weight": "embedding.token",
    "embed_pos.embedding_weight": "embedding.position",
    "puzzle_emb.weights": "embedding.task",
    "lm_head.weight": "answer_head.weight",
    "q_head.weight": "halt_head.linear.weight",
    "q_head.bias": "halt_head.linear.bias",
}
_LAYER = re.compile(r"^L_level\.layers\.(\d+)\.(.+)$")
_LAYER_NAMES = {
    "self_attn.qkv_proj.weight": "mixer.attention.qkv.weight",
    "self_attn.o_proj.weight": "mixer.attention.out.weight",
    "mlp_t.gate_up_proj.weight": "mixer.swiglu.gate_up.weight",
    "mlp_t.down_proj.weight": "mixer.swiglu.down.weight",
    "mlp.gate_up_proj.weight": "swiglu.gate_up.weight",
    "mlp.down_proj.weight": "swiglu.down.weight",
}


def load_reference(
    weights: Mapping[str, Any] | str | PathLike[str], config: Mapping[str, Any]
) -> TinyRecursionModel:
    """Build a model from weights of the TRM authors' code.

    Parameters
    ----------
    weights : mapping of str to array or tensor, or path
        A state dict under the authors' names, or a checkpoint file that
        ``torch.load`` can read. The prefixes ``_orig_mod.`` (compilation),
        ``model.`` (loss head) and ``inner.`` are accepted and dropped.
    config : mapping
        Sizes: ``vocab``, ``length``, ``hidden_size``, ``n_layers``, ``n_heads``,
        ``expansion``, ``n_latent_recursions``, ``n_deep_recursions``, ``mixer``
        ("attention" or "mlp"), ``positions`` ("rope", "learned" or "none"),
        ``prefix`` (tokens before the grid), ``puzzle_dim`` and ``n_puzzles`` (width
        and number of the task embeddings, 0 for none).

    Returns
    -------
    model : TinyRecursionModel
        In evaluation mode, weights in float32.

    Raises
    ------
    ValueError
        If a tensor is missing, unknown, or of a size that does not fit ``config``;
        the message names the tensor.
    """
    state: Mapping[str, Any] = (
        weights
        if isinstance(weights, Mapping)
        else torch.load(weights, map_location="cpu", weights_only=True)
    )
    model = TinyRecursionModel.build(
        n_tokens=config["vocab"],
        length=config["length"],
        hidden_size=config["hidden_size"],
        n_layers=config["n_layers"],
        n_heads=config["n_heads"],
        expansion=config["expansion"],
        mixer=config["mixer"],
        positions=config["positions"],
        n_prefix_tokens=config["prefix"],
        task_size=config["puzzle_dim"],
        n_tasks=config["n_puzzles"],
        n_latent_recursions=config["n_latent_recursions"],
        n_deep_recursions=config["n_deep_recursions"],
        generator=torch.Generator().manual_seed(0),
    )
    model.load_state_dict(_translate(state, model.state_dict()))
    return model.eval()


def _translate(
    weights: Mapping[str, Any], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename ``weights`` and check them against the names and sizes ``expected``."""
    state = {}
    for theirs, value in weights.items():
        name = _our_name(_WRAPPERS.sub("", theirs))
        if name not in expected:
            raise ValueError(f"The config has no place for the tensor {theirs!r}.")
        tensor = torch.as_tensor(value).float()
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"The tensor {theirs!r} has shape {tuple(tensor.shape)}, but the "
                f"config asks for {tuple(expected[name].shape)}."
            )
        state[name] = tensor
    missing = [ours for ours in expected if ours not in state]
    if missing:
        raise ValueError(f"The weights lack the tensor for {missing[0]!r}.")
    return state


def _our_name(theirs: str) -> str:
    """Return our name of one of the authors' tensors, or "" for an unknown one."""
    layer = _LAYER.match(theirs)
    if layer is None:
        return _NAMES.get(theirs, "")
    index, rest = layer.groups()
    return f"net.{index}.{_LAYER_NAMES.get(rest, '')}"
