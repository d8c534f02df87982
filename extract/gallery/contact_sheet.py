"""Contact sheets: small images with captions as a figure of Matplotlib, for notebooks."""

import io
import os
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from extract.core.errors import SettingError
from extract.display.figure import load_matplotlib, new_figure, quiet
from extract.gallery.thumbnails import Thumbnail, Wanted, place_of, read_thumbnails
from extract.images.item import SPLITS
from extract.store.open import open_store

# Inches of a tile and of a line of its caption; characters of a line.
_TILE, _LINE, _MOST_CHARACTERS = 1.15, 0.15, 19
_TEXT = 8
# More classes would make a sheet harder to look at.
_MOST_CLASSES = 20


class Tile(NamedTuple):
    """An image of a contact sheet, or the reason why there is none, and lines of text below."""

    thumbnail: Thumbnail
    lines: Sequence[str]


def show(
    store: str | os.PathLike[str], *, images: int = 6, source: str | os.PathLike[str] = ""
) -> Any:
    """Show some images of each class of a file of features, with their splits.

    Images are spread evenly over the rows of a class. The images are read where they were when the
    features were computed; an image that is gone is an empty tile with the reason.

    Args:
        store: The file of features, or the index of its shards.
        images: Number of images of each class.
        source: The place of the images, if they have moved.

    Returns:
        A figure of Matplotlib, with a row for each class, of the first twenty; notebooks show it.

    Raises:
        StoreError: The file cannot be read.
        SettingError: ``images`` is less than one.

    Example:
        >>> from extract import show
        >>> show("out.h5").savefig("sheet.png")  # doctest: +SKIP
    """
    if not 0 < images <= 50:
        raise SettingError(f"images: found {images}; expected 1 to 50")
    with open_store(Path(store)) as opened:
        names, keys, split = opened.class_names, opened.keys, opened.split
        labels, digests = np.asarray(opened.labels), opened.digests()
        place = place_of(opened, os.fspath(source))
    rows = {int(y): _spread(np.flatnonzero(labels == y), images) for y in np.unique(labels)}
    shown = {y: chosen for y, chosen in rows.items() if y >= 0} or rows
    shown = dict(list(shown.items())[:_MOST_CLASSES])
    wanted = [Wanted(keys[r], digests[r].tobytes()) for part in shown.values() for r in part]
    small = iter(read_thumbnails(wanted, place))
    tiles: list[Tile | None] = []
    for y, part in shown.items():
        name = names[y] if y >= 0 else "no label"
        own: list[Tile | None] = [Tile(next(small), (name, SPLITS[split[row]])) for row in part]
        tiles += own + [None] * (images - len(own))
    return draw_sheet(tiles, images)


def _spread(rows: Any, count: int) -> list[int]:
    """Return some of the rows, evenly spread."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    chosen: list[int] = rows[places].tolist()
    return chosen


def draw_sheet(tiles: Sequence[Tile | None], columns: int) -> Any:
    """Return a figure with images in rows; None leaves a place empty."""
    lines = max((len(tile.lines) for tile in tiles if tile), default=0)
    height, rows = _TILE + lines * _LINE + 0.08, -(-len(tiles) // columns)
    size = columns * (_TILE + 0.08), max(rows, 1) * height
    # A class may be called $5.
    with load_matplotlib().rc_context({"text.parse_math": False, "font.size": _TEXT}), quiet():
        figure = new_figure(size)
        for number, tile in enumerate(tiles):
            if tile:
                left = (number % columns) * (_TILE + 0.08) + 0.04
                top = size[1] - (number // columns) * height - 0.04
                box = (left / size[0], (top - _TILE) / size[1])
                axes = figure.add_axes((*box, _TILE / size[0], _TILE / size[1]))
                _draw_tile(axes, tile)
    return figure


def _draw_tile(axes: Any, tile: Tile) -> None:
    """Draw an image, or the reason why there is none, over lines of text."""
    image, reason = tile.thumbnail
    if image:
        axes.imshow(_pixels(image))
    else:
        text = "\n".join(_wrapped(reason))
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(not image)
    text = "\n".join(_shortened(line) for line in tile.lines)
    axes.text(0, -0.03, text, va="top", transform=axes.transAxes)


def _pixels(image: str) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(b64decode(image.partition(",")[2]))) as opened:
        return np.asarray(opened.convert("RGB"))


def _wrapped(text: str) -> list[str]:
    """Return text in lines that fit into a tile."""
    lines = [""]
    for word in text.split():
        lines += [word] if len(lines[-1]) + len(word) >= _MOST_CHARACTERS else []
        lines[-1] = lines[-1] if lines[-1] is word else f"{lines[-1]} {word}".strip()
    return [line for line in lines if line][:6]


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
