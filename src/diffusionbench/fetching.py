"""Files of others in the cache folder: fetched from their pinned place or taken from a local one, verified by hash."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Final

from diffusionbench.errors import DataError, RequestError
from diffusionbench.limits import read_small
from diffusionbench.shown import few, first_line, printable
from diffusionbench.writing import write_atomic

# Bytes of the largest file that is fetched, and seconds without a byte after which a server counts as gone.
_MOST: Final = 2**30
_PATIENCE: Final = 60.0
# Seconds in which a host answers where there is a network.
_AT_ONCE: Final = 0.7
# Files looked through below a local folder.
_LOCAL: Final = 10_000


def reachable(url: str = "") -> bool:
    """Return whether the host of a URL, or the proxy in front of it, answers at once; by default that of the hub.

    Libraries try an absent network again and again, for tens of seconds; an answer within `_AT_ONCE` costs nothing.
    """
    url = url or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    parts = urllib.parse.urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}", scheme="http")
    answers: list[bool] = []

    def connect() -> None:
        port = parts.port or (80 if parts.scheme == "http" else 443)
        with suppress(OSError, ValueError), socket.create_connection((parts.hostname or "", port), _AT_ONCE):
            answers.append(True)

    # In a thread, as the name of the host is looked up without a limit of time.
    asking = Thread(target=connect, daemon=True)
    asking.start()
    asking.join(_AT_ONCE)
    return bool(answers)


def matches(data: bytes, sha256: str) -> bool:
    """Return whether bytes have a SHA-256, of which only the first digits may be known; "" fits all."""
    return hashlib.sha256(data).hexdigest().startswith(sha256)


def fetch(url: str, owner: str) -> bytes:
    """Return what lies at a URL.

    Raises:
        RequestError: if it cannot be fetched, or is larger than a gigabyte.
    """
    if urllib.parse.urlsplit(url).scheme in ("http", "https") and not reachable(url):
        raise RequestError(
            f"{owner} cannot be fetched: {urllib.parse.urlsplit(url).hostname} does not answer. Fetch {url} elsewhere "
            "and give the file or folder with --from."
        )
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            data: bytes = answer.read(_MOST + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RequestError(
            f"{owner} cannot be fetched from {url} ({first_line(error)}). Fetch it elsewhere and give the file or "
            "folder with --from."
        ) from None
    if len(data) > _MOST:
        raise RequestError(f"{owner}: {url} holds more than {_MOST:,} bytes. It is not what is meant; give --from.")
    return data


def bring(
    owner: str,
    files: Mapping[str, str],
    folder: Path,
    remote: Callable[[], Mapping[str, bytes]],
    given: Path | None = None,
) -> list[Path]:
    """Put files into a folder, from a local place or else the remote one, and return them; nothing where one is wrong.

    Args:
        owner: what needs them, such as "prompt set 'geneval'".
        files: SHA-256 by name; "" for one that may be absent.
        remote: fetches the files by name.
        given: a local file, or a folder in which files are found by name or else by their hash.

    Raises:
        DataError: if a file is absent or has another hash.
        RequestError: if they cannot be fetched.
    """
    found = remote() if given is None else _local(files, given)
    for name, sha256 in files.items():
        if name not in found and sha256:
            where = "what was fetched" if given is None else printable(str(given))
            raise DataError(f"{owner} needs {name} (SHA-256 {sha256[:12]}), which is not in {where}. Give another.")
        if name in found and not matches(found[name], sha256):
            raise DataError(
                f"{owner} needs {name} with SHA-256 {sha256[:12]}..., and the one found has "
                f"{hashlib.sha256(found[name]).hexdigest()[:12]}...: another version or a damaged file, and scores "
                "made with it would not compare. Give the pinned one with --from."
            )
    for name in files.keys() & found.keys():
        write_atomic(folder / name, found[name])
    return [folder / name for name in files if name in found]


def _local(files: Mapping[str, str], given: Path) -> dict[str, bytes]:
    if not given.exists():
        raise DataError(
            f"{printable(str(given))} does not exist. Give a file, or a folder that holds: {few(list(files))}."
        )
    paths = [given] if given.is_file() else sorted(path for path in given.rglob("*") if path.is_file())[:_LOCAL]
    found: dict[str, bytes] = {}
    for name, sha256 in files.items():
        same = [path for path in paths if path.name == name or (path == given and len(files) == 1)]
        # Files that others renamed are known by their content.
        for path in same or (paths if sha256 else ()):
            try:
                data = read_small(path)
            except OSError as error:
                raise DataError(f"{printable(str(path))} cannot be read ({first_line(error)}).") from None
            if same or matches(data, sha256):
                found[name] = data
                break
    return found
