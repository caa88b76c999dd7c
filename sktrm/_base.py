"""What the estimators share: parameters, seeds, training, stepping, pickling."""

from importlib.metadata import PackageNotFoundError, metadata
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from skorch.helper import predefined_split
from skorch.history import History
from torch import Tensor

from sktrm._asynchronous import AsynchronousSlots
from sktrm._checks import within_range
from sktrm._device import DTYPES, choose_device, choose_dtype
from sktrm._optimizers import BETAS, OPTIMIZERS
from sktrm._progress import CallbackSupportMixin, train_in_tasks
from sktrm._slots import Rows, Slots
from sktrm._stepping import Stepping
from sktrm._training import LR_SCHEDULES, DeepSupervisionNet, checked_callbacks
from sktrm.augmentation import Augmentation, TokenSpace
from sktrm.nn import TinyRecursionModel
from sktrm.nn.blocks import MIXERS
from sktrm.nn.losses import ANSWER_LOSSES

_POSITIVE = [Interval(Integral, 1, None, closed="left")]
_SHARE = [Interval(Real, 0, 1, closed="both")]
# Beyond this, token mixing costs more than attention, and learns slower on grids.
_LONGEST_TOKEN_MIXING = 128


class BaseTRM(Stepping, CallbackSupportMixin, BaseEstimator):
    """Base of the estimators around a tiny recursion model.

    A subclass encodes data as tokens and says which ``_make_model`` to train; this
    class checks the parameters, trains the model and steps it.
    """

    _parameter_constraints: dict[str, Any] = {
        "hidden_size": [*_POSITIVE, StrOptions({"auto"})],
        "n_layers": _POSITIVE,
        "n_heads": _POSITIVE,
        "expansion": [Interval(Real, 0, None, closed="neither")],
        "mixer": [StrOptions({"auto", *MIXERS})],
        "n_latent_recursions": _POSITIVE,
        "n_deep_recursions": _POSITIVE,
        "n_supervision_steps": _POSITIVE,
        "loss": [StrOptions(set(ANSWER_LOSSES))],
        "optimizer": [StrOptions({"auto", *OPTIMIZERS})],
        "lr": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "lr_schedule": [StrOptions(set(LR_SCHEDULES))],
        "lr_warmup_steps": [Interval(Integral, 0, None, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_grad_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema_decay": [Interval(Real, 0, 1, closed="left")],
        "max_epochs": _POSITIVE,
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": _POSITIVE,
        "halt_exploration": _SHARE,
        "halt_threshold": _SHARE,
        "max_steps": [*_POSITIVE, StrOptions({"auto"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": _POSITIVE,
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "compile": ["boolean", StrOptions({"auto"})],
        "device": [str],
        "dtype": [StrOptions({"auto", *DTYPES})],
        "callbacks": [list, tuple, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _loss: str
    _optimizer_name: str
    # Where the HTML display of an estimator links to.
    _doc_link_module = "sktrm"

    @property
    def _doc_link_template(self) -> str:
        """The API page of the documentation, if the project's metadata names one."""
        page = documentation_page()
        # The heading of an estimator there has its name.
        return f"{page}#{type(self).__name__.lower()}" if page else ""

    def _space(self) -> TokenSpace:
        """Describe the task to augmentations."""
        return TokenSpace(canvas=None, n_tokens=0, token_of={}, answer_tokens=())

    def _augmentations(self, space: TokenSpace) -> list[Augmentation]:
        """Return what transforms rows as they enter training."""
        return []

    def _begin_fit(self) -> None:
        """Choose device, loss, and seeds of everything random in a fit."""
        # What predicts was trained with this one, whatever ``loss`` says later.
        self._loss = self.loss
        self._is_double = self.dtype == "float64"  # the weights, as the loss
        self.__dict__.pop("_optimizer_name", None)  # of an earlier fit
        self._device = choose_device(self.device)
        random_state = self.random_state
        if random_state is None:  # fresh entropy: the global generator is not touched
            random_state = np.random.RandomState()
        random_state = check_random_state(random_state)
        self._seeds = random_state.randint(2**31 - 1, size=4).tolist()

    def _start_training(self, space: TokenSpace, n_slots: int) -> None:
        """Build the model and the skorch net around it."""
        weights_seed, slots_seed, *_ = self._seeds
        weights = torch.Generator().manual_seed(weights_seed)
        model = self._make_model(weights).to(self._device)
        self._n_slots = n_slots
        if not hasattr(self, "_optimizer_name"):  # it is rebuilt with that of its fit
            self._optimizer_name = self._optimizer()
        slots = self._make_slots(
            model,
            n_slots=n_slots,
            n_supervision_steps=self.n_supervision_steps,
            halt_exploration=self.halt_exploration,
            augmentations=self._augmentations(space),
            space=space,
            generator=torch.Generator(self._device).manual_seed(slots_seed),
        )
        self.net_ = self._make_net(model, slots).initialize()

    def _make_slots(self, model: TinyRecursionModel, **parameters: Any) -> Slots:
        """Return what keeps the rows in flight while ``model`` trains."""
        kind = AsynchronousSlots if self._is_asynchronous() else Slots
        return kind(**parameters)

    def _is_asynchronous(self) -> bool:
        """Tell whether training must not wait for the device at each step."""
        return self._device.type == "cuda"

    def _loop_parameters(self) -> dict[str, Any]:
        """Return the parameters of the training loop, which may change between fits."""
        return {
            "lr": self._learning_rate(),
            "lr_schedule": self.lr_schedule,
            "lr_warmup_steps": self.lr_warmup_steps,
            "max_grad_norm": self.max_grad_norm,
            "depth_curriculum": self._depth_curriculum(),
            "max_steps": self._steps_at_most(),
            "max_time": self.max_time,
            "halt_threshold": self.halt_threshold,
            "tol": self.tol,
            "verbose": int(self.verbose),
        }

    def _make_net(self, model: TinyRecursionModel, slots: Slots) -> DeepSupervisionNet:
        """Wrap ``model`` in a skorch net with this estimator's parameters."""
        return DeepSupervisionNet(
            model,
            slots=slots,
            criterion__answer=self._loss,
            ema_decay=self.ema_decay,
            optimizer=OPTIMIZERS[self._optimizer_name],
            optimizer__betas=BETAS,
            optimizer__weight_decay=self.weight_decay,
            # One kernel instead of dozens; it keeps its count of steps on the device.
            optimizer__fused=self._is_asynchronous() or None,
            asynchronous=self._is_asynchronous(),
            batch_size=self.batch_size,
            train_split=None,
            # skorch mutates the callbacks it is given.
            callbacks=clone(checked_callbacks(self.callbacks), safe=False),
            device=str(self._device),
            **self._loop_parameters(),
        )

    def _train(
        self,
        rows: Rows,
        held_out: Rows | None,
        n_epochs: int | None,
        X: Any,
        y: Any,
        **metadata: Any,
    ) -> None:
        """Train ``net_``; whatever ends it, keep the weights to predict with.

        Without ``n_epochs``, for one epoch at a constant learning rate. ``X``, ``y``
        and the ``metadata`` that are not None are for the callbacks of scikit-learn.
        """
        given = {name: value for name, value in metadata.items() if value is not None}
        data = {"X": X, "y": y, "metadata": given or None}
        net = self.net_
        net.train_split = None if held_out is None else predefined_split(held_out)
        for name, value in self._loop_parameters().items():
            setattr(net, name, value)
        self._settle_memory(net.module_)
        net.n_iter_no_change = None
        if held_out is not None and self._stops_early(len(rows), held_out=True):
            net.n_iter_no_change = self.n_iter_no_change
        if n_epochs and self._is_worth_compiling(len(rows) * n_epochs):
            inputs = rows.inputs.new_zeros(self._n_slots, *rows.inputs.shape[1:])
            validates = held_out is not None and self._may_predict_compiled()
            net.compile_module(inputs, validates)
        elif n_epochs:
            net.step_eagerly()
        net.begin(len(rows) * n_epochs if n_epochs else None)

        def train() -> None:
            try:
                net.partial_fit(rows, epochs=n_epochs or 1)
            finally:
                self._keep_results()
            self._calibrate(held_out)

        train_in_tasks(self, train, net, n_epochs or 1, self._predictor_now, data)

    def _settle_memory(self, model: TinyRecursionModel) -> None:
        """Settle what a training step of ``model`` keeps for the gradient."""

    def _keep_results(self) -> None:
        """Take the weights to predict with and the record of the training."""
        net = self.net_
        self._adopt(net.final_state())
        self.n_iter_ = len(net.history)
        self.history_ = [
            {name: value for name, value in epoch.items() if name != "batches"}
            for epoch in net.history.to_list()
        ]
        self.__dict__.pop("validation_score_", None)  # of an earlier training
        if net.best_verdict_ is not None:
            self.validation_score_ = net.best_verdict_.exact_match

    def _calibrate(self, held_out: Rows | None) -> None:
        """Fit to the validation rows what is fitted once the weights are there."""

    def _predictor_now(self) -> dict[str, Any]:
        """Return the attributes to predict with if training ended now."""
        return {"module_": self._load(self.net_.predictor_.state_dict())}

    def _learning_rate(self) -> float:
        """Return ``lr``, or what stands for "auto"."""
        return self._auto_lr() if isinstance(self.lr, str) else self.lr

    def _auto_lr(self) -> float:
        """Return what ``lr="auto"`` stands for."""
        return 4e-3

    def _optimizer(self) -> str:
        """Return ``optimizer``, or what stands for "auto"."""
        if self.optimizer != "auto":
            return str(self.optimizer)
        # Muon rounds its steps to bfloat16.
        gains = self._gains_from_muon() and not self._is_double
        return "muon" if gains else "adamw"

    def _gains_from_muon(self) -> bool:
        """Tell whether training is known to be better by Muon."""
        return True

    def _choose_mixer(self, length: int) -> str:
        """Return ``mixer``, or what stands for "auto" with ``length`` tokens."""
        if self.mixer != "auto":
            return str(self.mixer)
        return "mlp" if length <= _LONGEST_TOKEN_MIXING else "attention"

    def _depth_curriculum(self) -> float:
        """Return the share of the training in which the recursion is shallow."""
        return 0.0

    def _stops_early(self, n_rows: int, held_out: bool) -> bool:
        """Decide on ``early_stopping``; ``held_out``: rows to validate on are there."""
        return bool(self.early_stopping)

    def _with_dtype(self, model: TinyRecursionModel) -> TinyRecursionModel:
        """Give ``model`` the working precision."""
        dtype = self._working_dtype()
        if dtype == torch.float64:
            return model.double()
        model.dtype = dtype
        return model

    def _adopt(self, state: dict[str, Tensor]) -> None:
        """Make ``module_`` a model with the weights ``state``."""
        self.module_ = self._load(state)

    def _load(self, state: dict[str, Tensor]) -> TinyRecursionModel:
        """Return a model with the weights ``state``."""
        model = self._make_model(torch.Generator())
        model.load_state_dict(state)
        return model.to(self._device).eval()

    def _working_dtype(self) -> torch.dtype:
        """Return the precision to work in, which weights in float64 decide."""
        if self._is_double:
            return torch.float64
        return choose_dtype(self._dtype_of_floats(), self._device)

    def _dtype_of_floats(self) -> str:
        """Return ``dtype`` for weights in float32, whatever was set after ``fit``."""
        return "float32" if self.dtype == "float64" else self.dtype

    def _hold_out(self, rows: Rows) -> tuple[Rows, Rows]:
        """Split off a random ``validation_fraction`` of the rows."""
        kept, held_out = (
            Rows(*rows[torch.as_tensor(part, device=self._device)])
            for part in self._choose_held_out(len(rows))
        )
        return kept, held_out

    def _choose_held_out(
        self, n_rows: int, labels: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the rows to keep and to hold out.

        With ``labels`` (n_rows,): of each class alike, and never all rows of one.
        """
        n_held_out = round(self.validation_fraction * n_rows)
        if not 0 < n_held_out < n_rows:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_rows} rows "
                f"leaves no row to validate or to train on; pass X_val and y_val, or "
                f"set early_stopping=False."
            )
        order = np.random.RandomState(self._seeds[2]).permutation(n_rows)
        held_out = order[:n_held_out]
        if labels is not None:
            held_out = _of_classes(order, labels, n_held_out)
        return order[~np.isin(order, held_out)], held_out

    def _on_device(
        self, inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray
    ) -> Rows:
        """Put encoded rows on the device; those of weight zero are left out."""
        dtype = torch.float64 if self._is_double else torch.float32
        weights = within_range(weights)
        # As on the device: what is next to nothing there is none.
        kept = torch.as_tensor(weights, dtype=dtype).numpy() != 0
        if not kept.all():
            inputs, labels, weights = inputs[kept], labels[kept], weights[kept]
        return Rows(
            torch.as_tensor(inputs, device=self._device),
            torch.as_tensor(labels, device=self._device),
            torch.as_tensor(weights, device=self._device, dtype=dtype),
        )

    def __copy__(self) -> "BaseTRM":
        """Share net and module, which a pickle would rebuild."""
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        """Pickle weights as arrays: they load where they were not trained."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "module_" in state:
            net, module = state.pop("net_"), state.pop("module_")
            state.pop("_device")
            state["_weights"] = [_as_arrays(net.module_), _as_arrays(module)]
            state["_steps"] = (net.n_optimizer_steps_, net.n_averaged_)
        else:
            state.pop("net_", None)  # of a fit that failed
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild net and module; training can go on, with fresh moments."""
        state = dict(state)
        weights = state.pop("_weights", None)
        steps = state.pop("_steps", (0, 0))  # weights alone know of none
        super().__setstate__(state)
        if weights is None:
            return
        if not hasattr(self, "_loss"):  # stored before it was kept
            self._loss = self.loss
        if not hasattr(self, "_is_double"):
            self._is_double = self.dtype == "float64"
        try:
            self._device = choose_device(self.device)
        except ValueError:  # fitted on a device that this machine lacks
            self._device = torch.device("cpu")
        trained, averaged = (
            {name: torch.asarray(array, copy=True) for name, array in arrays.items()}
            for arrays in weights
        )
        self._start_training(self._space(), self._n_slots)
        self.net_.resume(trained, averaged, *steps)
        self.net_.history = History({**epoch, "batches": []} for epoch in self.history_)
        self._adopt(averaged)


def documentation_page() -> str:
    """Return the project's documentation page, "" if its metadata names none."""
    try:
        entries = metadata("sktrm").get_all("Project-URL", [])
    except PackageNotFoundError:  # imported from a folder, never installed
        return ""
    for entry in entries:
        label, _, url = entry.partition(",")
        if label.strip().lower() == "documentation":
            return url.strip()
    return ""


def _of_classes(order: np.ndarray, labels: np.ndarray, n_rows: int) -> np.ndarray:
    """Choose ``n_rows`` spread over the classes, each of which keeps a row."""
    by_class = order[np.argsort(labels[order], kind="stable")]
    _, first = np.unique(labels[by_class], return_index=True)
    others = np.delete(by_class, first)
    if not len(others):
        raise ValueError(
            "early_stopping holds rows out, but no class in y has a second row; pass "
            "X_val and y_val, or set early_stopping=False."
        )
    n_rows = min(n_rows, len(others))
    # Every k-th row of those sorted by class.
    return others[np.linspace(0, len(others), n_rows, endpoint=False, dtype=int)]


def _as_arrays(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the state of ``module`` as numpy arrays."""
    return {name: t.detach().cpu().numpy() for name, t in module.state_dict().items()}
