"""Which signals see wrong forces?

Small models learn few labels of a system, from scratch or after pre-training on a force field.
Their own dynamics then visits frames, which the reference labels; or frames of a published set are
taken. Each signal says of each atom how unlike its surroundings are what the model learned. Does
it tell the atoms whose force is wrong from the others?

1. AUROC for "the error of the force on this atom is above 0.5 eV/Å, 1 eV/Å, three medians";
   0.5 is chance.
2. Recall: the part of the bad atoms that is flagged where 5 % of the good ones are.
3. Cost: the time of the signal over that of a step of the same frames.

    python benchmarks/signal_truth.py --list                 what is done, what is missing
    python benchmarks/signal_truth.py --json signals.json    do it, or go on where it stopped
    python benchmarks/signal_truth.py --only ethanol         cells whose names begin so
    python benchmarks/signal_truth.py --summary --plots docs/figures    no computing: the cells

The reactive channels are those of "A Benchmark Data Set for Hydrogen Combustion" (X. Guan et al.,
Sci. Data 9, 215, 2022), which is not part of this repository: `--data FOLDER` names the folder with
its files, `11_irc.npz` and so on. Without it, cells of channels are left out.

All takes hours on one core. It is cut into cells, one small JSON file each, kept in
benchmarks/results/signal_truth. A killed run goes on when started again; two runs started at once
share the cells. Frames and models are kept in benchmarks/work, which git ignores, and made again
where they are missing.

Not for: whether the CLI foretells failures (see `cli_validity`). Its parts are in `signals`.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

import cells
from halcyon import files
from signals.judging import Plan, judged
from signals.summary import summarised, tables
from signals.systems import SYSTEMS, Frames, frames_of
from signals.visits import Case
from truth_figures import draw_signals

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "signal_truth"
WORK = ROOT / "benchmarks" / "work" / "signal_truth"
SCHEMA = 1
TABLE_WIDTH = 250
GRID = (
    ("ethanol", 50, ("scratch", "pretrained")),
    ("channel-15", 75, ("pretrained",)),
    ("channel-11", 75, ("pretrained",)),
    ("water", 50, ("scratch",)),
    ("channel-11-xtb", 75, ("pretrained",)),
    ("aspirin", 50, ("scratch",)),
    ("sodium", 25, ("scratch",)),
    ("channel-15-xtb", 75, ("pretrained",)),
    ("aspirin", 50, ("pretrained",)),
    ("channel-11", 75, ("scratch",)),
    ("channel-15", 75, ("scratch",)),
    ("water", 50, ("pretrained",)),
    ("sodium", 25, ("pretrained",)),
    ("channel-11-xtb", 75, ("scratch",)),
    ("channel-15-xtb", 75, ("scratch",)),
)
SEEDS = (1, 2, 3)
"""Of each kind of model; those of system, labels and kinds are in `GRID`, in order of work."""


def grid() -> list[Case]:
    """All cells; of each seed the cheap systems first."""
    return [
        Case(SYSTEMS[name], where, group, labels, seed)
        for seed in SEEDS
        for name, labels, groups in GRID
        for group in groups
        for where in SYSTEMS[name].places
    ]


def compute(cases: Sequence[Case], args: argparse.Namespace, plan: Plan) -> None:
    """Compute what is missing."""
    known: dict[str, Frames] = {}
    for case, path in cells.missing(cases, args.cells, args.work):
        if case.system.channel and args.data is None:
            print(f"{case.name}: left out: --data names no folder", flush=True)
            continue
        if case.system.name not in known:
            known[case.system.name] = frames_of(case.system, args.work, args.data)
        content = judged(case, known[case.system.name], args.work, plan)
        head = {
            "schema": SCHEMA,
            "name": case.name,
            "plan": asdict(plan),
            "system": case.system.name,
            "where": case.where,
            "group": case.group,
            "labels": case.labels,
            "seed": case.seed,
        }
        files.write_json(path, head | content)
        latent = content["signals"]["latent"]["0.5 eV/A"]["auroc"]["value"]
        print(
            f"{time.strftime('%H:%M:%S')} {case.name}: {content['atoms']} atoms, "
            f"{content['bad_atoms']}, latent {latent}, {content['seconds']:.0f} s",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    parser = cells.parser(__doc__ or "", results=RESULTS, work=WORK)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the published set")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw signals.png")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    cases = cells.chosen(grid(), args.only)
    summary = cells.carry_out(
        args,
        cases,
        args.cells,
        compute=lambda: compute(cases, args, Plan()),
        done=lambda: summarised(cells.read(args.cells, grid(), schema=SCHEMA)),
    )
    if summary is None:
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    for table in tables(summary):
        console.print(table)
    if args.json:
        files.write_json(args.json, summary)
    if args.plots:
        draw_signals(summary, args.plots)


if __name__ == "__main__":
    main()
