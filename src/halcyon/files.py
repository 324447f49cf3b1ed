"""Writing to disk so that a kill at any moment leaves either the old file or the new one.

    from pathlib import Path
    from halcyon.files import replacing, write_json

    write_json(Path("verdict.json"), {"schema": 1})
    with replacing(Path("model.model")) as temporary:
        temporary.write_bytes(b"the whole model")

Not for: formats (`frames` knows Parquet, `config` knows YAML), or files that grow (`jsonl`).
"""

import errno
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from halcyon.errors import InputError

REMADE = (
    "If a campaign made it, delete this file and run the same command: it is made again, and no "
    "frame is labelled a second time"
)
"""What a user does about a damaged file."""


class Held(InputError):  # noqa: N818 - says what the lock is
    """Another process holds a lock.

    Attributes:
        holder: that process, as the lock file names it.
    """

    def __init__(self, folder: Path, holder: str) -> None:
        """Make the message from the locked folder and the process that holds it."""
        self.holder = holder
        super().__init__(
            f"{folder}: another Halcyon process works here ({holder}). "
            "Wait for it to end, or stop it, then run the same command again."
        )


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
        InputError: the file is missing, cannot be read, or is not JSON; the message names it.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). {REMADE}") from error


def read_object(path: Path | str, keys: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON file that holds an object with at least these keys.

    Raises:
        InputError: as `read_json`; it is no object, or a key is missing.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: damaged: not a JSON object. {REMADE}")
    if missing := [key for key in keys if key not in content]:
        raise InputError(f"{path}: damaged: no key {', '.join(missing)}. {REMADE}")
    return content


@contextmanager
def only_one(folder: Path | str, *, wait_s: float = 0.0) -> Iterator[None]:
    """Lock `folder` for this process; the kernel releases the lock when the process dies.

    Args:
        folder: made if missing; the lock is the file `.lock` in it.
        wait_s: seconds to wait for another process to finish, e.g. an orphan of a killed run.

    Raises:
        Held: another process still holds it; the message names that process.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle = take_lock(folder / ".lock", wait_s=wait_s)
    try:
        yield
    finally:
        os.close(handle)


NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def check_writable(folder: Path) -> None:
    """Check that files can be made in a folder, or in what it will be made in. Leaves no trace.

    Raises:
        InputError: nothing can be written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b" ")
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise _not_writable(existing, error) from error


def _not_writable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"{folder}: nothing can be written here ({error.strerror}), and a campaign writes its "
        "files here: make the folder writable. To look at the campaign without: halcyon status"
    )


def take_lock(path: Path, *, wait_s: float = 0.0) -> int:
    """Lock the file `path` until the returned descriptor is closed or the process ends.

    Args:
        path: made if missing. Whoever holds the lock is named in it.
        wait_s: seconds to wait for another process to release it.

    Raises:
        Held: another process holds the lock after `wait_s` seconds; the file was not changed.
        InputError: this file system has no locks, or nothing can be written to it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise _not_writable(path.parent, error) from error
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
            raise Held(path.parent, holder) from None
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise InputError(
                f"{path}: this file system has no file locks ({error.strerror}): keep results on "
                "one that has (for Lustre: mounted with the option flock)"
            ) from error
        os.ftruncate(handle, 0)
        since = datetime.now().astimezone().isoformat()
        os.write(handle, f"process {os.getpid()} on {os.uname().nodename} since {since}".encode())
        os.fsync(handle)  # other nodes read it while we hold it open
        return handle


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock `path`; nothing is written, and no right to write is needed.

    For an instant this process holds a shared lock: a `take_lock` that waits is not refused by it.
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
