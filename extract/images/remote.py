"""Images that fsspec reaches: object stores, web servers, SFTP; kept in memory and nowhere else.

Credentials are fsspec's business. What is stored or said names no password and no signature.
"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote

from extract.core.errors import ImageError, SourceError, quoted
from extract.images.image_folder import Named, arrange
from extract.images.item import IMAGE_ENDINGS, Item, Source, is_system_file

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]*")
_USER = re.compile(r"://[^/]*@")
# What the queries of signed links are made of; without them such a link is a name like any other.
_SIGNED = re.compile(r"sig|token|key|credential|secret|passw|expires|x-amz-|x-goog-", re.IGNORECASE)
_ATTEMPTS, _PAUSE_SECONDS, _TIMEOUT_SECONDS = 3, 0.5, 60.0
# Another attempt would end as the first; classes of libraries that may not be here go by name.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError)
_FINAL_NAMES = {"AuthenticationException", "BadHostKeyException", "NoCredentialsError"}

T = TypeVar("T")


def is_url(name: str) -> bool:
    """Whether a name is that of something remote, such as ``s3://bucket/folder``."""
    return _URL.match(name) is not None


def without_query(url: str) -> str:
    """Return a URL's path, whose ending says what it is; any other name as it is."""
    return url.partition("?")[0] if is_url(url) else url


def hide_secrets(text: str) -> str:
    """Return text whose URLs have neither user and password nor a signed query."""
    return _URL.sub(lambda match: _plain(match[0]), text) if "://" in text else text


def _plain(url: str) -> str:
    path, mark, query = _USER.sub("://", url, count=1).partition("?")
    return path if _SIGNED.search(query) else path + mark + query


def read_url(url: str) -> bytes:
    """Return all that is at ``url``; a connection that breaks or hangs is tried again.

    Raises:
        ImageError: It cannot be read.
    """
    return _read(url, None)


def list_remote(url: str) -> Source:
    """List the images below ``url``, known by their endings; laid out as in a local folder.

    Raises:
        SourceError: It cannot be listed, holds no images, or its layout has two meanings.
    """
    root = hide_secrets(url)
    try:
        file_system, path = _attempt(url, lambda file_system, path: (file_system, path))
        read = partial(_read, url)
        if without_query(url).lower().endswith(IMAGE_ENDINGS):
            key = _to_key(file_system, without_query(url).rpartition("/")[2])
            return Source((Item(key, path, -1, 0, "", read),), (), (), root)
        file_system.invalidate_cache()
        found = _walk(url, file_system, path)
    except ImportError as error:  # fsspec says which library it lacks
        raise SourceError(f"{quoted(root)}: {_explain(error)}") from error
    except Exception as error:  # each file system has errors of its own
        raise SourceError(
            f"{quoted(root)}: cannot be listed: {_explain(error)}; expected a folder of images; "
            "look after the address and the credentials"
        ) from error
    return arrange(root, found, read)


def _open(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        extra = "s3" if url.startswith("s3:") else "remote"
        raise ImportError(f'needs fsspec; pip install "headstart[{extra}]"') from error
    file_system, path = url_to_fs(url)
    # Of SFTP; it would wait for ever.
    if channel_of := getattr(getattr(file_system, "ftp", None), "get_channel", None):
        channel_of().settimeout(_TIMEOUT_SECONDS)
    return file_system, path


def _walk(url: str, file_system: Any, root: str) -> dict[str, Named]:
    """Return all below ``root`` by kind.

    A folder that cannot be listed ends it, where fsspec's own walk would leave out what is below:
    a class might be missing from all that follows.
    """
    found: dict[str, Named] = {kind: [] for kind in ("image", "folder", "other", "closed")}
    top = root.rstrip("/")
    pending, seen = [root], {top}
    while pending:
        folder = pending.pop()
        below = _to_key(file_system, folder[len(top) :].strip("/"))
        found["folder"].append((f"{below}/" if below else "", folder))
        for entry in _attempt(url, partial(_call, "ls", folder, detail=True)):
            name = entry["name"].rstrip("/")
            key = _to_key(file_system, name[len(top) :].strip("/"))
            if name in seen or any(map(is_system_file, key.split("/"))):
                continue
            seen.add(name)
            if entry["type"] == "directory":
                pending.append(entry["name"])
            else:
                kind = "image" if key.lower().endswith(IMAGE_ENDINGS) else "other"
                found[kind].append((key, name))
    return found


def _to_key(file_system: Any, name: str) -> str:
    """Return a name as people write it; web servers list theirs quoted."""
    protocols = file_system.protocol
    protocols = (protocols,) if isinstance(protocols, str) else protocols
    return unquote(name) if "http" in protocols else name


def _read(url: str, path: str | None) -> bytes:
    """Return all that is at ``path``, which is where ``url`` is, or what ``url`` itself names."""
    try:
        return bytes(_attempt(url, partial(_call, "cat_file", path)))
    except Exception as error:  # each file system has errors of its own
        raise ImageError(_explain(error)) from error


def _call(name: str, path: str | None, file_system: Any, root: str, **settings: Any) -> Any:
    path = root if path is None else path
    if not file_system.async_impl:  # its time limit is among its own settings
        return getattr(file_system, name)(path, **settings)
    from fsspec.asyn import sync

    work = getattr(file_system, f"_{name}")
    return sync(file_system.loop, work, path, timeout=_TIMEOUT_SECONDS, **settings)


def _attempt(url: str, work: Callable[[Any, str], T]) -> T:
    """Do ``work`` on the file system of ``url`` and its path there, again where that fails.

    fsspec keeps a file system for each thread, or one for all that makes connections as it needs
    them. One that has a single connection, as SFTP has, is dead with it, and made anew.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        file_system = None
        try:
            file_system, path = _open(url)
            return work(file_system, path)
        except _FINAL:
            raise
        except Exception as error:  # a cut connection has another name in each file system
            if attempt == _ATTEMPTS or type(error).__name__ in _FINAL_NAMES:
                raise
            if file_system is not None and not file_system.async_impl:
                type(file_system).clear_instance_cache()
            time.sleep(_PAUSE_SECONDS * 2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _explain(error: Exception) -> str:
    """Return in one line, without secrets, what went wrong."""
    if isinstance(error, FileNotFoundError):
        return "there is nothing at this address"
    return hide_secrets(" ".join(str(error).split())) or type(error).__name__
