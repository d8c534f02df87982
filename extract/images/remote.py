"""Images that fsspec reaches: object stores, web servers, SFTP; they are kept in memory only.

fsspec finds the credentials. Stored names and messages have no password and no signature.
"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from extract.core.errors import ImageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]*")
_USER = re.compile(r"://[^/]*@")
# Words in the queries of signed links; any other query is part of the name.
_SIGNED = re.compile(r"sig|token|key|credential|secret|passw|expires|x-amz-|x-goog-", re.IGNORECASE)
_ATTEMPTS, _PAUSE_SECONDS, _TIMEOUT_SECONDS = 3, 0.5, 60.0
# These errors end every attempt; classes of libraries that may be missing go by name.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError)
_FINAL_NAMES = {"AuthenticationException", "BadHostKeyException", "NoCredentialsError"}


def is_url(name: str) -> bool:
    """Whether a name is a URL, such as ``s3://bucket/folder``."""
    return "://" in name and _URL.match(name) is not None


def without_query(url: str) -> str:
    """Return a URL up to its query, with the file ending last; any other name as it is."""
    return url.partition("?")[0] if is_url(url) else url


def hide_secrets(text: str) -> str:
    """Remove user, password and signed query from every URL in a text."""
    return _URL.sub(_hide_in_url, text) if "://" in text else text


def _hide_in_url(url: re.Match[str]) -> str:
    path, mark, query = _USER.sub("://", url[0], count=1).partition("?")
    return path if _SIGNED.search(query) else path + mark + query


def read_url(url: str, path: str | None = None) -> bytes:
    """Return the content at ``path`` on the file system of ``url``, or at ``url`` without a path.

    A connection that breaks or hangs is tried again.

    Raises:
        ImageError: The content cannot be read.
    """
    try:
        return bytes(attempt(url, partial(call, "cat_file", path)))
    except Exception as error:  # each file system has its own errors
        raise ImageError(explain(error)) from error


def read_range(url: str, size: int, start: int) -> bytes:
    """Return up to ``size`` bytes of the content at ``url`` from the offset ``start``.

    Raises:
        ImageError: The content cannot be read in parts.
    """
    try:
        content = attempt(url, partial(call, "cat_file", None, start=start, end=start + size))
    except Exception as error:  # each file system has its own errors
        raise ImageError(explain(error)) from error
    if len(content) > size:
        raise ImageError("the server sends whole files instead of the parts that are asked for")
    return bytes(content)


def attempt(url: str, work: Callable[[Any, str], Any]) -> Any:
    """Call ``work`` with the file system of ``url`` and the path on it; try again after an error.

    fsspec keeps one file system for each thread, or one for all threads that opens connections as
    needed. A file system with a single connection, such as SFTP, fails with it and is replaced.
    """
    for attempt in range(1, _ATTEMPTS):
        file_system = None
        try:
            file_system, path = _open(url)
            return work(file_system, path)
        except Exception as error:  # a broken connection has its own error in each file system
            if isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES:
                raise
            if file_system is not None and not file_system.async_impl:
                type(file_system).clear_instance_cache()
            time.sleep(_PAUSE_SECONDS * 2**attempt)
    return work(*_open(url))


def _open(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        extra = "s3" if url.startswith("s3:") else "remote"
        raise ImportError(f'needs fsspec; pip install "headstart[{extra}]"') from error
    file_system, path = url_to_fs(url)
    # SFTP alone has a channel; without a limit it waits for ever.
    if channel_of := getattr(getattr(file_system, "ftp", None), "get_channel", None):
        channel_of().settimeout(_TIMEOUT_SECONDS)
    return file_system, path


def call(name: str, path: str | None, file_system: Any, root: str, **settings: Any) -> Any:
    """Call a method of a file system on ``path``, or on ``root`` without one, in limited time."""
    if file_system.async_impl:  # other file systems have a limit among their own settings
        settings["timeout"] = _TIMEOUT_SECONDS
    return getattr(file_system, name)(root if path is None else path, **settings)


def explain(error: Exception) -> str:
    """Return the reason of an error in one line, without secrets."""
    if isinstance(error, FileNotFoundError):
        return "there is nothing at this address"
    return hide_secrets(" ".join(str(error).split())) or type(error).__name__
