"""Epochs as tasks of scikit-learn's callbacks, which came with its version 1.9."""

from collections.abc import Callable
from typing import Any

from skorch import NeuralNet
from skorch.callbacks import Callback

__all__ = ["CallbackSupportMixin", "train_in_tasks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's, without ``set_callbacks``."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Stand for scikit-learn's: there are no callbacks to tear down."""
        return method


class EpochTasks(Callback):
    """skorch callback that makes each epoch a task within ``context``.

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

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        """Begin the epoch's task."""
        self.epoch = self.context.subcontext(task_name="epoch")
        self.epoch.call_on_fit_task_begin(**self._arguments())

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        """End the epoch's task, and training if a callback says so."""
        if self.epoch.call_on_fit_task_end(**self._arguments()):
            raise KeyboardInterrupt  # how skorch's callbacks stop training

    def _arguments(self) -> dict[str, Any]:
        return {
            "estimator": self.estimator,
            "reconstruction_attributes": self.predictor,
            **self.data,
        }


@with_callbacks  # type: ignore[untyped-decorator]
def train_in_tasks(
    estimator: Any,
    train: Callable[[], None],
    net: NeuralNet,
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
    tasks = EpochTasks(estimator, context, predictor, data)
    net.callbacks_.append(("epoch_tasks", tasks))
    try:
        train()
    finally:
        net.callbacks_.pop()
    # The weights that are kept may not be those of the last epoch.
    context.call_on_fit_task_end(
        estimator=estimator, reconstruction_attributes={}, **data
    )
