"""Files of skops: small ones that would fill the memory, or write outside of it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extract.limits.unpacked import check_zip, read_json

# NumPy would mix a pool of any size that the first names, each number with each other; the second
# is a zip in a zip.
_REFUSED = {"RandomGenerator": "random number generator", "SparseMatrix": "sparse matrix"}


def check_skops(path: Path) -> None:
    """Raise ValueError if the objects of a file take far more memory than it has bytes."""
    schema = read_json(path, "schema.json")
    text = json.dumps(schema)
    for word, what in _REFUSED.items():
        if word in text:
            raise ValueError(f"found a {what}; expected a head without one")
    check_zip(path, re.findall(r'"file": "([^"]*)"', text))
    for tree in _nodes(schema, "TreeNode"):
        # scikit-learn believes the number of outputs, and reads as many numbers of classes.
        if tree["__reduce__"]["args"]["content"][2]["content"] != "1":
            raise ValueError("found a tree of several outputs; expected one")


def _nodes(schema: Any, loader: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a schema that a loader of skops makes."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and node.get("__loader__") == loader:
            yield node
        if isinstance(node, dict | list):
            pending.extend(node.values() if isinstance(node, dict) else node)
