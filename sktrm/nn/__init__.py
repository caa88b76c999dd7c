"""Tiny recursion models in torch, usable without scikit-learn."""

from sktrm.nn.blocks import TinyNetwork
from sktrm.nn.equivariant import build_equivariant
from sktrm.nn.losses import answer_loss, halting_loss, is_right, log_probabilities
from sktrm.nn.recursion import Carry, StepOutput, TinyRecursionModel
from sktrm.nn.reference import load_reference

__all__ = [
    "Carry",
    "StepOutput",
    "TinyNetwork",
    "TinyRecursionModel",
    "answer_loss",
    "build_equivariant",
    "halting_loss",
    "is_right",
    "load_reference",
    "log_probabilities",
]
