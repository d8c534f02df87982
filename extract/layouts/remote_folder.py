"""The images of a folder that fsspec reaches."""

from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

from extract.core.errors import SourceError, quoted
from extract.images.item import Source
from extract.images.kinds import IMAGE_ENDINGS, is_system_file
from extract.images.remote import attempt, call, explain, hide_secrets, read_url, without_query
from extract.layouts.entries import Entry, Kind, kind_by_ending, walk
from extract.layouts.image_folder import arrange_folder


def list_remote(url: str) -> Source:
    """List the images below ``url`` by their endings; the layout is as in a local folder.

    Raises:
        SourceError: ``url`` cannot be listed, holds no images, or its layout has two meanings.
    """
    root = hide_secrets(url)
    try:
        file_system, path = attempt(url, lambda file_system, path: (file_system, path))
        name = without_query(url).rpartition("/")[2]
        if name.lower().endswith(IMAGE_ENDINGS):
            entries = [Entry(_to_key(file_system, name), path, Kind.IMAGE)]
        else:
            file_system.invalidate_cache()
            entries = list(walk(path, partial(_list_folder, url, file_system, {path.rstrip("/")})))
    except Exception as error:  # each file system has its own errors
        problem = explain(error)
        if not isinstance(error, ImportError):  # fsspec names the missing library
            problem = f"cannot be listed: {problem}; check the address and the credentials"
        raise SourceError(f"{quoted(root)}: {problem}") from error
    return arrange_folder(root, entries, partial(read_url, url))


def _list_folder(url: str, file_system: Any, seen: set[str], folder: str) -> Iterator[Entry]:
    """Yield the entries of a remote folder that are not in ``seen``.

    A folder that cannot be listed raises its error. fsspec's own walk would leave its images out,
    and perhaps a class.
    """
    for entry in attempt(url, partial(call, "ls", folder, detail=True)):
        path = entry["name"].rstrip("/")
        key = _to_key(file_system, path[len(folder.rstrip("/")) :].strip("/"))
        if path in seen or any(map(is_system_file, key.split("/"))):
            continue
        seen.add(path)
        kind = Kind.FOLDER if entry["type"] == "directory" else kind_by_ending(key)
        yield Entry(key, entry["name"], kind)


def _to_key(file_system: Any, name: str) -> str:
    """Return a name without escapes such as %20, which web servers list."""
    return unquote(name) if "http" in file_system.protocol else name
