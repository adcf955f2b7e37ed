"""One process at a time in a run folder.

The lock is the kernel's: it ends with the process that holds it, however that ends, also over most network file
systems. The file says who holds it; where a file system has no locks, that decides.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffusionbench.errors import CheckpointError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; CheckpointError, naming the process, if another one holds it."""
    path = folder / LOCK
    handle = _taken(path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(_holder(os.getpid())).encode())
        yield
    finally:
        # While it is still held; where the folder has moved away, another one's lock may have this name.
        with suppress(OSError):
            if os.path.samestat(os.stat(path), os.fstat(handle)):
                path.unlink()
        os.close(handle)


def _taken(path: Path) -> int:
    while True:
        # What a link leads to is somebody else's.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            # Of this process alone: a lock by flock would live on in its loader processes.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(handle)
            os.close(handle)
            if error.errno in (errno.EACCES, errno.EAGAIN) or _lives(holder):
                raise CheckpointError(
                    f"{path.parent} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}. Wait "
                    "for it or stop it, or use another run name (--run NAME)."
                ) from None
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        # Its last holder may have removed it in between.
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)


def _holder(pid: int) -> dict[str, Any]:
    """A process so that no later one with its number is taken for it."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        start = ""
    return {"host": socket.gethostname(), "pid": pid, "start": start}


def _read(handle: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
    except (ValueError, RecursionError):
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _lives(holder: dict[str, Any]) -> bool:
    """Return whether the process that a lock file names may be alive; True for processes of other machines."""
    pid, host = holder.get("pid"), holder.get("host")
    if not isinstance(pid, int) or not isinstance(host, str):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return holder == _holder(pid)
