"""One head and its settings: what each kind can be told, and what it does untold.

A field here and the long flag on the command line have one name.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from extract.core.config import check_choice, check_positive
from extract.core.errors import SettingError

# What the two heads of Keras have in common.
_TRAINING: Mapping[str, Any] = {
    "l2": 0.0,
    "label_smoothing": 0.0,
    "class_weight": None,
    "optimizer": "rmsprop",
    "momentum": None,
    "nesterov": None,
    "learning_rate": 1e-4,
    "epochs": 30,
    "batch_size": 20,
    "patience": None,
    "seed": 0,
}
_STANDARDISE = ("standardise",)
# What each head can be told, and what it does untold.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # The course's head, but 30 epochs for its 100: on pooled VGG16 features of 84, 776 and 1,027
    # training images the validation accuracy was at its plateau by epoch 30, 20 and 1.
    "dense": {
        "units": (1024,),
        "activation": "relu",
        "dropout": 0.2,
        "batch_normalisation": False,
        **_TRAINING,
        "transform": (),
    },
    # One layer has no hidden units to wait for, and standardised features bear longer steps.
    "linear": {**_TRAINING, "learning_rate": 1e-3, "transform": _STANDARDISE},
    # Of 0.003, 0.03, 0.3 and 1 the best on two of the same three sets, next to it on the third.
    "logistic": {"C": 0.03, "class_weight": None, "transform": _STANDARDISE},
    "svm": {
        "kernel": "rbf",
        "C": None,
        "gamma": None,
        "class_weight": None,
        "transform": _STANDARDISE,
    },
    "ridge": {"alpha": 300.0, "transform": _STANDARDISE},
    "lda": {"shrinkage": 0.3, "transform": _STANDARDISE},
    "knn": {"neighbours": 5, "transform": ("sqrt", "l2")},
    "forest": {"trees": 300, "class_weight": None, "seed": 0, "transform": ()},
    "boosting": {"trees": 100, "step": 0.1, "class_weight": None, "seed": 0, "transform": ()},
    "naive_bayes": {"transform": _STANDARDISE},
}
KERAS_HEADS = ("dense", "linear")
# What heads of Keras have in common when they train as one model; the rest is per head. Epochs and
# patience only end a head.
STACKED = (
    *("layer", "transform", "views", "head", "units", "activation", "batch_normalisation"),
    *("optimizer", "momentum", "nesterov", "batch_size"),
)
# The course's head, and those that take about a second on a thousand pooled rows.
USUAL_HEADS = ("dense", "logistic", "svm", "ridge", "lda", "knn", "naive_bayes")
# What did well on pooled VGG16 features of twenty confusable classes.
_SVM_C = {"rbf": 3.0, "linear": 0.001}
# Who can be told a momentum. Keras' Adam has none; only its SGD knows Nesterov's.
MOMENTUM_OPTIMIZERS = ("rmsprop", "sgd")
OPTIMIZERS = ("rmsprop", "sgd", "adam")
ACTIVATIONS = ("relu", "gelu", "elu", "selu", "silu", "tanh")
KERNELS = ("linear", "rbf")
CLASS_WEIGHTS = ("balanced",)
# What becomes of augmented views, where the store holds some; only Keras' heads have epochs.
VIEWS = ("none", "random", "all")
STEPS = ("standardise", "sqrt", "l2", "pca")
# Upper ends that the value itself does not reach, and how they are written.
_BELOW: Mapping[str, tuple[float, str]] = {
    "dropout": (1, "1"),
    "label_smoothing": (1, "1"),
    "momentum": (1, "1"),
    "seed": (2**32, "2**32"),
    "l2": (math.inf, "infinity"),
}
_ABOVE_ZERO = ("learning_rate", "C", "gamma", "alpha", "step")
_COUNTS = ("epochs", "batch_size", "patience", "neighbours", "trees")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "activation": ACTIVATIONS,
    "optimizer": OPTIMIZERS,
    "kernel": KERNELS,
    "class_weight": CLASS_WEIGHTS,
}


@dataclass(frozen=True)
class HeadSpec:
    """One head and its settings. None means the default where the head has the setting.

    After it is made, every setting of the head has its value and every other one is None.

    Attributes:
        head: A name in ``DEFAULTS``; ``dense`` and ``linear`` are Keras', no other needs it.
        units: Widths of the dense head's hidden layers, first to last.
        activation: What follows each hidden layer.
        dropout: Share of the hidden units dropped in each training step, 0 to below 1.
        batch_normalisation: Normalise each hidden layer over the batch, before its activation.
        l2: Weight of the sum of the squared kernels in the loss.
        label_smoothing: Share of the truth spread over all classes, 0 to below 1.
        class_weight: ``balanced``: each class weighs the same, whatever its number of rows.
        optimizer: ``rmsprop``, ``sgd`` or ``adam``.
        momentum: Momentum of ``sgd`` or ``rmsprop``, 0 to below 1.
        nesterov: Nesterov's form of the momentum, for ``sgd``.
        learning_rate: Size of the optimizer's steps.
        epochs: Passes over the training rows, at most.
        batch_size: Rows in one training step.
        patience: Epochs without a lower validation loss before training stops and the best epoch
            is taken; None trains all epochs and takes the last.
        seed: Decides whatever is random in the head; below 2**32.
        C: Inverse strength of the penalty of ``logistic`` and ``svm``.
        kernel: ``linear`` or ``rbf``, of ``svm``.
        gamma: Width of the rbf kernel; None is one over the sum of the features' variances.
        alpha: Strength of the penalty of ``ridge``.
        shrinkage: Share of the covariance of ``lda`` taken from a multiple of the identity, above
            0 to 1.
        neighbours: How many of the nearest rows ``knn`` asks.
        trees: Trees of ``forest``; rounds of ``boosting``.
        step: How much of each round of ``boosting`` is taken.
        transform: Steps in front of the head, fitted on its training rows: ``standardise``,
            ``sqrt`` (of the magnitude, with the sign), ``l2`` (rows of length one), ``pca=N``.
            Whoever fits heads applies them: a head itself is given transformed rows.
        views: What it makes of augmented views: ``none``, ``all`` as training rows beside the plain
            ones, or ``random``, which shows each row in one view an epoch, of V + 1 with the plain
            one; None is ``random`` for Keras' heads and ``all`` for others, if there are any views.
        layer: Layers whose features it takes, joined; empty is right where the store holds one.

    Raises:
        SettingError: A value is unknown, out of range, or can have no effect on this head.
    """

    head: str = "dense"
    units: tuple[int, ...] | None = None
    activation: str | None = None
    dropout: float | None = None
    batch_normalisation: bool | None = None
    l2: float | None = None
    label_smoothing: float | None = None
    class_weight: str | None = None
    optimizer: str | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    seed: int | None = None
    C: float | None = None
    kernel: str | None = None
    gamma: float | None = None
    alpha: float | None = None
    shrinkage: float | None = None
    neighbours: int | None = None
    trees: int | None = None
    step: float | None = None
    transform: tuple[str, ...] | None = None
    views: str | None = None
    layer: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice("head", self.head, tuple(DEFAULTS))
        known = DEFAULTS[self.head]
        for field in fields(self)[1:-2]:
            given = getattr(self, field.name)
            if given is None:
                object.__setattr__(self, field.name, known.get(field.name))
            elif field.name not in known:
                raise SettingError(no_effect(field.name, [self.head]))
        if self.head == "svm" and self.C is None and self.kernel in KERNELS:
            object.__setattr__(self, "C", _SVM_C[self.kernel])
        self._check_each()
        self._check_together()
        _check_steps(self.transform or ())
        if len(set(self.layer)) != len(self.layer):
            raise SettingError(f"layer: found {'+'.join(self.layer)}; expected each layer once")

    def _check_each(self) -> None:
        """Raise SettingError unless every value is in its own range."""
        if self.views is not None:
            check_choice("views", self.views, VIEWS)
        for field, known in _CHOICES.items():
            if getattr(self, field) is not None:
                check_choice(field, getattr(self, field), known)
        for field in _COUNTS:
            check_positive(field, getattr(self, field))
        for field, (end, shown) in _BELOW.items():
            value = getattr(self, field)
            if value is not None and not 0 <= value < end:
                raise SettingError(f"{field}: found {value}; expected 0 or more and below {shown}")
        for field in _ABOVE_ZERO:
            value = getattr(self, field)
            if value is not None and not 0 < value < math.inf:
                raise SettingError(f"{field}: found {value}; expected a number above 0")
        if self.shrinkage is not None and not 0 < self.shrinkage <= 1:
            raise SettingError(f"shrinkage: found {self.shrinkage}; expected above 0, at most 1")

    def _check_together(self) -> None:
        """Raise SettingError where one setting makes another one idle, or a list is no list."""
        if self.views == "random" and self.head not in KERAS_HEADS:
            raise SettingError(
                f"views: random has no effect with --head {self.head}, which has no epochs; "
                "expected all or none, or --head dense"
            )
        for width in self.units or ():
            check_positive("units", width)
        if self.units == ():
            raise SettingError("units: found none; expected one width or more; or --head linear")
        if self.momentum is not None and self.optimizer not in MOMENTUM_OPTIMIZERS:
            raise SettingError(
                f"momentum: has no effect with --optimizer {self.optimizer}; "
                f"expected one of: {', '.join(MOMENTUM_OPTIMIZERS)}"
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise SettingError("nesterov: has no effect without --optimizer sgd and a --momentum")
        if self.gamma is not None and self.kernel != "rbf":
            raise SettingError("gamma: has no effect with --kernel linear; it belongs to rbf")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that this head has, as JSON can hold them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None and (name != "layer" or value)
        }


def _check_steps(steps: tuple[str, ...]) -> None:
    """Raise SettingError unless every step of a transform is known and does something."""
    for step, former in zip(steps, ("", *steps), strict=False):
        name, _, count = step.partition("=")
        check_choice("transform", name, STEPS)
        if (name == "pca") != bool(count) or (count and not count.isdecimal()) or count == "0":
            raise SettingError(
                f"transform: found {step!r}; expected {name}{'=N' * (name == 'pca')}"
            )
        if step == former:
            raise SettingError(f"transform: {step} has no effect right after {step}")


def groups_of(specs: Sequence[HeadSpec]) -> list[list[int]]:
    """Sort heads of Keras into those that can train as one model.

    Args:
        specs: Heads; those that are not Keras' are left out.

    Returns:
        Positions in ``specs``, in the order in which the groups first occur.
    """
    found: dict[tuple[Any, ...], list[int]] = {}
    for position, spec in enumerate(specs):
        if spec.head in KERAS_HEADS:
            found.setdefault(tuple(getattr(spec, name) for name in STACKED), []).append(position)
    return list(found.values())


def no_effect(setting: str, heads: Iterable[str]) -> str:
    """Say that a setting belongs to none of the heads, and whose it is."""
    owners = [head for head, known in DEFAULTS.items() if setting in known]
    return f"{setting}: has no effect with --head {', '.join(heads)}; it belongs to {owners[0]}"
