"""Epochs as tasks of scikit-learn's callbacks, which came with its version 1.9."""

import copy
from collections.abc import Callable
from typing import Any

from sktrm._guarding import EarlyStop
from sktrm._training import DeepSupervisionNet

__all__ = ["CallbackSupportMixin", "train_in_tasks", "without_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9
    # The type checker sees both definitions; an import gives one of them.
    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's, without ``set_callbacks``."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Stand for scikit-learn's: there are no callbacks to tear down."""
        return method


def without_callbacks(estimator: Any) -> Any:
    """Return a shallow copy of ``estimator`` that scikit-learn's callbacks ignore."""
    copied = copy.copy(estimator)
    for name in ("_skl_callbacks", "_parent_callback_ctx"):
        vars(copied).pop(name, None)
    return copied


class EpochTasks:
    """Makes each epoch a task within ``context``.

    ``predictor`` returns the attributes with which ``estimator`` predicts as if
    training had ended now; ``data`` holds the data of the fit, as the hooks take them.
    """

    def __init__(
        self,
        estimator: Any,
        context: Any,
        predictor: Callable[[], dict[str, Any]],
        data: dict[str, Any],
    ) -> None:
        self.estimator = estimator
        self.context = context
        self.predictor = predictor
        self.data = data

    def notify(self, method_name: str) -> None:
        """Begin or end an epoch's task, and training if a callback says so."""
        if method_name == "on_epoch_begin":
            self.epoch = self.context.subcontext(task_name="epoch")
            self.epoch.call_on_fit_task_begin(**self._arguments())
        elif method_name == "on_epoch_end" and self.epoch.call_on_fit_task_end(
            **self._arguments()
        ):
            raise EarlyStop

    def _arguments(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator,
            "reconstruction_attributes": self.predictor,
            **self.data,
        }


# scikit-learn has no annotations, so the decorator has none.
@with_callbacks  # type: ignore[untyped-decorator]
def train_in_tasks(
    estimator: Any,
    train: Callable[[], None],
    net: DeepSupervisionNet,
    n_epochs: int,
    predictor: Callable[[], dict[str, Any]],
    data: dict[str, Any],
) -> None:
    """Call ``train``; tell the callbacks of ``estimator`` of the epochs of ``net``."""
    if not hasattr(estimator, "set_callbacks"):
        train()
        return
    context = estimator._init_callback_context(max_subtasks=n_epochs)
    context.call_on_fit_task_begin(estimator=estimator, **data)
    net.epoch_tasks_ = EpochTasks(estimator, context, predictor, data)
    try:
        train()
    finally:
        net.epoch_tasks_ = None
    # The weights that are kept may not be those of the last epoch.
    context.call_on_fit_task_end(
        estimator=estimator, reconstruction_attributes={}, **data
    )
