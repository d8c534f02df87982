"""The settings of stage two, as frozen dataclasses that are checked when they are made.

A field here and the long flag on the command line have one name.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from extract.config import check_choice, check_positive
from extract.errors import SettingError, unknown_name

# What each head can be told, and what it does untold.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # The course's head, but 30 epochs for its 100: on pooled VGG16 features of 84, 776 and 1,027
    # training pictures the validation accuracy was at its plateau by epoch 30, 20 and 1.
    "dense": {
        "units": 1024,
        "dropout": 0.2,
        "optimizer": "rmsprop",
        "momentum": None,
        "nesterov": None,
        "learning_rate": 1e-4,
        "epochs": 30,
        "batch_size": 20,
        "patience": None,
        "seed": 0,
    },
    # Of 0.003, 0.03, 0.3 and 1 the best on two of the same three sets, next to it on the third.
    "logistic": {"C": 0.03},
}
# Who can be told a momentum. Keras' Adam has none; only its SGD knows Nesterov's.
MOMENTUM_OPTIMIZERS = ("rmsprop", "sgd")
OPTIMIZERS = ("rmsprop", "sgd", "adam")
FORMATS = ("csv", "json")


@dataclass(frozen=True)
class HeadSpec:
    """One head and its settings. None means the default where the head has the setting.

    After it is made, every setting of the head has its value and every other one is None.

    Attributes:
        head: ``dense`` (a Keras layer, dropout, an output layer) or ``logistic`` (scikit-learn).
        units: Width of the dense head's hidden layer.
        dropout: Share of the hidden units dropped in each training step, 0 to below 1.
        optimizer: ``rmsprop``, ``sgd`` or ``adam``.
        momentum: Momentum of ``sgd`` or ``rmsprop``, 0 to below 1.
        nesterov: Nesterov's form of the momentum, for ``sgd``.
        learning_rate: Size of the optimizer's steps.
        epochs: Passes over the training rows, at most.
        batch_size: Rows in one training step.
        patience: Epochs without a lower validation loss before training stops and the best epoch
            is taken; None trains all epochs and takes the last.
        seed: Decides the first weights, the order of the rows and the dropout; below 2**32.
        C: Inverse strength of the logistic head's l2 penalty.

    Raises:
        SettingError: A value is unknown, out of range, or can have no effect on this head.
    """

    head: str = "dense"
    units: int | None = None
    dropout: float | None = None
    optimizer: str | None = None
    momentum: float | None = None
    nesterov: bool | None = None
    learning_rate: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    patience: int | None = None
    seed: int | None = None
    C: float | None = None

    def __post_init__(self) -> None:
        check_choice("head", self.head, tuple(DEFAULTS))
        known = DEFAULTS[self.head]
        for field in fields(self)[1:]:
            given = getattr(self, field.name)
            if given is None:
                object.__setattr__(self, field.name, known.get(field.name))
            elif field.name not in known:
                raise SettingError(no_effect(field.name, [self.head]))
        if self.head == "dense":
            self._check_dense()
        else:
            self._check_above_zero("C")

    def _check_dense(self) -> None:
        for field in ("units", "epochs", "batch_size", "patience"):
            check_positive(field, getattr(self, field))
        self._check_range("dropout", 1, "1")
        self._check_range("momentum", 1, "1")
        self._check_range("seed", 2**32, "2**32")
        self._check_above_zero("learning_rate")
        check_choice("optimizer", str(self.optimizer), OPTIMIZERS)
        if self.momentum is not None and self.optimizer not in MOMENTUM_OPTIMIZERS:
            raise SettingError(
                f"momentum: has no effect with --optimizer {self.optimizer}; "
                f"expected one of: {', '.join(MOMENTUM_OPTIMIZERS)}"
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum):
            raise SettingError("nesterov: has no effect without --optimizer sgd and a --momentum")

    def _check_range(self, field: str, end: float, shown: str) -> None:
        value = getattr(self, field)
        if value is not None and not 0 <= value < end:
            raise SettingError(f"{field}: found {value}; expected 0 or more and below {shown}")

    def _check_above_zero(self, field: str) -> None:
        value = getattr(self, field)
        if not 0 < value < math.inf:
            raise SettingError(f"{field}: found {value}; expected a number above 0")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that this head has, as JSON can hold them."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def no_effect(setting: str, heads: Iterable[str]) -> str:
    """Say that a setting belongs to none of the heads, and whose it is."""
    owners = [head for head, known in DEFAULTS.items() if setting in known]
    return f"{setting}: has no effect with --head {', '.join(heads)}; it belongs to {owners[0]}"


def candidate_specs(heads: Iterable[str], settings: Mapping[str, Any]) -> tuple[HeadSpec, ...]:
    """Give each head those of the settings that it has.

    Args:
        heads: Names of heads.
        settings: Field of HeadSpec -> value; None stands for not given.

    Returns:
        One spec a head, in the order of ``heads``.

    Raises:
        SettingError: A head is unknown, or a given setting belongs to none of the heads.
    """
    names = list(heads)
    for name in names:
        if name not in DEFAULTS:
            raise SettingError(unknown_name("head", name, DEFAULTS))
    given = {field: value for field, value in settings.items() if value is not None}
    for field in given:
        if not any(field in DEFAULTS[name] for name in names):
            raise SettingError(no_effect(field, names))
    return tuple(
        HeadSpec(name, **{f: value for f, value in given.items() if f in DEFAULTS[name]})
        for name in names
    )


@dataclass(frozen=True)
class TrainConfig:
    """What one run of ``train-head`` trains, and on which features.

    Attributes:
        candidates: The heads; the best on the validation rows is kept.
        layer: Whose features are used; None is right where the store holds one layer.

    Raises:
        SettingError: There is no candidate, or one twice.
    """

    candidates: tuple[HeadSpec, ...] = (HeadSpec(),)
    layer: str | None = None

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            names = ", ".join(spec.head for spec in self.candidates) or "none"
            raise SettingError(f"head: found {names}; expected each head once")


@dataclass(frozen=True)
class PredictConfig:
    """What ``predict-images`` writes of each picture.

    Attributes:
        top: Labels of one picture, best first; more than there are classes gives all of them.
        format: ``csv`` or ``json``, which is one JSON object a line.

    Raises:
        SettingError: A value is unknown or out of range.
    """

    top: int = 1
    format: str = "csv"

    def __post_init__(self) -> None:
        check_positive("top", self.top)
        check_choice("format", self.format, FORMATS)
