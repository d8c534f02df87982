"""How stage two runs, as frozen dataclasses that are checked when they are made.

A field here and the long flag on the command line have one name.
"""

import math
from dataclasses import dataclass

from classify.settings.head_spec import KERAS_HEADS, STACKED, HeadSpec, groups_of
from extract.core.config import check_choice, check_positive
from extract.core.errors import SettingError

GROUPS = ("stored", "digest")
FORMATS = ("csv", "json")
# What a file is called that is drawn instead of written.
CHART_ENDINGS = (".png", ".svg", ".pdf")
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "loss")


@dataclass(frozen=True)
class FinetuneConfig:
    """How the trunk's blocks above the cached layer are trained together with the best head.

    Attributes:
        finetune_epochs: Passes over the training maps; the weights of the best one are kept.
        finetune_learning_rate: Size of the steps of SGD with a momentum of 0.9.

    Raises:
        SettingError: A value is out of range.
    """

    finetune_epochs: int = 10
    finetune_learning_rate: float = 1e-4

    def __post_init__(self) -> None:
        check_positive("finetune_epochs", self.finetune_epochs)
        if not 0 < self.finetune_learning_rate < math.inf:
            raise SettingError(
                f"finetune_learning_rate: found {self.finetune_learning_rate}; expected a number "
                "above 0"
            )


@dataclass(frozen=True)
class TrainConfig:
    """What one run of ``train-head`` tries, and how it chooses.

    Attributes:
        candidates: The heads; the best one is kept.
        folds: Parts of the rows that judge in turn; None judges on the validation split.
        halving: Whether the worse half of the Keras heads that train as one model, by validation
            loss, trains no further after an eighth, a quarter and half of the epochs.
        metric: What the heads are ranked by; see ``classify.search.metrics``.
        seed: Decides the folds and the resampling behind the intervals.
        memory: In GB; features that need more, with their copies in training, are read from the
            file while it lasts. None asks the system for what is free.
        named: Whether the heads were asked for by name: one that cannot be trained on features that
            stay in the file is then an error, and else left out.
        assert_accuracy: Accuracy of the best head below which the run has failed.
        finetune: How the trunk's upper blocks are trained further; None leaves them alone.

    Raises:
        SettingError: There is no candidate, one twice, a value is out of range, or halving can
            have no effect or none that is the same in every fold.
    """

    candidates: tuple[HeadSpec, ...]
    folds: int | None = None
    halving: bool = False
    metric: str = "accuracy"
    seed: int = 0
    memory: float | None = None
    named: bool = True
    assert_accuracy: float | None = None
    finetune: FinetuneConfig | None = None

    def __post_init__(self) -> None:
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            names = ", ".join(spec.head for spec in self.candidates) or "none"
            raise SettingError(f"head: found {names}; expected each head once")
        check_choice("metric", self.metric, METRICS)
        if self.folds is not None and self.folds < 2:
            raise SettingError(f"folds: found {self.folds}; expected 2 or more")
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed: found {self.seed}; expected 0 or more and below 2**32")
        if self.memory is not None and not 0 < self.memory < math.inf:
            raise SettingError(f"memory: found {self.memory}; expected GB above 0")
        if self.assert_accuracy is not None and not 0 < self.assert_accuracy <= 1:
            raise SettingError(
                f"assert_accuracy: found {self.assert_accuracy}; expected above 0, at most 1"
            )
        if self.halving:
            self._check_halving()
        if self.finetune:
            self._check_finetune()

    def _check_halving(self) -> None:
        """Raise SettingError where no head could be stopped, or where folds would disagree."""
        if self.folds is not None:
            raise SettingError(
                "halving: found with --folds, where a head could be stopped in one fold and not in "
                "another; expected one of the two; leave one out"
            )
        groups = [[self.candidates[i] for i in group] for group in groups_of(self.candidates)]
        if not any(len(group) > 1 and any((s.epochs or 0) > 1 for s in group) for group in groups):
            raise SettingError(
                "halving: has no effect without two Keras heads that train as one model, for two "
                f"epochs or more; those share {', '.join(STACKED)}"
            )

    def _check_finetune(self) -> None:
        """Raise SettingError where something does not go together with fine-tuning."""
        if self.folds:
            raise SettingError(
                "folds: cannot be used with --finetune, which trains one model on one split; leave "
                "one of them out"
            )
        layers = ["+".join(spec.layer) or "none" for spec in self.candidates]
        if len(set(layers)) > 1:
            raise SettingError(
                f"layer: found {', '.join(dict.fromkeys(layers))} with --finetune, which trains "
                "the blocks above one; expected one for all heads; name it with --layer"
            )
        for spec in self.candidates:
            if spec.head not in KERAS_HEADS:
                raise SettingError(
                    f"head: found {spec.head} with --finetune; expected "
                    f"{' or '.join(KERAS_HEADS)}, which learn in steps, as the blocks do"
                )
            if spec.views:
                raise SettingError(
                    "views: has no effect with --finetune, which trains on plain images alone"
                )
            if spec.transform or len(spec.layer) > 1:
                raise SettingError(
                    f"finetune: found {spec.head} behind {'+'.join(spec.transform or spec.layer)}; "
                    "expected the blocks of one layer and no --transform in front of the head"
                )


@dataclass(frozen=True)
class PredictConfig:
    """What ``predict-images`` writes of each image.

    Attributes:
        top: Labels of one image, best first; more than there are classes gives all of them.
        format: ``csv`` or ``json``, which is one JSON object a line.

    Raises:
        SettingError: A value is unknown or out of range.
    """

    top: int = 1
    format: str = "csv"

    def __post_init__(self) -> None:
        check_positive("top", self.top)
        check_choice("format", self.format, FORMATS)
