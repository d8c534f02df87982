"""What ``predict-images`` writes, as a frozen dataclass that checks its values."""

from dataclasses import dataclass

from extract.core.errors import SettingError
from extract.core.flags import check_fields, documented, flag

FORMATS = ("csv", "json")
ONLY = ("all", "unlabelled")
# The endings of charts, and the labels in one.
CHART_ENDINGS = (".png", ".svg", ".pdf")
CHART_TOP = 10
# Settings, with their defaults, that images to label do not have.
_NOT_TO_LABEL = {"top": 1, "format": FORMATS[0], "scores": False, "min_score": None, "sort": ""}


@documented
@dataclass(frozen=True)
class PredictConfig:
    """The output of ``predict-images``.

    Raises:
        SettingError: A value is unknown or out of range.
    """

    top: int = flag(1, "labels per image, best first", low=1, shown=f"1; {CHART_TOP} in a chart")
    format: str = flag("csv", "CSV with a heading, or JSON lines", choices=FORMATS)
    scores: bool = flag(False, "also write the score of each class, a column each")
    min_score: float | None = flag(
        None,
        "images whose best score is below X get no label; the accuracy of the others and their "
        "share are shown",
        low=0,
        high=1,
    )
    only: str = flag(
        "all",
        "rows of a file of features: all, or those without a label, in the file or in the tables "
        "that the head was trained with",
        choices=ONLY,
    )
    labels: tuple[str, ...] = flag(
        (),
        "of a file of features: the table of its labels, or stored for those in the file; "
        "repeatable, a later one wins",
        metavar="TABLE",
        repeat=True,
        shown="those that the head was trained with",
    )
    to_label: int | None = flag(
        None,
        "of a file of features: the N images worth labelling next, with an empty column label to "
        "fill in; with a head those of which it is not sure, and different ones",
        low=1,
    )
    page: str = flag("", "with --to-label: also a page with the images, FILE.html", metavar="FILE")
    images: str = flag(
        "",
        "for a file of features: where its images are now",
        metavar="DIR",
        shown="where they were extracted",
    )

    sort: str = flag(
        "",
        "also copy the images into a folder for each class, and those below --min-score into one "
        "for images without a label; only an earlier --sort that nobody has changed is replaced",
        metavar="DIR",
    )
    link: bool = flag(False, "with --sort: hard links instead of copies, where possible")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.scores and self.top > 1:
            raise SettingError("top and scores cannot be combined: scores has every class")
        if self.page and self.to_label is None:
            raise SettingError("page: has no effect without --to-label")
        if self.link and not self.sort:
            raise SettingError("link: has no effect without --sort")
        changed = {name: getattr(self, name) != default for name, default in _NOT_TO_LABEL.items()}
        if self.to_label is not None and any(changed.values()):
            name = next(name for name in changed if changed[name])
            raise SettingError(f"{name} and to_label cannot be combined; choose one")
