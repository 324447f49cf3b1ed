"""JSON Lines files that survive a kill: one safe writer, one tolerant reader.

    from pathlib import Path
    from halcyon import jsonl

    jsonl.append(Path("stages.jsonl"), {"stage": "explore", "seconds": 41.2})
    for entry in jsonl.read(Path("stages.jsonl")):
        print(entry["stage"])

Several processes may append to the same file. A line that a kill or a full disk left incomplete is
passed over when the file is read, and it never joins the next line.

Not for: what the entries mean. Whole files that are replaced at once are in `files`.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry; it is on the disk when this returns.

    Every entry begins on a line of its own: if the writer before was killed in the middle of a
    line, the line break in front of this one ends what it left. The line is one `write` to a file
    that is open for appending, so entries of processes that write at the same time do not mix.

    Raises:
        ValueError: the entry has NaN or infinity, which JSON does not know.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = b"\n" + encoded(entry)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        while line:  # the system may write less than it is given; a full disk raises
            line = line[os.write(descriptor, line) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> list[dict[str, Any]]:
    """All complete entries, the first one first; none where there is no file."""
    return read_from(path, 0)[0]


def read_from(path: Path, begin: int) -> tuple[list[dict[str, Any]], int]:
    """Complete entries from the byte `begin` on, and the byte from which to read the next time.

    A last line without its end is left for the next time: its writer may still be at work.
    """
    try:
        with path.open("rb") as opened:
            opened.seek(begin)
            content = opened.read()
    except FileNotFoundError:
        return [], begin
    complete = content[: content.rfind(b"\n") + 1]
    entries = []
    for line in complete.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries, begin + len(complete)


def encoded(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line with its end, for files that are written as a whole."""
    return json.dumps(entry, allow_nan=False).encode() + b"\n"
