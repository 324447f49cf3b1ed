"""Writing to disk so that a kill at any moment leaves either the old file or the new one.

Not for: formats. `frames` knows Parquet, `config` knows YAML; this module only moves bytes.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from halcyon.errors import InputError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Give a temporary name beside `path`; on success sync it and rename it into place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON to `path` atomically. NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


@contextmanager
def only_one(folder: Path | str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold `folder` for this process; the kernel lets go of it when the process dies.

    Args:
        folder: made if missing; the lock is the file `.lock` in it.
        wait_s: seconds to wait for another process to finish, e.g. an orphan of a killed run.

    Raises:
        InputError: another process still holds it; the message names that process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = take_lock(folder / ".lock", wait_s=wait_s)
    try:
        yield
    finally:
        os.close(handle)


def take_lock(path: Path, *, wait_s: float = 0.0) -> int:
    """Lock the file `path` until the returned descriptor is closed or the process ends.

    Raises:
        InputError: another process holds the lock after `wait_s` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            holder = os.read(handle, 200).decode(errors="replace").strip() or "unknown process"
            os.close(handle)
            raise InputError(
                f"{path.parent}: another Halcyon process works here ({holder}). "
                "Wait for it to end, or stop it, then run the same command again."
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
        return handle


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock `path`; nothing is written, and no right to write needed.

    The lock is asked for, shared, and given back at once: `take_lock` with some patience does not
    notice.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
