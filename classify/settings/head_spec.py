"""One head and its settings: which settings each kind of head has, and their defaults.

A field here and the long flag on the command line have one name.
"""

from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypedDict

from extract.core.errors import SettingError
from extract.core.flags import Settings, check_choice, check_fields, documented, flag

# Shared by the two Keras heads.
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
# For heads that compare rows: on pooled features of three trunks and on drawings, svm answered 2 to
# 16 points more images correctly than with ``standardise``, naive_bayes up to 13 (once 1 fewer).
_UNIT = ("sqrt", "l2")
# The settings of each head, with their defaults.
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    # The course's head, but 30 epochs for its 100: on pooled VGG16 features of 84, 776 and 1,027
    # training images the validation accuracy reached its plateau by epoch 30, 20 and 1.
    "dense": {
        "units": (1024,),
        "activation": "relu",
        "dropout": 0.2,
        "batch_normalisation": False,
        **_TRAINING,
        "transform": (),
    },
    # One layer has no hidden units to train first, and standardised features allow larger steps.
    "linear": {**_TRAINING, "learning_rate": 1e-3, "transform": _STANDARDISE},
    # Of 0.003, 0.03, 0.3 and 1 the best on two of the same three sets, second best on the third.
    "logistic": {"C": 0.03, "class_weight": None, "transform": _STANDARDISE},
    "svm": {
        "kernel": "rbf",
        "C": 3.0,
        "gamma": None,
        "landmarks": None,
        "class_weight": None,
        "transform": _UNIT,
    },
    "ridge": {"alpha": 300.0, "transform": _STANDARDISE},
    "lda": {"shrinkage": 0.3, "transform": _STANDARDISE},
    "knn": {"neighbours": 5, "transform": _UNIT},
    "forest": {"trees": 300, "class_weight": None, "seed": 0, "transform": ()},
    "boosting": {"trees": 100, "step": 0.1, "class_weight": None, "seed": 0, "transform": ()},
    # Scikit-learn's 1e-9 only prevents divisions by zero. From 3 to 30 images a class of two sets,
    # 0.1 answered 0.5 to 14 % more images of others correctly.
    "naive_bayes": {"var_smoothing": 0.1, "transform": _UNIT},
}
KERAS_HEADS = ("dense", "linear")
# Keras heads that agree in these settings train as one model; the others are per head. Epochs and
# patience only end the training of a head.
STACKED = (
    *("layer", "transform", "views", "head", "units", "activation", "batch_normalisation"),
    *("optimizer", "momentum", "nesterov", "batch_size"),
)
# The course's head, and those that take about a second on a thousand pooled rows.
USUAL_HEADS = ("dense", "logistic", "svm", "ridge", "lda", "knn", "naive_bayes")
ACTIVATIONS = ("relu", "gelu", "elu", "selu", "silu", "tanh")
STEPS = ("standardise", "sqrt", "l2", "pca")


def parse_units(text: str) -> tuple[int, ...]:
    """Return the widths of layers from ``512,128`` or, inside a sweep, ``512+128``."""
    try:
        return tuple(int(width) for width in text.replace("+", ",").split(","))
    except ValueError:
        raise ArgumentTypeError(f"found {text!r}; expected widths, such as 512,128") from None


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names joined by ``+``; ``none`` is an empty tuple."""
    return () if text == "none" else tuple(text.split("+"))


def _as_tuple(value: Any) -> tuple[Any, ...] | None:
    """Return one value, names joined by ``+`` or a sequence as a tuple; None stays None."""
    if isinstance(value, str):
        return parse_names(value)
    return (value,) if isinstance(value, int) else None if value is None else tuple(value)


@documented
@dataclass(frozen=True)
class HeadSpec(Settings):
    """One head and its settings. None means the default where the head has the setting.

    After it is made, every setting of the head has its value and every other one is None.

    The steps of ``transform`` are fitted on the head's training rows by the code that fits the
    head; a head itself receives transformed rows. ``sqrt`` takes the root of the magnitude and
    keeps the sign. ``views`` is ``none``, ``all`` (training rows beside the plain ones) or
    ``random`` (each row in one of its V + 1 views per epoch); None is ``random`` for Keras' heads
    and ``all`` for others, if there are views. An empty ``layer`` is right where the store holds
    one.

    Raises:
        SettingError: A value is unknown, out of range, or has no effect on this head.
    """

    head: str = "dense"
    units: tuple[int, ...] | None = flag(
        None, "widths of the hidden layers, as in 512,128", parse=parse_units, metavar="N", low=1
    )
    activation: str | None = flag(None, "activation of the hidden layers", choices=ACTIVATIONS)
    dropout: float | None = flag(
        None, "share of the hidden units dropped in a training step", low=0, below=1
    )
    batch_normalisation: bool | None = flag(
        None, "normalise hidden layers over the batch, before the activation"
    )
    l2: float | None = flag(None, "weight of the squared kernels in the loss", low=0)
    label_smoothing: float | None = flag(
        None, "share of the true label spread over all classes", low=0, below=1
    )
    class_weight: str | None = flag(None, "give each class the same weight", choices=("balanced",))
    optimizer: str | None = flag(
        None, "Keras optimizer that trains the head", choices=("rmsprop", "sgd", "adam")
    )
    momentum: float | None = flag(None, "momentum of sgd or rmsprop", low=0, below=1)
    nesterov: bool | None = flag(None, "use Nesterov momentum, for sgd")
    learning_rate: float | None = flag(None, "learning rate of the optimizer", above=0)
    epochs: int | None = flag(None, "passes over the training images, at most", low=1)
    batch_size: int | None = flag(
        None, "images in a training step; by default more from 3,200 images on", low=1
    )
    patience: int | None = flag(
        None, "stop after N epochs without a lower validation loss and keep the best epoch", low=1
    )
    seed: int | None = flag(None, low=0, below=2**32)
    C: float | None = flag(None, "inverse strength of the penalty", above=0)
    kernel: str | None = flag(None, "kernel of the svm", choices=("linear", "rbf"))
    gamma: float | None = flag(
        None,
        "width of the rbf kernel",
        above=0,
        unset="one over the sum of the features' variances",
    )
    landmarks: int | None = flag(
        None,
        "training images that the svm compares an image with; 0: all",
        low=0,
        unset="2,000 of over 5,000, else all",
    )
    alpha: float | None = flag(None, "strength of the penalty", above=0)
    shrinkage: float | None = flag(
        None, "share of the covariance taken from a multiple of the identity", above=0, high=1
    )
    neighbours: int | None = flag(None, "nearest images that vote", low=1)
    trees: int | None = flag(None, "trees, or rounds of boosting", low=1)
    step: float | None = flag(None, "learning rate of boosting", above=0)
    var_smoothing: float | None = flag(
        None, "share of the largest variance of a feature that is added to every variance", above=0
    )
    transform: tuple[str, ...] | None = flag(
        None,
        "steps applied to the features before each head: standardise, sqrt, l2, pca=N; or none",
        parse=parse_names,
        metavar="STEP+STEP",
        shown="the head's own",
    )
    views: str | None = flag(
        None,
        "use of the augmented views in the file: none, one random view of each image an epoch, or "
        "all as images of their own",
        choices=("none", "random", "all"),
        shown="random for dense and linear, all for the others",
    )
    layer: tuple[str, ...] = flag(
        (),
        "layer whose features to use, where the file holds several; NAME+NAME joins them",
        parse=parse_names,
        metavar="NAME",
        shown="each of them",
    )

    def __post_init__(self) -> None:
        check_choice("head", self.head, DEFAULTS)
        for name in ("units", "transform", "layer"):
            self._set(**{name: _as_tuple(getattr(self, name))})
        known = DEFAULTS[self.head]
        for name in list(vars(self))[1:-2]:
            if getattr(self, name) is None:
                self._set(**{name: known.get(name)})
            elif name not in known:
                raise SettingError(no_effect(name, [self.head]))
        check_fields(self)
        self._check_together()
        _check_steps(self.transform or ())
        if len(set(self.layer)) != len(self.layer):
            raise SettingError(f"layer: found {'+'.join(self.layer)}; expected each layer once")

    def _check_together(self) -> None:
        """Raise SettingError where one setting takes the effect of another one away."""
        if self.views == "random" and self.head not in KERAS_HEADS:
            raise SettingError(
                f"views: random has no effect with --head {self.head}; use all or none"
            )
        if self.units == ():
            raise SettingError("units: found none; expected one width or more; or --head linear")
        if self.momentum is not None and self.optimizer == "adam":  # Keras' Adam has none
            raise SettingError("momentum: has no effect with adam; use rmsprop or sgd")
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


class HeadSettings(TypedDict, total=False):
    """The settings of heads as keyword arguments; see ``HeadSpec``."""

    layer: str | Sequence[str] | None
    transform: str | Sequence[str] | None
    views: str | None
    units: int | Sequence[int] | None
    activation: str | None
    dropout: float | None
    batch_normalisation: bool | None
    l2: float | None
    label_smoothing: float | None
    class_weight: str | None
    optimizer: str | None
    momentum: float | None
    nesterov: bool | None
    learning_rate: float | None
    epochs: int | None
    batch_size: int | None
    patience: int | None
    C: float | None
    kernel: str | None
    gamma: float | None
    landmarks: int | None
    alpha: float | None
    shrinkage: float | None
    neighbours: int | None
    trees: int | None
    step: float | None
    var_smoothing: float | None


# The settings of heads, by name.
SETTINGS = {declared.name: declared for declared in fields(HeadSpec)[1:]}


def _check_steps(steps: tuple[str, ...]) -> None:
    """Raise SettingError unless every step of a transform is known and has an effect."""
    for step, former in zip(steps, ("", *steps), strict=False):
        name, _, count = step.partition("=")
        check_choice("transform", name, STEPS)
        if (name == "pca") != bool(count) or (count and not count.isdecimal()) or count == "0":
            expected = f"{name}=N" if name == "pca" else name
            raise SettingError(f"transform: found {step!r}; expected {expected}")
        if step == former:
            raise SettingError(f"transform: {step} has no effect right after {step}")


def groups_of(specs: Sequence[HeadSpec]) -> list[list[int]]:
    """Sort Keras heads into groups that can train as one model.

    Args:
        specs: Heads; other heads are left out.

    Returns:
        Positions in ``specs``, in the order in which the groups first occur.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, spec in enumerate(specs):
        if spec.head in KERAS_HEADS:
            groups.setdefault(tuple(getattr(spec, name) for name in STACKED), []).append(position)
    return list(groups.values())


def no_effect(setting: str, heads: Iterable[str]) -> str:
    """Say that a setting belongs to none of the heads, and to which head it belongs."""
    owner = next(head for head, known in DEFAULTS.items() if setting in known)
    return f"{setting}: has no effect with --head {', '.join(heads)}; it belongs to {owner}"
