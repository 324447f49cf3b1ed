"""Does it help to learn charges, atomic energies and bond orders beside a force field?

Models are pre-trained on frames of the force field with its energies and forces, in some ways with
properties of atoms by GFN1-xTB as well (`pretraining.atomic`), then fine-tuned on 50 labels of
GFN2-xTB at 300 K. All ways have the same frames, first weights, order of batches and number of
steps. Measured: errors on held-out frames at 500 and 1000 K, drift of the latent features there,
how many replicas fail in hot dynamics, steps of fine-tuning until an error, processor time.

| way | pre-training |
|---|---|
| `none` | none |
| `forcefield` | energies and forces of the force field |
| `charges`, `energies`, `all` | with charges, with atomic energies, with these and bond orders |
| `shuffled` | with charges that are dealt to other atoms of the frame: a control |

    python benchmarks/atomic_pretraining.py --list              what there is to do
    python benchmarks/atomic_pretraining.py --json found.json   do it, or go on where it stopped
    python benchmarks/atomic_pretraining.py --only charges_ethanol   cells whose names begin so
    python benchmarks/atomic_pretraining.py --summary           no computing: the tables
    python benchmarks/atomic_pretraining.py --smoke             a minute: does it run at all?

GFN1-xTB, because GFN2-xTB would give the properties of the very Hamiltonian that labels. A cell is
a JSON file in benchmarks/results/atomic_pretraining; frames are kept in benchmarks/work.

Not for: what pre-training brings at all (see `pretraining`).
"""

import hashlib
import json
import shutil
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

import cells
from atomic_pretraining_summary import lines, summarised
from halcyon import files
from halcyon.config import ModelSettings, PretrainingSettings, TrainingSettings
from halcyon.errors import InputError
from halcyon.frames import read_frames, write_frames
from halcyon.teacher.atomic import COLUMNS, add_properties
from pretraining import ROOT, Cell, Data, Plan, Watch, measured, seed_of
from taught import labelled, subject_of, taught

RESULTS = ROOT / "benchmarks" / "results" / "atomic_pretraining"
WORK = ROOT / "benchmarks" / "work" / "atomic_pretraining"
SCHEMA = 1
METHOD = "GFN1-xTB"
ORDER = (("forcefield", "all"), ("charges", "shuffled"), ("energies", "none"))
"""Ways of each seed that are computed before others: what is compared first."""
WAYS: dict[str, list[str]] = {
    "forcefield": [],
    "all": ["charges", "energies", "bond_orders"],
    "charges": ["charges"],
    "shuffled": ["charges"],
    "energies": ["energies"],
    "none": [],
}
KELVIN = {"ethanol": 2000, "aspirin": 1500}
"""Of the replicas: at less, too few pre-trained ones fail within the time to compare."""
TEST_K = (500, 1000)
SEEDS = (1, 2, 3)
PLAN = Plan(
    replicas=8,
    time_ps=1.0,
    train=50,
    validation=20,
    test=60,
    teacher_frames=200,
    pretraining_epochs=12,
    updates=(300, 300),
    trajectory_fs=50.0,
)
SMOKE = replace(
    PLAN,
    replicas=2,
    time_ps=0.02,
    trajectory_fs=2.0,
    train=6,
    validation=5,
    test=4,
    teacher_frames=12,
    pretraining_epochs=2,
    epochs=2,
    updates=None,
)


def grid(labels: int = PLAN.train) -> list[Cell]:
    """All cells, in the order of work."""
    return [
        Cell(way, system, labels, kelvin, seed)
        for system, kelvin in KELVIN.items()
        for ways in ORDER
        for seed in SEEDS
        for way in ways
    ]


def digest(plan: Plan) -> str:
    """Of all that cells depend on, in 12 digits; settings of whole campaigns do not count."""
    names = {"batch_size", "learning_rate", "energy_weight", "forces_weight"}
    pretraining = PretrainingSettings().model_dump(mode="json", include=names | {"atomic_weight"})
    training = TrainingSettings().model_dump(mode="json", include=names)
    content = [asdict(plan), METHOD, TEST_K, KELVIN, pretraining, training]
    content.append(ModelSettings().model_dump(mode="json"))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


@cache
def data_of(name: str, plan: Plan, work: Path) -> tuple[Data, dict[str, float]]:
    """Frames of a system, and the processor time that GFN1-xTB took for the teacher's, s."""
    subject = subject_of(name, work / "prepared")
    teacher, cost = work / f"{name}-teacher.parquet", work / f"{name}-cost.json"
    counts = {300: plan.train + plan.validation} | dict.fromkeys(TEST_K, plan.test)
    stored = {kelvin: work / f"{name}-{kelvin}.parquet" for kelvin in counts}
    if not cost.exists():
        frames = taught(subject, plan.teacher_frames, plan.teacher_frames // 2, seed=seed_of(name))
        begun = time.process_time()
        missing = add_properties(frames, METHOD)
        seconds = time.process_time() - begun
        write_frames(teacher, frames)
        order = seed_of(name, "order")
        for kelvin, count in counts.items():
            drawn = labelled(subject, kelvin, count, seed=seed_of(name, kelvin), order=order)
            write_frames(stored[kelvin], drawn)
        files.write_json(
            cost, {"frames": len(frames), "missing": missing, "tblite_cpu_s": round(seconds, 2)}
        )
    cold = read_frames(stored[300])
    data = Data(
        teacher=read_frames(teacher),
        train=cold[: plan.train],
        validation=cold[plan.train :],
        test={kelvin: read_frames(stored[kelvin]) for kelvin in TEST_K},
        bonds=subject.bonds,
        classes=subject.classes,
    )
    return data, files.read_json(cost)


def shuffled(frames: Sequence[Atoms]) -> list[Atoms]:
    """The frames with the properties of each dealt anew to its atoms."""
    random = np.random.default_rng(seed_of("shuffled"))
    dealt = [frame.copy() for frame in frames]
    for frame in dealt:
        order = random.permutation(len(frame))
        frame.arrays |= {
            name: frame.arrays[name][order] for name in COLUMNS if name in frame.arrays
        }
    return dealt


def run(cell: Cell, plan: Plan, work: Path) -> dict[str, Any]:
    """Pre-train, fine-tune, measure."""
    from halcyon.models import drift, mace
    from halcyon.models.training import Recipe, train

    data, cost = data_of(cell.system, plan, work)
    scratch = work / cell.name
    common = {"elements": data.train[0].numbers, "model": ModelSettings()}
    base, pretraining, pretraining_s = None, None, 0.0
    if cell.group != "none":
        base = scratch / "base.model"
        frames = shuffled(data.teacher) if cell.group == "shuffled" else data.teacher
        fit = PretrainingSettings(epochs=plan.pretraining_epochs, atomic=WAYS[cell.group])
        begun = time.process_time()
        pretraining = train(
            [frame for index, frame in enumerate(frames) if index % 10],
            frames[::10],
            Recipe(
                **common,
                fit=fit,
                seed=seed_of("base", cell.seed),
                atomic=fit.atomic,
                atomic_weight=fit.atomic_weight,
            ),
            out=base,
            work=scratch / "base",
        ).epochs[-1]
        pretraining_s = time.process_time() - begun
    model = scratch / "tuned.model"
    training = TrainingSettings(epochs=plan.epochs, updates=plan.updates)
    begun = time.process_time()
    tuned = train(
        data.train,
        data.validation,
        Recipe(**common, fit=training, seed=seed_of("fit", cell.seed), start=base),
        out=model,
        work=scratch / "tuned",
    )
    tuning_s = time.process_time() - begun
    known = [] if cell.group == "none" else data.teacher
    found = measured(model, cell, data, plan, Watch(scratch / "replicas", known))
    loaded = mace.load(model, device="cpu")
    classes = {data.train[0].info["structure"]: data.classes}
    features = {
        name: drift.by_class(frames, mace.evaluate(loaded, frames).descriptors, classes)
        for name, frames in {"train": data.train, **data.test}.items()
    }
    return found | {
        "drift_test": {
            str(kelvin): {
                name: part.model_dump()
                for name, part in drift.compared(features["train"], features[kelvin]).items()
            }
            for kelvin in TEST_K
        },
        "pretraining": pretraining and pretraining.model_dump(exclude_none=True),
        "curve": {
            "steps_per_epoch": -(-len(data.train) // training.batch_size),
            "forces_mae_meV_per_A": [round(e.forces_mae_meV_per_A, 2) for e in tuned.epochs],
        },
        "cpu_s": {
            "tblite": cost["tblite_cpu_s"] if WAYS[cell.group] else 0.0,
            "pretraining": round(pretraining_s, 1),
            "fine_tuning": round(tuning_s, 1),
        },
    }


def compute(chosen: Sequence[Cell], plan: Plan, folder: Path, work: Path) -> None:
    """Compute what is missing."""
    for cell, path in cells.missing(chosen, folder, work):
        begun, cpu = time.monotonic(), time.process_time()
        found = run(cell, plan, work)
        seconds = {"seconds": round(time.monotonic() - begun, 1)}
        seconds["cpu_seconds"] = round(time.process_time() - cpu, 1)
        head = {"schema": SCHEMA, "plan": digest(plan), "name": cell.name}
        files.write_json(path, head | asdict(cell) | found | seconds)
        shutil.rmtree(work / cell.name)
        errors = [found["errors"][str(kelvin)]["forces_mae_meV_per_A"] for kelvin in TEST_K]
        failed = sum(row["failure"] is not None for row in found["replicas"])
        print(
            f"{cell.name}: {errors[0]:.0f} and {errors[1]:.0f} meV/Å, {failed} failed; {seconds}",
            flush=True,
        )


def of_one_plan(folder: Path, everything: Sequence[Cell]) -> list[dict[str, Any]]:
    """The cells of a folder.

    Raises:
        InputError: there is none, or they are of different plans.
    """
    done = cells.read(folder, everything, schema=SCHEMA)
    if len({cell["plan"] for cell in done}) > 1:
        raise InputError(f"{folder}: holds cells of different plans (key `plan`): part them")
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    parser = cells.parser(__doc__ or "", results=None, work=WORK)
    parser.add_argument("--smoke", action="store_true", help="tiny models and runs, elsewhere")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    plan = SMOKE if args.smoke else PLAN
    work = args.work / digest(plan)
    folder = args.cells or (work / "cells" if args.smoke else RESULTS)
    everything = grid(plan.train)
    if args.smoke:
        everything = [c for c in everything if c.system == "ethanol" and c.seed == 1]
    chosen = cells.chosen(everything, args.only)
    summary = cells.carry_out(
        args,
        chosen,
        folder,
        compute=lambda: compute(chosen, plan, folder, work),
        done=lambda: summarised(of_one_plan(folder, everything)),
    )
    if summary is None:
        return
    print(*lines(summary), sep="\n")
    if args.json:
        files.write_json(args.json, summary)


if __name__ == "__main__":
    main()
