"""Images that fsspec reaches: object stores, web servers, SFTP; they are kept in memory only.

fsspec finds the credentials. Stored names and messages have only the scheme, the host and the path
of a URL, because no list of words knows every kind of password and signature.
"""

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from extract.core.errors import HeadstartError, ImageError, quoted
from extract.limits.image_size import BYTES, claim_bytes

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
# fsspec reads zip://a.png::https://host/b.zip as a file within another one.
_CHAIN = re.compile(rf"::(?=(?:[a-z]+::)*{_SCHEME.pattern})")
# A URL in a text ends before a space or the next one; the marks after it belong to the text.
_IN_TEXT = re.compile(
    rf"({_SCHEME.pattern}(?:(?!{_SCHEME.pattern})\S)*?)([)\]>'\".,:;]*)(?=\s|$|{_SCHEME.pattern})"
)
_NO_PORT = re.compile(r"(\[[^]]*\])?+[^:]*+:(?!\d*$)")
# A URL as pathlib writes it, which makes one slash of two.
_PATH = re.compile(r"(?:^|/|::)([A-Za-z][A-Za-z0-9+.-]+:)/+")
_DIGEST_BYTES = 6
_ATTEMPTS, _PAUSE_SECONDS, _TIMEOUT_SECONDS = 3, 0.5, 60.0
# These errors end every attempt; classes of libraries that may be missing go by name.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, ImportError, ValueError)
_FINAL_NAMES = {"AuthenticationException", "BadHostKeyException", "NoCredentialsError"}


def is_url(name: str) -> bool:
    """Whether a name is a URL, such as ``s3://bucket/folder``."""
    return "://" in name and _SCHEME.match(name) is not None


def without_query(url: str) -> str:
    """Return a URL up to its query, with the file ending last; any other name as it is."""
    return url.partition("?")[0] if is_url(url) else url


def hide_secrets_in(text: str) -> str:
    """Return a text without the secrets of the URLs in it."""
    return _IN_TEXT.sub(lambda url: hide_secrets(url[1]) + url[2], text)


def hide_secrets(name: str) -> str:
    """Return a name that is or ends with a URL, of which scheme, host and path remain."""
    return "".join(_split(name)[:2]) if "://" in name else name


def check_local(path: Path, error: type[HeadstartError]) -> None:
    """Raise an error for a path that does not exist and is a URL, without its secrets."""
    if (found := _PATH.search(str(path))) and not os.path.exists(path):
        url = hide_secrets(f"{found[1]}//{str(path)[found.end() :]}")
        raise error(f"{quoted(url)}: a URL; expected a path on this machine; fetch the file first")


def name_images(paths: Collection[str]) -> dict[str, str]:
    """Return the key of each path: the path, or of a URL what ``hide_secrets`` leaves of it.

    Where that makes keys equal, a digest of all but the credentials is added.
    """
    keys = {path: hide_secrets(path) for path in paths}
    sizes = Counter(keys.values())
    if len(sizes) == len(keys):
        return keys
    return {path: _with_digest(path) if sizes[key] > 1 else key for path, key in keys.items()}


def _with_digest(url: str) -> str:
    scheme, place, query = _split(url)
    digest = hashlib.blake2b((scheme + place + query).encode(), digest_size=_DIGEST_BYTES)
    return scheme + place + (f"#{digest.hexdigest()}" if query else "")


def _host(rest: str) -> str:
    return re.split("[/?#]", rest, maxsplit=1)[0]


def _split(name: str) -> tuple[str, str, str]:
    """Return what a URL begins with up to its scheme, host and path, and query and fragment."""
    if chain := _CHAIN.search(name):
        within = _split(name[: chain.start()])
        scheme, place, query = _split(name[chain.end() :])
        return f"{within[0]}{within[1]}::{scheme}", place, within[2] + query
    found = _SCHEME.search(name)
    if found is None:
        return "", name, ""
    rest = name[found.end() :]
    if "@" in rest and _NO_PORT.match(_host(rest)):
        rest = rest.partition("@")[2]  # of a password, which may have one of the characters below
    rest = rest[_host(rest).rfind("@") + 1 :]
    place = re.split("[?#]", rest, maxsplit=1)[0]
    return name[: found.end()], place, rest[len(place) :]


def read_url(url: str, path: str | None = None) -> bytes:
    """Return the content at ``path`` on the file system of ``url``, or at ``url`` without a path.

    A connection that breaks or hangs is tried again.

    Raises:
        ImageError: The content cannot be read, or is larger than ``--max-image-bytes``.
    """
    try:
        content = attempt(url, partial(_fetch, path))
        claim_bytes(len(content))
        return content  # type: ignore[no-any-return]
    except Exception as error:  # each file system has its own errors
        raise ImageError(explain(error)) from error


def _fetch(path: str | None, file_system: Any, root: str) -> bytes:
    """Return the content at a path, and of one that is too large a byte more than is read."""
    end = BYTES.most + 1
    if "http" in file_system.protocol:  # many web servers send no parts
        from fsspec.asyn import sync

        work = _fetch_http(file_system, root if path is None else path, end)
        return sync(file_system.loop, lambda: work, timeout=_TIMEOUT_SECONDS)  # type: ignore[no-any-return]
    try:
        return bytes(call("cat_file", path, file_system, root, start=0, end=end))
    except _FINAL:
        raise
    except Exception:  # object stores have no part of an empty file, each with its own error
        if call("info", path, file_system, root)["size"] != 0:
            raise
        return b""


async def _fetch_http(file_system: Any, url: str, end: int) -> bytes:
    """Return the content at a URL, whose answer may have no end; refuse ``end`` bytes of it."""
    session, content = await file_system.set_session(), bytearray()
    async with session.get(file_system.encode_url(url), **file_system.kwargs) as answer:
        file_system._raise_not_found_for_status(answer, url)
        async for piece in answer.content.iter_any():
            content += piece
            if len(content) >= end:
                answer.close()
                claim_bytes(len(content))  # refuses it
    return bytes(content)


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
    text = " ".join(str(error).split())
    return hide_secrets_in(text) or type(error).__name__
