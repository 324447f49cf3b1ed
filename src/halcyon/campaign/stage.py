"""What all stage programs share: arguments, threads, being stopped, and the lines a person sees.

    from halcyon.campaign import stage

    def main(job: stage.Job) -> None:
        job.say("sampling")
        job.done("450 frames", job.folder / "frames.parquet")

    if __name__ == "__main__":
        stage.run(stage.parser(__doc__), main)

`Job` is one stage at work on one system. `run` is the program around it: it parses the command
line, writes down how each attempt ends, and leaves with an exit code that tells.

Not for: anything that a library function could do; a stage program is a few lines.
"""

import argparse
import errno
import hashlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from halcyon import files, jsonl
from halcyon.campaign.attempts import Attempts, Ended, count
from halcyon.campaign.campaign import NO_RUN, RUN_VARIABLE, Campaign, SystemPlan
from halcyon.campaign.paths import SEED, generation_of, ledger
from halcyon.campaign.work import job_units
from halcyon.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_RESUME, InputError, Interrupted
from halcyon.wording import duration

LOOK_EVERY_S = 5.0
"""How often a job looks whether a later run has taken over, s."""
WAIT_S = 900.0
"""How long a job waits for one of an earlier run to release the same work, s."""
STEP_VARIABLES = ("SLURM_STEP", "PMI_", "PMIX_")
"""Beginnings of variables by which SLURM makes a program built with MPI one rank of several.

A stage without `--ranks` is the only task of its step. A program that it starts (CP2K alone, with
OpenMPI) would look for the other ranks and die: the variables are removed."""
MOST_FAILURES = 2
"""A stage that failed so often for reasons of its own is not begun again in the same run."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
DISK_ADVICE = (
    "what was written before is kept, no file is half written. Make room, or make it writable, and "
    "run the same command again"
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every stage has; `doc` is what `--help` says of this one."""
    arguments = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--campaign", required=True, type=Path, help="campaign.json that the workflow wrote"
    )
    arguments.add_argument("--system", required=True, help="name of the system")
    arguments.add_argument("--threads", type=int, default=1, help="threads to use (default 1)")
    arguments.add_argument("--log", type=Path, help="file that the output goes to as well")
    arguments.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="wall time after which the stage saves itself and exits with 75, s (default: none)",
    )
    return arguments


class Job:
    """One stage of one system (and generation) at work.

    Attributes:
        arguments: parsed command line.
        campaign: the whole campaign.
        plan: the system and its settings.
        name: the stage's name, e.g. `explore`.
        generation: counted from 0; None before the first.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the campaign and find the system.

        Raises:
            InputError: no such campaign, or no such system in it.
        """
        self.arguments = arguments
        self.name = Path(sys.argv[0]).stem.removesuffix("_frames")
        self.campaign = Campaign.read(arguments.campaign)
        if arguments.system not in self.campaign.systems:
            raise InputError(
                f"--system {arguments.system}: not in {arguments.campaign}, which has "
                f"{', '.join(self.campaign.systems)}"
            )
        self.plan: SystemPlan = self.campaign.systems[arguments.system]
        self.generation: int | None = getattr(arguments, "generation", None)
        self._console = Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._stopping = False
        self._run = os.environ.get(RUN_VARIABLE, "")
        self._last_look = self._begun
        self._outdated = False
        self._attempts = Attempts(
            self.campaign.attempts(arguments.system, (arguments.log or Path(self.name)).stem)
        )
        self._attempt: int | None = None

    @property
    def where(self) -> str:
        """System and generation (or batch of labels), as lines of progress have them."""
        batch = getattr(self.arguments, "batch", None)
        if self.generation is not None:
            batch = f"gen{self.generation:03d}"
        return f"{self.arguments.system} {batch or ''}".strip()

    @property
    def number(self) -> int | None:
        """Generation, of a label job that of its batch; None before the first or after the last."""
        batch = getattr(self.arguments, "batch", None)
        return self.generation if batch is None else generation_of(batch)

    @property
    def folder(self) -> Path:
        """Scratch folder of this stage alone."""
        batch = "start" if self.generation is None else f"gen{self.generation:03d}"
        return self.campaign.work(self.arguments.system, batch, self.name)

    def seed(self, *path: str | int) -> int:
        """A random seed for each purpose (`path`), derived from the campaign's and the stage."""
        words = [self.campaign.settings.seed, self.arguments.system, self.name, self.generation]
        text = json.dumps([*words, *path])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31

    def say(self, text: str, style: str = "default") -> None:
        """Print a line of progress, coloured on a terminal, and add it to the log."""
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(
            f"[dim]{clock}[/dim] [bold]{escape(self.where):<18}[/bold] "
            f"[cyan]{self.name:<10}[/cyan] [{style}]{escape(text)}[/{style}]"
        )
        sys.stdout.flush()
        self.write_log(f"{clock} {self.where} {self.name} {text}\n")

    def write_log(self, text: str) -> None:
        """Add to the log file, if the command line names one."""
        if self.arguments.log is not None:
            self.arguments.log.parent.mkdir(parents=True, exist_ok=True)
            with self.arguments.log.open("a", encoding="utf-8") as log:
                log.write(text)

    def done(self, what: str, written: Path) -> None:
        """Say that the stage is done, and add it to the campaign's ledger.

        Args:
            what: what was done, e.g. `450 frames`.
            written: its most important file.
        """
        seconds = time.monotonic() - self._begun
        self.say(f"{what}; {duration(seconds)} → {written}", style="green")
        earlier = sum(attempt.seconds for attempt in self._attempts.read())
        entry = {
            "system": self.arguments.system,
            "generation": self.generation,
            "stage": self.name,
            "what": what,
            "seconds": round(earlier + seconds, 2),
            "cores": self.arguments.threads,
            "number": SEED if self.number is None else self.number,
            "units": job_units(self.plan, self.name, self.number),
            "peak_mb": peak_mb(getattr(self.arguments, "ranks", 1)),
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        jsonl.append(ledger(self.campaign.folder), entry)

    def stopping(self) -> bool:
        """Whether the job should save itself and end: asked to, out of time, or `outdated`."""
        out_of_time = time.monotonic() - self._begun > self.arguments.seconds
        return self._stopping or out_of_time or self.outdated()

    def outdated(self) -> bool:
        """Whether a later run of the workflow has taken the campaign over.

        On a cluster, jobs outlive a workflow that was killed. The run that is started then submits
        the same work again; the job that still runs saves itself and ends.
        """
        now = time.monotonic()
        if self._run and not self._outdated and now - self._last_look > LOOK_EVERY_S:
            self._last_look = now
            self._outdated = self._taken_over()
        return self._outdated

    def _taken_over(self) -> bool:
        return bool(self._run) and self.campaign.run() not in ("", self._run)

    @contextmanager
    def alone(self, folder: Path | None = None) -> Iterator[None]:
        """Be the only process at this work; wait for a job of an earlier run to release it.

        Args:
            folder: where the work's state lies; by default the stage's own scratch folder.

        Raises:
            Interrupted: it was not released in time, or this job was asked to stop meanwhile.
        """
        begun, announced = time.monotonic(), False
        while True:
            try:
                handle = files.take_lock((folder or self.folder) / ".lock")
                break
            except files.Held as held:
                if self.stopping() or time.monotonic() - begun > WAIT_S:
                    waited = duration(time.monotonic() - begun)
                    raise Interrupted(
                        f"gave up waiting for the lock after {waited}: {held}"
                    ) from None
                if not announced:
                    self.say(
                        f"waiting for {held.holder}, which is at the same work", style="yellow"
                    )
                    announced = True
            time.sleep(1)
        try:
            yield
        finally:
            os.close(handle)

    def begin(self) -> None:
        """Write down that an attempt begins.

        Raises:
            InputError: the stage has failed often enough in this run, or the run is not the
                campaign's any more.
        """
        if self._run == NO_RUN:
            raise InputError(
                "this job was started by a command that Halcyon took for one that runs no jobs; "
                "no lock is held: nothing was done"
            )
        if self._taken_over():
            raise InputError(
                f"this job belongs to a run of the workflow that is over ({self._run}); "
                f"{self.campaign.run()} has the campaign now"
            )
        earlier = self._attempts.read()
        if self._run and count(earlier, Ended.FAILED, self._run) >= MOST_FAILURES:
            reason = [attempt.message for attempt in earlier if attempt.ended is Ended.FAILED][-1]
            raise InputError(f"failed {MOST_FAILURES} times, not tried again in this run: {reason}")
        self._attempt = self._attempts.begin(self._run)
        if earlier:
            ends = ", ".join(f"{n} {ended}" for ended in Ended if (n := count(earlier, ended)))
            self.say(f"attempt {len(earlier) + 1}; earlier attempts: {ends}", style="yellow")

    def end(self, ended: Ended | None, message: str = "") -> None:
        """Write down how the attempt ended; None: the stage is done."""
        if ended is None:
            self._attempts.clear()
        elif self._attempt is not None:
            seconds = time.monotonic() - self._begun
            self._attempts.end(self._attempt, ended, seconds, message)

    def stop(self, *_: Any) -> None:
        """Remember that the job was asked to stop; a signal handler."""
        self._stopping = True


def peak_mb(ranks: int = 1) -> int:
    """Peak memory of this process and of `ranks` processes like the largest it started, MB."""
    own, child = (
        resource.getrusage(processes).ru_maxrss  # kB
        for processes in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round((own + ranks * child) / 1024)


def run(
    arguments: argparse.ArgumentParser,
    main: Callable[[Job], None],
    command_line: Sequence[str] | None = None,
) -> None:
    """Parse the command line, run a stage, and leave with an exit code that tells how it ended.

    Exit codes: 0 done, 1 failed, 2 bad input, 75 saved and stopped, to be run again.

    Args:
        arguments: from `parser`, with those of this stage added.
        main: the stage.
        command_line: words to parse instead of the program's.
    """
    parsed = arguments.parse_args(command_line)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(parsed.threads)
    if getattr(parsed, "ranks", 1) == 1:
        for variable in [name for name in os.environ if name.startswith(STEP_VARIABLES)]:
            del os.environ[variable]
    try:
        job = Job(parsed)
    except InputError as error:
        _show(error)
        sys.exit(EXIT_BAD_INPUT)
    signal.signal(signal.SIGTERM, job.stop)
    try:
        job.begin()
        main(job)
        job.end(None)
    except InputError as error:
        _show(error)
        job.write_log(f"error {error}\n")
        job.end(Ended.FAILED, str(error))
        sys.exit(EXIT_BAD_INPUT)
    except Interrupted as stopped:
        job.say(f"{stopped}; run again to go on", style="yellow")
        job.end(Ended.SAVED)
        sys.exit(EXIT_RESUME)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        # Nothing is written to the log or the attempts: the disk would not take that, either.
        place = error.filename or job.campaign.folder
        _show(InputError(f"{place}: {error.strerror}: {DISK_ADVICE}"))
        sys.exit(EXIT_FAILED)
    except Exception as error:
        job.write_log(traceback.format_exc())
        job.end(Ended.FAILED, f"{type(error).__name__}: {error}")
        raise


def _show(error: InputError) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"[bold red]error[/bold red] {escape(str(error))}"
    )
