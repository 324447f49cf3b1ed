"""What became of the attempts at a job: one that a cluster ended early did not fail.

    from pathlib import Path
    from halcyon.campaign.attempts import Attempts, Ended

    attempts = Attempts(Path("gen003-explore.jsonl"))
    number = attempts.begin("process 4711 on node7")
    attempts.end(number, Ended.SAVED, seconds=3600.0)

A stage writes a line when it begins, and a line when it ends in good order. A stage that was killed
(memory, node, power) has no second line. From this the workflow knows what to ask for the next
time, and a stage knows that it has failed for a reason of its own often enough. The file is removed
when the job is done.

Not for: submitting jobs again (the workflow), or the state they go on from (each stage's own).
"""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from halcyon import jsonl


class Ended(StrEnum):
    """How an attempt ended."""

    SAVED = "saved"
    """It was asked to stop, or out of time: the next attempt goes on."""
    FAILED = "failed"
    """For a reason of its own: bad input, or an error."""
    KILLED = "killed"
    """It ended without writing anything."""


@dataclass(frozen=True)
class Attempt:
    """One attempt.

    Attributes:
        run: which run of the workflow it belonged to.
        ended: how it ended.
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
        """Nothing is read or written yet."""
        self.path = path

    def read(self) -> list[Attempt]:
        """All attempts so far, the first one first."""
        attempts: list[dict[str, Any]] = []
        for event in jsonl.read(self.path):
            if "began" in event:
                attempts.append(event)
            elif event["number"] < len(attempts):
                attempts[event["number"]] |= event
        return [
            Attempt(
                run=attempt["run"],
                ended=Ended(attempt.get("ended", Ended.KILLED)),
                seconds=attempt.get("seconds", 0.0),
                message=attempt.get("message", ""),
            )
            for attempt in attempts
        ]

    def begin(self, run: str) -> int:
        """Write down that an attempt begins; gives its number, from 0."""
        number = len(self.read())
        jsonl.append(
            self.path,
            {
                "run": run,
                "began": datetime.now().astimezone().isoformat(timespec="seconds"),
                "host": socket.gethostname(),
                "process": os.getpid(),
                "slurm_job": os.environ.get("SLURM_JOB_ID"),
            },
        )
        return number

    def end(self, number: int, ended: Ended, seconds: float, message: str = "") -> None:
        """Write down how an attempt ended, and its wall time in seconds."""
        jsonl.append(
            self.path,
            {
                "number": number,
                "ended": ended.value,
                "seconds": round(seconds, 2),
                "message": message[:2000],
            },
        )

    def clear(self) -> None:
        """Remove the file: the job is done."""
        self.path.unlink(missing_ok=True)


def count(attempts: Sequence[Attempt], ended: Ended, run: str | None = None) -> int:
    """How many attempts ended so; only those of one run, where it is given."""
    return sum(attempt.ended is ended and run in (None, attempt.run) for attempt in attempts)
