"""Images sorted into a folder for each class.

The folder is new, or is the unchanged work of an earlier sort: ``sorted.csv`` in it lists every
file with its key, and ``.sorted`` has a digest of the list and of all sizes and times. Keys and
class names may come from a stranger: no name leads out of the folder.
"""

import csv
import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from extract.core.atomic import atomic_write, check_writable, sync_disks
from extract.core.console import log
from extract.core.errors import HeadError, ImageError, count_of, listed, quoted
from extract.display.progress import progress
from extract.display.tables import csv_text
from extract.images.kinds import IMAGE_ENDINGS, IMAGE_KINDS, image_kind

LIST = "sorted.csv"
RECORD = ".sorted"
UNLABELLED = "unlabelled"
_HEADING = ["file", "key", "label", "score"]
# What Windows takes in no name, and what moves a terminal's cursor.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]')
_RESERVED = re.compile(
    r"(con|conin\$|conout\$|prn|aux|nul|(com|lpt)[\d¹²³]) *(\..*)?", re.IGNORECASE
)
# Bytes of a name that leave room for a number and an ending, of 255 in all.
_MOST_BYTES = 200
_HEAD_BYTES = 1024


class Sorted(NamedTuple):
    """An image to sort: its key, label and score, how to read it, and where it is as a file."""

    key: str
    label: str | None
    score: float | None
    read: Callable[[], bytes]
    path: str = ""


def check_folder(folder: Path, source: str = "") -> None:
    """Raise HeadError where sorted images would replace anything but those of an earlier sort.

    Args:
        folder: The folder to write.
        source: The folder of the images, which must not contain it.
    """
    check_writable(folder, HeadError)
    place = os.path.realpath(folder)
    for outer, inner in ((source, place), (place, os.path.realpath(source))) if source else ():
        if os.path.isdir(outer) and Path(inner).is_relative_to(os.path.realpath(outer)):
            found = f"the images are in {quoted(source)}, and one folder lies in the other"
            raise HeadError(f"{folder}: {found}; name a folder elsewhere")
    if folder.is_dir() and not any(folder.iterdir()):
        return
    expected = "expected a new folder, or one that --sort wrote and nobody has changed"
    if os.path.lexists(folder) and (found := _find_changes(folder)):
        raise HeadError(f"{folder}: {found}; {expected}; name another")


def check_apart(folder: Path, output: Path) -> None:
    """Raise HeadError where a result would lie in the folder of sorted images, or be that."""
    if Path(os.path.realpath(output)).is_relative_to(os.path.realpath(folder)):
        found = f"lies in {quoted(str(folder))}, the folder of sorted images"
        raise HeadError(f"{output}: {found}; expected another place; name one")


def _find_changes(folder: Path) -> str:
    """Say what a folder holds beside the files of a sort, or lacks of them; empty for nothing."""
    try:
        with (folder / LIST).open(encoding="utf-8", newline="") as file:
            heading, *rows = csv.reader(file)
        if heading != _HEADING:
            return f"{LIST} is of another program"
    except (OSError, ValueError, csv.Error):
        return f"holds no {LIST}" if folder.is_dir() else "not a folder"
    files = {row[0] for row in rows if row} | {LIST, RECORD}
    known = files | {PurePosixPath(name).parent.as_posix() for name in files if "/" in name}
    there = {
        Path(parent, name).relative_to(folder).as_posix()
        for parent, *kinds in os.walk(folder)  # a link to a folder is a folder
        for names in kinds
        for name in names
    }
    parts = [(there - known, "that --sort did not write"), (known - there, "fewer")]
    if found := [f"holds {listed(names, 'file')} {what}" for names, what in parts if names]:
        return ", ".join(found)
    same = (folder / RECORD).read_bytes() == _record(folder, files)
    return "" if same else "holds a file that somebody has changed"


def _record(folder: Path, files: Iterable[str]) -> bytes:
    """Return a digest of the list, and of the size and time of each file beside it."""
    digest = hashlib.blake2b((folder / LIST).read_bytes(), digest_size=16)
    for name in sorted({*files} - {LIST, RECORD}):
        state = (folder / name).lstat()
        digest.update(f"{name}\0{state.st_size}\0{state.st_mtime_ns}\0".encode())
    return digest.hexdigest().encode() + b"\n"


def sort_images(folder: Path, images: Sequence[Sorted], link: bool = False) -> None:
    """Write each image below the name of its class, and replace the folder as a whole.

    A warning names the images that cannot be read.

    Args:
        folder: The folder, which ``check_folder`` has checked.
        images: The images; one without a label goes to the folder ``unlabelled``.
        link: Make hard links to files, where the file system has them, instead of copies.

    Raises:
        HeadError: The folder cannot be written.
    """
    folders, names = _Names([UNLABELLED, LIST, RECORD]), dict[str, _Names]()
    rows, missing = [], list[str]()
    with (
        atomic_write(folder, HeadError, sync_disks) as temporary,
        progress(len(images), "images", label="sorting") as bar,
    ):
        temporary.mkdir()
        for image in images:
            try:
                content = image.read()
            except ImageError as error:
                missing.append(f"{quoted(image.key)}: {error}")
                continue
            finally:
                bar.update(1)
            own = UNLABELLED if image.label is None else folders.of(image.label)
            (temporary / own).mkdir(exist_ok=True)
            name = names.setdefault(own, _Names()).add(*_file_name(image.key, content))
            _write(temporary / own / name, image, content, link)
            score = "" if image.score is None else round(image.score, 6)
            label = csv_text(image.label or "")
            rows.append([f"{own}/{name}", csv_text(image.key), label, score])
        with (temporary / LIST).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([_HEADING, *rows])
        (temporary / RECORD).write_bytes(_record(temporary, [str(row[0]) for row in rows]))
        check_folder(folder)  # somebody may have changed it meanwhile
    if missing:
        count = count_of(len(missing), "image")
        log.warning("%s: %s not sorted, first %s", folder, count, missing[0])
    log.info("%s: %s sorted by label, see %s", folder, count_of(len(rows), "image"), LIST)


def _write(target: Path, image: Sorted, content: bytes, link: bool) -> None:
    """Write an image, or link to its file where that holds the content."""
    if link and image.path:
        try:
            os.link(image.path, target, follow_symlinks=True)
            # Another program may have changed it since it was read.
            if target.is_symlink() or _digest(target.read_bytes()) != _digest(content):
                target.unlink()
        except OSError:
            target.unlink(missing_ok=True)
    if not target.exists():
        target.write_bytes(content)
        if image.path and os.path.isfile(image.path):
            shutil.copystat(image.path, target)


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content).digest()


def _file_name(key: str, content: bytes) -> tuple[str, str]:
    """Return the last part of a key, and its ending; without one that of the kind of image."""
    name = re.split(r"[/\\]", key)[-1]
    stem, ending = os.path.splitext(name)
    if ending.lower() in IMAGE_ENDINGS:
        return stem, ending
    kind = image_kind(content[:_HEAD_BYTES])
    return name, IMAGE_KINDS[kind][0].split()[0] if kind else ""


class _Names:
    """Names that are safe on every system, and differ there."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {_folded(name) for name in taken}
        self._known, self._numbers = dict[str, str](), dict[str, int]()

    def of(self, text: str) -> str:
        """Return the name of a text, the same each time."""
        if text not in self._known:
            self._known[text] = self.add(text)
        return self._known[text]

    def add(self, text: str, ending: str = "") -> str:
        """Return a name for a text, with an ending, that no other one has."""
        stem, ending = (_UNSAFE.sub("_", part) for part in (text, ending))
        stem = stem.encode()[:_MOST_BYTES].decode("utf-8", "ignore").lstrip(" ").rstrip(" .")
        if not stem.strip(".") or stem.startswith(".") or _RESERVED.fullmatch(stem):
            stem = f"_{stem}"
        name = first = f"{stem}{ending}"
        number = self._numbers.get(_folded(first), 1)
        while _folded(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        self._numbers[_folded(first)] = number
        self._taken.add(_folded(name))
        return name


def _folded(name: str) -> str:
    """Return what is the same of names that are the same on some system."""
    return unicodedata.normalize("NFC", name).casefold()
