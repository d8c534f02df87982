"""How stage two runs, as frozen dataclasses that check their values.

A field here and the long flag on the command line have one name.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from classify.settings.head_spec import (
    DEFAULTS,
    KERAS_HEADS,
    STACKED,
    HeadSettings,
    HeadSpec,
    groups_of,
)
from extract.core.errors import SettingError
from extract.core.flags import check_choice, check_fields, documented, flag, parse_columns

STORED = "stored"  # what the file of features has
GROUPS = (STORED, "digest", "near", "none")
# Seconds for the default heads.
BUDGET = 60.0
# Least batches of all images for which batches grow.
_STEPS = 100
# Images of which svm is exact by default: a few seconds, and a kernel of 200 MB; and the training
# images whose kernel it uses for more.
_EXACT_SVM, _LANDMARKS = 5000, 2000
# When the report's overlays may run the trunk again.
OVERLAYS = ("auto", "always", "never")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss", "roc_auc", "average_precision")


@documented
@dataclass(frozen=True)
class FinetuneConfig:
    """How the trunk's blocks above the cached layer are trained together with the best head.

    The optimizer is SGD with a momentum of 0.9; the weights of the best epoch are kept.

    Raises:
        SettingError: A value is out of range.
    """

    finetune_epochs: int = flag(10, "epochs of fine-tuning; the best one is kept", low=1)
    finetune_learning_rate: float = flag(1e-4, "learning rate of fine-tuning", above=0)

    def __post_init__(self) -> None:
        check_fields(self)


@documented
@dataclass(frozen=True)
class TrainConfig:
    """The candidates of one run of ``train-head`` and how they are compared.

    ``candidates`` are the heads to try. ``named`` says whether the heads were asked for by name:
    such a head that cannot be trained on features that stay in the file is an error; other heads
    are left out. ``batch_size_given`` says whether the batch size was asked for, and does not grow
    with the images, see ``for_images``. ``finetune`` says how the trunk's upper blocks are trained;
    None leaves them. ``asserts`` holds entries such as ``"macro_f1=0.8"``: a run whose best head is
    worse fails.

    Raises:
        SettingError: There is no candidate, one twice, a value is out of range, or halving has
            no effect or not the same effect in every fold.
    """

    candidates: tuple[HeadSpec, ...]
    folds: int | None = flag(
        None, "cross-validate with K folds instead of one validation split", metavar="K", low=2
    )
    repeats: int | None = flag(
        None, "repeat the cross-validation with R divisions into folds", metavar="R", low=2
    )
    halving: bool = flag(
        False,
        "of the Keras heads that train as one model, stop the worse half by validation loss after "
        "an eighth, a quarter and half of the epochs",
        shown="off",
    )
    metric: str = flag("accuracy", "metric that ranks the heads", choices=METRICS)
    positive: str | None = flag(
        None,
        "the positive class of two: that of ROC, precision against recall, sensitivity, "
        "specificity and average_precision",
        metavar="CLASS",
        shown="the rarer one",
    )
    seed: int = flag(0, "seed of everything random", low=0, below=2**32)
    memory: float | None = flag(
        None,
        "features that need more, with their copies in training, are read from the file while "
        "training",
        metavar="GB",
        above=0,
        shown="the free memory",
    )
    budget: float | None = flag(
        None,
        "time for the default heads in all, by an estimate: the cheapest ones are trained",
        metavar="SECONDS",
        above=0,
        shown=f"{BUDGET:g}",
    )
    overlays: str = flag(
        OVERLAYS[0],
        "where the head looked at its mistakes: auto where the file has feature maps or the trunk "
        "is in the cache of this machine, always builds it otherwise",
        choices=OVERLAYS,
    )
    figures: bool = flag(
        False,
        "also write the leaderboard and all figures of the report as SVG and PDF for papers",
        shown="off",
    )
    named: bool = True
    batch_size_given: bool = True
    assert_accuracy: float | None = flag(None, "the same as --assert accuracy=X", above=0, high=1)
    asserts: tuple[str, ...] = ()
    finetune: FinetuneConfig | None = None

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            names = ", ".join(spec.head for spec in self.candidates) or "none"
            raise SettingError(f"head: found {names}; expected each head once")
        check_fields(self)
        if self.repeats and not self.folds:
            raise SettingError("repeats: has no effect without --folds")
        if self.halving:
            self._check_halving()
        self.limits()
        if self.finetune:
            self._check_finetune()

    def for_images(self, count: int) -> "TrainConfig":
        """Return the configuration with the defaults for so many images; given settings are kept.

        All images together have 100 to 200 batches. In batches of 20, as in the course, ``dense``
        takes three times as long on 16,000 training images, and is not more accurate. The exact
        ``svm`` of many images takes minutes, and all memory.
        """
        size = 2 ** int(math.log2(max(1, count / _STEPS)))
        larger = not self.batch_size_given and not self.finetune
        changed: dict[str, dict[str, Any]] = {}
        if larger and size > DEFAULTS["dense"]["batch_size"]:
            changed = {head: {"batch_size": size} for head in KERAS_HEADS}
        if count > _EXACT_SVM:
            changed["svm"] = {"landmarks": _LANDMARKS}
        sized = (
            replace(spec, **changed.get(spec.head, {})) if spec.landmarks is None else spec
            for spec in self.candidates
        )
        given = self.batch_size_given or larger
        return replace(self, candidates=tuple(sized), batch_size_given=given)

    def limits(self) -> dict[str, float]:
        """Return the least value, of the loss the highest, that each asserted metric may have.

        Raises:
            SettingError: An entry of ``asserts`` is no METRIC=X, or a metric occurs twice.
        """
        limits = {"accuracy": self.assert_accuracy} if self.assert_accuracy is not None else {}
        for text in self.asserts:
            name, _, value = text.partition("=")
            check_choice("assert", name, METRICS)
            if name in limits:
                raise SettingError(f"assert: found {name} twice; expected each metric once")
            try:
                limits[name] = float(value)
            except ValueError:
                expected = f"expected METRIC=X, as in {name}=0.9"
                raise SettingError(f"assert: found {text!r}; {expected}") from None
            if not 0 < limits[name] <= (math.inf if name == "loss" else 1):
                expected = "a number above 0" + ("" if name == "loss" else ", at most 1")
                raise SettingError(f"assert: found {text}; expected {expected}")
        return limits

    def _check_halving(self) -> None:
        """Raise SettingError where no head could be stopped, or where folds would disagree."""
        if self.folds is not None:
            raise SettingError("--halving and --folds cannot be combined; choose one")
        groups = [[self.candidates[i] for i in group] for group in groups_of(self.candidates)]
        if not any(len(group) > 1 and any((s.epochs or 0) > 1 for s in group) for group in groups):
            alike = f"that share {', '.join(STACKED)}"
            raise SettingError(f"halving: has no effect without two Keras heads of epochs {alike}")

    def _check_finetune(self) -> None:
        """Raise SettingError where something does not go together with fine-tuning."""
        if self.folds:
            raise SettingError("--folds and --finetune cannot be combined; choose one")
        layers = ["+".join(spec.layer) or "none" for spec in self.candidates]
        if len(set(layers)) > 1:
            found = ", ".join(dict.fromkeys(layers))
            raise SettingError(
                f"layer: found {found}; --finetune expects one; name it with --layer"
            )
        for spec in self.candidates:
            if spec.head not in KERAS_HEADS:
                expected = " or ".join(KERAS_HEADS)
                raise SettingError(f"head: found {spec.head} with --finetune; expected {expected}")
            if spec.views:
                raise SettingError("views: has no effect with --finetune, which uses plain images")
            if spec.transform or len(spec.layer) > 1:
                found = "+".join(spec.transform or spec.layer)
                raise SettingError(
                    f"finetune: found {found}; expected one layer and no --transform"
                )


@documented
@dataclass(frozen=True)
class LabelConfig:
    """Where labels, splits and groups come from, if not from the file of features.

    Raises:
        SettingError: ``columns`` is given without a table.
    """

    labels: tuple[str, ...] = flag(
        (),
        "a table (CSV, TSV, Parquet or JSON lines) of labels, splits and groups by key; stored "
        "stands for the labels in the file; repeatable, a later one wins",
        metavar="TABLE",
        repeat=True,
        shown=STORED,
    )
    columns: str = flag(
        "",
        "column of the tables for the key (path), label, split and group",
        metavar="ROLE=NAME,...",
        shown="the column of that name; for the key also key and file_name",
    )

    def __post_init__(self) -> None:
        parse_columns(self.columns)
        if self.columns and not any(table != STORED for table in self.labels):
            raise SettingError("columns: has no effect without --labels TABLE; drop --columns")


class SearchSettings(HeadSettings, total=False):
    """The settings of heads and of a search as keyword arguments."""

    folds: int | None
    repeats: int | None
    halving: bool | None
    metric: str | None
    positive: str | None
    seed: int | None
    memory: float | None
    budget: float | None


class TrainSettings(SearchSettings, total=False):
    """The settings of ``train_heads`` as keyword arguments."""

    labels: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
    columns: str | None
    assert_accuracy: float | None
    overlays: str | None
    figures: bool | None
    finetune_epochs: int | None
    finetune_learning_rate: float | None
