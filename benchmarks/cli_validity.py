"""Does the CLI foretell failure, and does it follow quality, temperature and energy conservation?

Ethanol, labelled by GFN2-xTB. Models: few and many labels, from scratch and pre-trained on the
force field; all labels are frames at 300 K, so that the higher temperatures are new to the models.
Each model runs replicas at several temperatures, with every signal watched at every step:

1. AUROC of Λ and λ for "fails within the next 0.5 ps", and the lead time of their warning at one
   false-alarm rate for all signals;
2. Spearman's ρ of λ with the temperature and with the model's force error;
3. replicas whose Λ stopped growing go on to five times the time: how many survive?
4. ρ of λ with the drift of the total energy without a thermostat.

    python benchmarks/cli_validity.py --list               what is done, what is missing
    python benchmarks/cli_validity.py --json validity.json  do it, or go on where it stopped
    python benchmarks/cli_validity.py --summary            no computing: what the cells say
    python benchmarks/cli_validity.py --smoke              a minute: does it run at all?

All takes about three hours on one core. It is cut into cells, one small JSON file each. A killed
run goes on when started again; two runs started at once share the cells. Models are kept in
benchmarks/work, which git ignores, and are trained again, to the same weights on the same kind of
machine, where they are missing.

Cells without the key `momenta` are older: their replicas began too hot, ethanol of 500 K with
650 K. All of them are in benchmarks/results/cli_validity (`--summary --seeds 2 --cells` it).

Three scores are there to be beaten: `clock`, the time since the start; `thermometer`, the
thermostat's temperature; `recipe`, whether the model was made from scratch. Who only knows that hot
runs fail foretells well when temperatures are pooled; "one temperature" compares replicas at one
temperature only, and "within cells" those of one model at one temperature.

Not for: other molecules, or speed (see `exploration_speed`). Its parts are in `validity`.
"""

import argparse
import contextlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from halcyon import files
from halcyon.errors import InputError
from validity.cells import (
    MOMENTA,
    SCHEMA,
    SMOKE,
    Cell,
    Model,
    Plan,
    read_all,
    read_cell,
    write_cell,
)
from validity.figures import draw, footnote, tables
from validity.replicas import extension_temperature
from validity.statistics import summarised

if TYPE_CHECKING:
    from validity.models import Data, Ready, Workshop

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "cli_validity_momenta"
WORK = ROOT / "benchmarks" / "work" / "cli_validity"
TABLE_WIDTH = 220


class Bench:
    """What the command line asks for: plan, folders, cells; and the command's voice."""

    def __init__(self, args: argparse.Namespace) -> None:
        """From the parsed command line.

        Raises:
            InputError: `--only` names no model.
        """
        plan = replace(SMOKE if args.smoke else Plan(), seeds=args.seeds, committee=args.committee)
        self.plan, self.device = plan, args.device
        self.work = WORK / plan.digest
        default = self.work / "cells" if args.smoke else RESULTS
        if args.committee and not args.smoke:
            default = RESULTS.with_name("cli_validity_committee")
        self.cells: Path = args.cells or default
        names = {model.name for model in plan.models()}
        self.wanted: list[tuple[str, float | None]] = []
        for text in args.only:
            model, _, kelvin = text.partition(",")
            if model not in names:
                raise InputError(f"--only {text}: expected one of {', '.join(sorted(names))}")
            self.wanted.append((model, float(kelvin) if kelvin else None))
        self.console = Console()
        if not self.console.is_terminal:
            self.console = Console(width=TABLE_WIDTH)
        self.workshop: Workshop | None = None

    def say(self, text: str) -> None:
        """Print a line with the time of day."""
        self.console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, soft_wrap=True)

    def done(self, cell: Cell) -> dict[str, Any] | None:
        """Content of a cell, if it was computed."""
        return read_cell(self.cells / f"{cell.name}.json", self.plan)

    def chosen(self) -> Iterator[Cell]:
        """Every cell that is asked for, in the order of work; extensions once they can be."""
        for cell in self._all():
            if not self.wanted or any(
                cell.model.name == model and kelvin in (None, cell.temperature_K)
                for model, kelvin in self.wanted
            ):
                yield cell

    def _all(self) -> Iterator[Cell]:
        models, temperatures = self.plan.models(), self.plan.temperatures_K
        for kind in ("dynamics", "nve"):
            yield from (Cell(kind, model, kelvin) for model in models for kelvin in temperatures)
        for model in models:
            runs = [self.done(Cell("dynamics", model, kelvin)) for kelvin in temperatures]
            kelvin = extension_temperature(self.plan, model, [run for run in runs if run])
            if kelvin is not None:
                yield Cell("extension", model, kelvin)

    def show_list(self) -> None:
        """Print what there is to do."""
        for cell in self.chosen():
            state = "done" if self.done(cell) else "missing"
            self.console.print(f"{cell.name:40} {state}", highlight=False)
        self.console.print("An extension of each model follows when its temperatures are done.")

    def compute(self) -> None:
        """Compute what is missing."""
        busy = 0
        for cell in self.chosen():
            if self.done(cell) is not None:
                continue
            folder = self.work / cell.name
            with contextlib.ExitStack() as held:
                try:
                    held.enter_context(files.only_one(folder))
                except InputError:
                    busy += 1  # another run has it
                    continue
                if self.done(cell) is None:
                    self._compute(cell, folder)
        if busy:
            self.say(f"{busy} cells are left to another run")

    def _compute(self, cell: Cell, folder: Path) -> None:
        """Compute one cell, write it, and forget its checkpoints."""
        from validity.runs import Job, run_nve, run_replicas

        data, ready = self._model(cell.model)
        self.say(cell.name)
        job = Job(self.plan, cell, ready, data, folder, self.device, self.say)
        found = run_nve(job) if cell.kind == "nve" else run_replicas(job)
        head = {
            "schema": SCHEMA,
            "kind": cell.kind,
            "plan": self.plan.digest,
            "momenta": MOMENTA,
            "model": cell.model.name,
            "group": cell.model.group,
            "temperature_K": cell.temperature_K,
            "seed": cell.seed,
            "weights": ready.entry["weights"],
            "device": self.device,
        }
        write_cell(self.cells / f"{cell.name}.json", head | found)
        shutil.rmtree(folder)
        failed = sum(row["failure"] is not None for row in found["replicas"])
        missing = sum(self.done(one) is None for one in self.chosen())
        self.say(
            f"{cell.name}: {failed} of {len(found['replicas'])} failed, {found['seconds']:.0f} s; "
            f"{missing} cells are missing"
        )

    def _model(self, model: Model) -> tuple["Data", "Ready"]:
        """All frames, and the trained model; other runs wait meanwhile."""
        from validity.models import Workshop

        if self.workshop is None:
            self.workshop = Workshop(self.plan, self.work, self.cells, self.say)
        with files.only_one(self.work, wait_s=7200), contextlib.redirect_stdout(sys.stderr):
            ready = self.workshop.ready(model)
            return self.workshop.data, ready


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="say what is done and what is missing")
    what.add_argument("--summary", action="store_true", help="compute nothing: read the cells")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw figures")
    parser.add_argument(
        "--cells",
        type=Path,
        metavar="DIR",
        help="folder of the cells (default: benchmarks/results/cli_validity_momenta)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="MODEL[,KELVIN]",
        help="compute only these, e.g. scratch-25-1 or scratch-25-1,900",
    )
    parser.add_argument("--seeds", type=int, default=1, help="models of each kind (default: 1)")
    parser.add_argument(
        "--committee",
        type=int,
        default=0,
        metavar="K",
        help="also watch the disagreement with K more models, each at the price of a run",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of dynamics")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default: 1)")
    parser.add_argument("--resamples", type=int, default=1000, help="bootstrap samples")
    parser.add_argument("--smoke", action="store_true", help="tiny models and runs, elsewhere")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    warnings.simplefilter("ignore")
    args = parsed(arguments)
    try:
        bench = Bench(args)
        if args.list:
            bench.show_list()
            return
        if not args.summary:
            import torch

            torch.set_num_threads(args.threads)
            bench.compute()
        cells, models = read_all(bench.cells)
        summary = summarised(cells, models, resamples=args.resamples)
    except InputError as error:
        sys.exit(str(error))
    for table in tables(summary):
        bench.console.print(table)
    bench.console.print(footnote(summary))
    if args.json:
        files.write_json(args.json, summary)
    if args.plots:
        for path in draw(summary, cells, args.plots):
            bench.console.print(f"{path}", highlight=False)


if __name__ == "__main__":
    main()
