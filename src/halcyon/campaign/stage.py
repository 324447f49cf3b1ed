"""What all stage programs share: arguments, threads, being stopped, and the lines a person sees.

    def main(job: Job) -> None:
        ...
        job.done("450 frames", job.arguments.frames)

    if __name__ == "__main__":
        run(parser(__doc__), main)

Not for: anything a library function could do; a stage program is a few lines.
"""

import argparse
import errno
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

from halcyon import files
from halcyon.campaign.attempts import Attempts, Ended, count
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.paths import SEED, generation_of
from halcyon.campaign.work import job_units
from halcyon.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_RESUME, InputError, Interrupted

TELL_EVERY_S = 10.0
"""Time between two lines about the same thing, s."""
RUN_VARIABLE = "HALCYON_RUN"
"""Environment variable with the run of the workflow that a job belongs to; see `Job.outdated`."""
LOOK_EVERY_S = 5.0
"""Time between two looks whether a later run has taken over, s."""
WAIT_S = 900.0
"""How long a job waits for one of an earlier run to let go of the same work, s."""
STEP_VARIABLES = ("SLURM_STEP", "PMI_", "PMIX_")
"""With these, a program built with MPI takes itself for a rank of the step that this process is the
only task of, and dies looking for the others: CP2K alone, with OpenMPI, does."""
MOST_FAILURES = 2
"""A stage that failed of itself so often is not begun once more in the same run."""
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
ADVICE = (
    "what was written before is kept, nothing is half written. Make room, or make it writable, "
    "and run the same command again"
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Arguments that every stage has; the first line of `doc` is the description."""
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
    """One stage of one system (and generation), and its voice.

    Attributes:
        arguments: parsed command line.
        campaign: the whole campaign.
        plan: the system and its settings.
        name: of the stage, e.g. `explore`.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read the campaign and find the system."""
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
        self._looked = self._begun
        self._outdated = False
        self._attempts = Attempts(
            self.campaign.attempts(arguments.system, (arguments.log or Path(self.name)).stem)
        )
        self._attempt: int | None = None

    @property
    def where(self) -> str:
        """System and generation (or batch of labels), for people."""
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
        """This stage's own scratch folder."""
        batch = "start" if self.generation is None else f"gen{self.generation:03d}"
        return self.campaign.work(self.arguments.system, batch, self.name)

    def seed(self, *path: str | int) -> int:
        """A seed of its own for each purpose, all derived from the campaign's."""
        import hashlib

        words = [self.campaign.settings.seed, self.arguments.system, self.name, self.generation]
        text = json.dumps([*words, *path])
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31

    def say(self, text: str, style: str = "default") -> None:
        """A line of progress, coloured where a terminal listens."""
        clock = datetime.now().astimezone().strftime("%H:%M:%S")
        self._console.print(
            f"[dim]{clock}[/dim] [bold]{escape(self.where):<18}[/bold] "
            f"[cyan]{self.name:<10}[/cyan] [{style}]{escape(text)}[/{style}]"
        )
        sys.stdout.flush()
        self.write_log(f"{clock} {self.where} {self.name} {text}\n")

    def write_log(self, text: str) -> None:
        """Add to the log file, where there is one."""
        if self.arguments.log is not None:
            self.arguments.log.parent.mkdir(parents=True, exist_ok=True)
            with self.arguments.log.open("a", encoding="utf-8") as log:
                log.write(text)

    def done(self, what: str, written: Path) -> None:
        """The stage's last line: what, how long, where; also kept in the campaign's ledger."""
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
        ledger = self.campaign.folder / "stages.jsonl"
        with ledger.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")

    def stopping(self) -> bool:
        """Whether the job was asked to stop, its time is nearly up, or it is `outdated`."""
        out_of_time = time.monotonic() - self._begun > self.arguments.seconds
        return self._stopping or out_of_time or self.outdated()

    def outdated(self) -> bool:
        """Whether a later run of the workflow has taken the campaign over.

        On a cluster, jobs outlive a workflow that was killed. The run that is started then submits
        the same work again; the job that is still there saves itself and makes way.
        """
        now = time.monotonic()
        if self._run and not self._outdated and now - self._looked > LOOK_EVERY_S:
            self._looked = now
            self._outdated = self.campaign.run() not in ("", self._run)
        return self._outdated

    @contextmanager
    def alone(self, folder: Path | None = None) -> Iterator[None]:
        """Be the only process at this work; wait for a job of an earlier run that still is.

        Args:
            folder: where the work's state lies; by default the stage's own.

        Raises:
            Interrupted: it has not let go in time, or this job was asked to stop meanwhile.
        """
        begun, told = time.monotonic(), False
        while True:
            try:
                handle = files.take_lock((folder or self.folder) / ".lock")
                break
            except files.Held as held:
                if self.stopping() or time.monotonic() - begun > WAIT_S:
                    raise Interrupted(f"waited in vain: {held}") from None
                if not told:
                    self.say(f"waits for {held.holder}, which still works at this", style="yellow")
                    told = True
            time.sleep(1)
        try:
            yield
        finally:
            os.close(handle)

    def begin(self) -> None:
        """Write down that an attempt begins.

        Raises:
            InputError: this run has tried it often enough.
        """
        before = self._attempts.read()
        if self._run and count(before, Ended.FAILED, self._run) >= MOST_FAILURES:
            said = [one.message for one in before if one.ended is Ended.FAILED][-1]
            raise InputError(f"failed {MOST_FAILURES} times, not tried again in this run: {said}")
        self._attempt = self._attempts.begin(self._run)
        if before:
            went = ", ".join(f"{n} {how}" for how in Ended if (n := count(before, how)))
            self.say(f"attempt {len(before) + 1}; of those before: {went}", style="yellow")

    def end(self, ended: Ended | None, message: str = "") -> None:
        """Write down how the attempt ended; None: the stage is done."""
        if ended is None:
            self._attempts.clear()
        elif self._attempt is not None:
            seconds = time.monotonic() - self._begun
            self._attempts.end(self._attempt, ended, seconds, message)

    def stop(self, *_: Any) -> None:
        """Remember that a signal asked for a stop."""
        self._stopping = True


def peak_mb(ranks: int = 1) -> int:
    """Most memory that this process and `ranks` of the largest that it started have held, MB."""
    mine, theirs = (
        resource.getrusage(kind).ru_maxrss
        for kind in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return round((mine + ranks * theirs) / 1024)


def duration(seconds: float) -> str:
    """`42 s`, `3.5 min`, `2.1 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def run(
    arguments: argparse.ArgumentParser,
    main: Callable[[Job], None],
    command_line: Sequence[str] | None = None,
) -> None:
    """Parse the command line, run a stage, and leave with an exit code that means something.

    Exit codes: 0 done, 1 failed, 2 bad input, 75 saved and stopped, to be run again.
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
        _tell(error)
        sys.exit(EXIT_BAD_INPUT)
    signal.signal(signal.SIGTERM, job.stop)
    try:
        job.begin()
        main(job)
        job.end(None)
    except InputError as error:
        _tell(error)
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
        # The disk will not take what could be written down about it, either.
        _tell(InputError(f"{error.filename or job.campaign.folder}: {error.strerror}: {ADVICE}"))
        sys.exit(EXIT_FAILED)
    except Exception as error:
        job.write_log(traceback.format_exc())
        job.end(Ended.FAILED, f"{type(error).__name__}: {error}")
        raise


def _tell(error: InputError) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"[bold red]error[/bold red] {escape(str(error))}"
    )
