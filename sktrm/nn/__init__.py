"""Tiny recursion models in torch, usable without scikit-learn."""

from sktrm.nn.blocks import TinyNetwork
from sktrm.nn.equivariant import build_equivariant
from sktrm.nn.losses import answer_loss, halting_loss, is_right, log_probabilities
from sktrm.nn.recursion import TinyRecursionModel
from sktrm.nn.reference import load_reference
from sktrm.nn.state import Carry, StepOutput
from sktrm.nn.tables import build_table_model
from sktrm.nn.tasks import build_task_model

__all__ = [
    "Carry",
    "StepOutput",
    "TinyNetwork",
    "TinyRecursionModel",
    "answer_loss",
    "build_equivariant",
    "build_table_model",
    "build_task_model",
    "halting_loss",
    "is_right",
    "load_reference",
    "log_probabilities",
]
