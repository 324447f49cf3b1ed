"""What all stage programs share: arguments, threads, being stopped, and the lines a person sees.

    def main(job: Job) -> None:
        ...
        job.done("450 frames", job.arguments.frames)

    if __name__ == "__main__":
        run(parser(__doc__), main)

Not for: anything a library function could do; a stage program is a few lines.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from halcyon.campaign import Campaign, SystemPlan
from halcyon.errors import EXIT_BAD_INPUT, EXIT_RESUME, InputError, Interrupted

TELL_EVERY_S = 10.0
"""Time between two lines about the same thing, s."""
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

    @property
    def where(self) -> str:
        """System and generation (or batch of labels), for people."""
        batch = getattr(self.arguments, "batch", None)
        if self.generation is not None:
            batch = f"gen{self.generation:03d}"
        return f"{self.arguments.system} {batch or ''}".strip()

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
        entry = {
            "system": self.arguments.system,
            "generation": self.generation,
            "stage": self.name,
            "what": what,
            "seconds": round(seconds, 2),
            "cores": self.arguments.threads,
            "finished": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        ledger = self.campaign.folder / "stages.jsonl"
        with ledger.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")

    def stopping(self) -> bool:
        """Whether the job was asked to stop, or its time is nearly up."""
        return self._stopping or time.monotonic() - self._begun > self.arguments.seconds

    def stop(self, *_: Any) -> None:
        """Remember that a signal asked for a stop."""
        self._stopping = True


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
    try:
        job = Job(parsed)
    except InputError as error:
        _tell(error)
        sys.exit(EXIT_BAD_INPUT)
    signal.signal(signal.SIGTERM, job.stop)
    try:
        main(job)
    except InputError as error:
        _tell(error)
        job.write_log(f"error {error}\n")
        sys.exit(EXIT_BAD_INPUT)
    except Interrupted as stopped:
        job.say(f"{stopped}; run again to go on", style="yellow")
        sys.exit(EXIT_RESUME)
    except Exception:
        job.write_log(traceback.format_exc())
        raise


def _tell(error: InputError) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"[bold red]error[/bold red] {escape(str(error))}"
    )
