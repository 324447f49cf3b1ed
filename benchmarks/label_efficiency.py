"""How many labels does it take until a model passes the same exam, and what do others need?

The exam: 16 replicas of 20 ps at 900 K without a failure, and at most 43 meV/Å of error on frames
of the reference's own dynamics at 300, 600 and 900 K. Arms:

- pretrained-index   this product: pre-trained on the force field, labels where the index says
- scratch-index      the same without pre-training
- pretrained-random  pre-trained, labels for random frames of the same dynamics
- scratch-committee  four models, labels where their forces differ by 0.05 to 0.15 eV/Å
- gfnff-index        another teacher, GFN-FF

All labels count: seed, validation, test, audit. Reference: GFN2-xTB.

    python benchmarks/label_efficiency.py --list                 cells, and which are done
    python benchmarks/label_efficiency.py --json found.json      do them, or go on where it stopped
    python benchmarks/label_efficiency.py --only ethanol         cells whose names begin so
    python benchmarks/label_efficiency.py --summary              no computing: what the cells say
    python benchmarks/label_efficiency.py --smoke                minutes: does it run at all?

A cell is an arm of a system with a seed, a JSON file in benchmarks/results/label_efficiency. It
holds every model of the arm, also what static scans of bonds, angles and contacts say of it. A
killed run goes on when it is started again; two runs started at once share the cells.

Not for: whether a saturated campaign's claims hold (see `verdict_truth`).
"""

import resource
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

import cells
from efficiency.arms import ARMS, Cell, Effort, models_of, run_until
from efficiency.summary import summarised, tables
from efficiency.trial import subject_of, try_model
from halcyon import files

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "label_efficiency"
WORK = ROOT / "benchmarks" / "work" / "label_efficiency"
SCHEMA = 1
SYSTEMS = ("ethanol", "aspirin")
SEEDS = range(1, 4)
SMOKE = Effort(
    temperatures_K=(300.0,),
    replicas=2,
    time_ps=0.2,
    selected=4,
    audited=1,
    seed_labels=(8, 5, 5),
    most_labels=25,
    short_ps=0.1,
    long_ps=0.2,
    trial_replicas=2,
    frames=3,
    goal_meV_per_A=1e4,
    more=(
        ("teacher", {"md_frames": 60, "displaced_frames": 10}),
        ("pretraining", {"epochs": 2}),
        ("training", {"epochs": 3, "updates": None}),
        ("saturation", {"events_per_ns": 1e6}),
    ),
)


def grid() -> list[Cell]:
    """All cells, one seed of every arm before the next; a system after the other."""
    return [Cell(system, arm, seed) for system in SYSTEMS for seed in SEEDS for arm in ARMS]


def compute(cell: Cell, effort: Effort, work: Path) -> dict[str, Any]:
    """Run an arm until a model passes, or the labels are spent."""
    begun = processor_s()
    campaign = run_until(cell, effort, work, 0)
    spent = processor_s() - begun
    shared = work / "shared"
    shared.mkdir(exist_ok=True)
    subject = subject_of(cell, campaign, effort, shared)
    models: list[dict[str, Any]] = []
    begun = processor_s()
    for number, model in enumerate(models_of(cell, effort, work)):
        kept = work / cell.name / f"tried-{number:02d}.json"
        if not kept.exists():
            spent += processor_s() - begun  # of the arm, without the trials
            folder = work / cell.name / "trial" / f"{number:02d}"
            tried = try_model(model, subject, effort, folder, seed=1000 * cell.seed + number)
            files.write_json(kept, tried | {"processor_s": round(spent, 1)})
        models.append(files.read_json(kept))
        begun, spent = processor_s(), models[-1]["processor_s"]
        last = models[-1]
        print(
            f"{cell.name}: {last['labels']} labels, {last['forces_mae_meV_per_A']['all']:.0f} "
            f"meV/Å, {last['short']['failed']} of {last['short']['replicas']} replicas failed"
            + (", passed" if last["passed"] else ""),
            flush=True,
        )
        if last["passed"] or last["labels"] >= effort.most_labels:
            break
    head = {"schema": SCHEMA, "cell": cell.name, "system": cell.system, "arm": cell.arm}
    return head | {"seed": cell.seed, "effort": asdict(effort), "models": models}


def processor_s() -> float:
    """Of this process and its children so far, s."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    parser = cells.parser(__doc__ or "", results=RESULTS, work=WORK)
    parser.add_argument("--smoke", action="store_true", help="tiny arms; nothing is kept")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    if args.smoke:
        with tempfile.TemporaryDirectory(prefix="halcyon-efficiency-") as folder:
            cells_of = [
                Cell("ethanol", arm, 1) for arm in ("pretrained-index", "scratch-committee")
            ]
            _show([compute(cell, SMOKE, Path(folder)) for cell in cells_of], args.json)
        return
    chosen = cells.chosen(grid(), args.only)

    def work() -> None:
        for cell, path in cells.missing(chosen, args.cells, args.work):
            files.write_json(path, compute(cell, Effort(), args.work))

    done = cells.carry_out(
        args,
        chosen,
        args.cells,
        compute=work,
        done=lambda: cells.read(args.cells, grid(), schema=SCHEMA),
    )
    if done is not None:
        _show(done, args.json)


def _show(known: Sequence[dict[str, Any]], json: Path | None) -> None:
    summary = summarised(known)
    for table in tables(summary):
        Console().print(table)
    if json:
        files.write_json(json, summary)


if __name__ == "__main__":
    main()
