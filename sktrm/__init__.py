"""sktrm: the Tiny Recursion Model for scikit-learn."""

from sktrm._classifier import TRMClassifier
from sktrm._pretrained import load_pretrained, save_pretrained
from sktrm._solver import TRMSolver

__version__ = "0.1.0"
__all__ = ["TRMClassifier", "TRMSolver", "load_pretrained", "save_pretrained"]
