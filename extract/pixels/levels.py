"""Values of any depth -> 8 bits, with a note where the file does not say what white is.

Of 9 to 16 bits the high byte is kept, as Pillow does for colour.
"""

from typing import Any

import numpy as np

from extract.core.errors import ImageError
from extract.core.row_block import Note

# Values that reach no further probably have fewer bits than they are stored in.
_DOUBTFUL = 2**14 - 1
_FLOAT = Note("float values between 0 and 1 are read as black to white")


def to_bytes(values: np.ndarray, bits: int, notes: list[Note]) -> np.ndarray:
    """Scale values of ``bits`` bits to uint8.

    Args:
        values: Integers, or floats of any size.
        bits: The bits of a value. Integers of more than 16 bits are read as 16.
        notes: Receives a note if the range of the values is doubtful.

    Raises:
        ImageError: The range of the values is unknown.
    """
    if values.dtype.kind == "f":
        # A comparison with NaN is false, so that NaN is refused too.
        if not (values.size and values.min() >= 0 and values.max() <= 1):
            raise ImageError("has float pixels outside 0..1, whose range is unknown")
        notes.append(_FLOAT)
        return np.rint(values * np.float32(255)).astype(np.uint8)
    most = int(values.max())
    if values.min() < 0 or (bits > 16 and most > 0xFFFF):
        raise ImageError("has integer pixels outside 0..65535, whose range is unknown")
    if most >= 2**bits:  # a damaged header
        raise ImageError(f"has pixels of more than its {bits} bits")
    if bits < 8:
        scale = np.rint(np.arange(2**bits) * 255 / (2**bits - 1)).astype(np.uint8)
        return np.asarray(scale[values])
    if bits == 8:
        return values.astype(np.uint8)
    if bits >= 16:
        note_range(most, bits, notes)
    return (values >> (min(bits, 16) - 8)).astype(np.uint8)


def note_range(most: int, bits: int, notes: list[Note]) -> None:
    """Add a note if 16-bit or 32-bit values up to ``most`` look like values of fewer bits."""
    if 0 < most <= _DOUBTFUL:
        then = "if they have {bits} bits, multiply them by {factor} before"
        notes.append(Note(f"{bits}-bit values reach only {{most:,}}; {then}", most))


def note_high_bytes(image: Any, notes: list[Note]) -> None:
    """Add a note on 16-bit colours of which Pillow has kept the high bytes."""
    bands = image.getextrema()[:3]
    note_range(max(high for _, high in bands) * 256 + 255, 16, notes)
