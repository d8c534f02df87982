"""The images that a head was trained or chosen on: its accuracy on them says nothing of new ones.

An image is known by the digest of its file, or of its key where no digest is stored.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classify.data.dataset import Dataset
from classify.inference.head_folder import SEEN, PathLike
from classify.output.predictions import Answers, Predictions
from classify.search.leaderboard import Result
from extract.images.digests import DIGEST_BYTES, digest_bytes
from extract.images.item import Source


def save_training_images(folder: Path, dataset: Dataset, result: Result) -> None:
    """Write the identities of all images of a run except the test images."""
    test = np.isin(np.arange(len(dataset.y)), result.splits[0].test)
    rows = np.flatnonzero(~test)
    digests = None if dataset.digests is None else dataset.digests[rows]
    np.save(folder / SEEN, identify([dataset.keys[row] for row in rows], digests))


def identify(keys: Sequence[str], digests: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    """Return the (N, 16) uint8 identities of images."""
    shape = len(keys), DIGEST_BYTES
    known = np.zeros(shape, np.uint8) if digests is None else digests.copy()
    for row in np.flatnonzero(~known.any(axis=1)).tolist():
        known[row] = np.frombuffer(digest_bytes(keys[row].encode()), np.uint8)
    return known


def tell_seen(
    predictions: Predictions,
    head: PathLike,
    listed: Source,
    digests: NDArray[np.uint8],
    answers: Answers,
) -> Predictions:
    """Count the compared images that the head was trained on, in the evaluation of predictions.

    Args:
        predictions: The predictions; they are returned.
        head: The folder of the head.
        listed: The images, and the classes of their labels.
        digests: (N, 16) uint8, of their files or, of another program, of their features; zeros
            where it is not known.
        answers: The answers.
    """
    if not predictions.evaluation:
        return predictions
    names, known = listed.class_names, set(answers.class_names)
    rows = [
        row
        for row, (item, best) in enumerate(zip(listed.items, answers.best, strict=True))
        if item.label >= 0 and names[item.label] in known and best.label is not None
    ]
    seen = count_training_images(Path(head), [listed.items[row].key for row in rows], digests[rows])
    predictions.evaluation = predictions.evaluation._replace(seen=seen)
    return predictions


def count_training_images(
    folder: Path, keys: Sequence[str], digests: NDArray[np.uint8]
) -> int | None:
    """Count the images that the head in a folder was trained on; None where that is not known."""
    try:
        seen = np.load(folder / SEEN, allow_pickle=False)
        trained = {row.tobytes() for row in seen.reshape(-1, DIGEST_BYTES)}
    except (OSError, ValueError, EOFError):  # a folder of an earlier version, or damaged
        return None
    return sum(row.tobytes() in trained for row in identify(keys, digests))
