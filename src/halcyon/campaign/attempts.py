"""What became of the attempts at a job: a job that a cluster ended early is not one that failed.

A stage writes a line when it begins and a line when it ends in good order; one that was killed
(memory, node, power) has no second line. From this the workflow knows what to ask for next time,
and a stage knows that it has failed of itself often enough. When the job is done, the file goes.

    tried = Attempts(path)
    number = tried.begin(run)
    tried.end(number, Ended.SAVED, seconds)

Not for: submitting jobs again (the workflow), or the state they go on from (each stage's own).
"""

import json
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any


class Ended(StrEnum):
    """How an attempt ended."""

    SAVED = "saved"
    """Asked to stop, or out of time: the next one goes on."""
    FAILED = "failed"
    """Of itself: bad input, or an error."""
    KILLED = "killed"
    """Without a word."""


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        run: which run of the workflow it belonged to.
        ended: how.
        seconds: its wall time, s; 0 where it was killed.
        message: why it failed.
    """

    run: str
    ended: Ended
    seconds: float
    message: str


class Attempts:
    """The attempts at one job, in a file of one JSON line per event."""

    def __init__(self, path: Path) -> None:
        """Nothing is read or made yet."""
        self.path = path

    def read(self) -> list[Attempt]:
        """All attempts so far, the first one first; a torn line is passed over."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: list[dict[str, Any]] = []
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if "began" in entry:
                found.append(entry)
            elif entry["number"] < len(found):
                found[entry["number"]] |= entry
        return [
            Attempt(
                run=entry["run"],
                ended=Ended(entry.get("ended", Ended.KILLED)),
                seconds=entry.get("seconds", 0.0),
                message=entry.get("message", ""),
            )
            for entry in found
        ]

    def begin(self, run: str) -> int:
        """Write down that an attempt begins; gives its number, from 0."""
        number = len(self.read())
        self._append(
            {
                "run": run,
                "began": datetime.now().astimezone().isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "process": os.getpid(),
                "slurm_job": os.environ.get("SLURM_JOB_ID"),
            }
        )
        return number

    def end(self, number: int, ended: Ended, seconds: float, message: str = "") -> None:
        """Write down how an attempt ended, and after how many seconds."""
        self._append(
            {
                "number": number,
                "ended": ended.value,
                "seconds": round(seconds, 2),
                "message": message[:2000],
            }
        )

    def clear(self) -> None:
        """The job is done: forget how."""
        self.path.unlink(missing_ok=True)

    def _append(self, entry: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # A kill in mid-write leaves a line without its end: every line begins on one of its own.
        with self.path.open("ab") as lines:
            lines.write(b"\n" + json.dumps(entry).encode() + b"\n")
            lines.flush()
            os.fsync(lines.fileno())


def count(attempts: list[Attempt], ended: Ended, run: str | None = None) -> int:
    """How many ended so; only those of a run, where one is given."""
    return sum(one.ended is ended and run in (None, one.run) for one in attempts)
