"""Lists of similar images, near-duplicates and outliers, as text, tables, CSV and JSON.

In Python they are sequences, in a notebook tables, and for other programs CSV or JSON.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TextIO, TypeVar

from extract.core.errors import quoted
from extract.display.tables import csv_text, html_table

Answer = TypeVar("Answer", bound=tuple[Any, ...])
_MOST_SHOWN = 20
# Decimals of a cosine.
_DECIMALS = 6


@dataclass(frozen=True, repr=False)
class Images(Sequence[Answer], Generic[Answer]):
    """Images, each with what is known about it.

    Attributes:
        images: The images.
        rows: Their row numbers in the file of features.
        layer: The layer of the features.
        compared: The number of images that were compared.
    """

    images: tuple[Answer, ...]
    rows: tuple[int, ...]
    layer: str
    compared: int

    fields: ClassVar[tuple[str, ...]] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: Any) -> Any:
        return self.images[place]

    def summary(self) -> str:
        """Return what was found, in a line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = ("  ".join(map(quoted, cells)) for cells in self._cells())
        return "\n".join([self.summary(), *lines])

    def _repr_html_(self) -> str:
        return html_table(self.fields, self._cells(), self.summary())

    def _cells(self) -> Iterator[list[str]]:
        for image in self.images[:_MOST_SHOWN]:
            yield [f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in image]
        if len(self) > _MOST_SHOWN:
            yield ["...", *[""] * (len(self.fields) - 1)]

    def write(self, file: TextIO, form: str = "csv") -> None:
        """Write the images with cosines of six decimals.

        Args:
            file: The open file.
            form: ``csv``, with a heading, or ``json``, an object a line. In CSV, text that a
                spreadsheet would run as a formula has an apostrophe in front; on a terminal, text
                that would move its cursor is quoted.
        """
        rows = ([_round(cell) for cell in image] for image in self.images)
        if form == "json":
            objects = (dict(zip(self.fields, row, strict=True)) for row in rows)
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
            return
        table = csv.writer(file, lineterminator="\n")
        table.writerow(self.fields)
        shown = quoted if file.isatty() else str
        for row in rows:
            table.writerow(csv_text(shown(c)) if isinstance(c, str) else c for c in row)


def _round(cell: Any) -> Any:
    return round(cell, _DECIMALS) if isinstance(cell, float) else cell
