"""Does pre-training on a force field make dynamics stable, at equal labels and equal cost?

Models are fine-tuned on few GFN2-xTB labels at 300 K, from scratch or pre-trained, and run hot:
8 replicas of 4 ps at 0.5 fs, none replaced. Two controls: `shuffled`, pre-trained on frames whose
labels were dealt to other frames, and `zbl`, from scratch with the repulsion of bare nuclei. Whole
campaigns tell how many labels it takes until the CLI saturates, with and without pre-training.

    python benchmarks/pretraining.py --list                what there is to do
    python benchmarks/pretraining.py --json found.json     do it, or go on where it stopped
    python benchmarks/pretraining.py --only pretrained_ethanol-50_1100K   cells whose names begin so
    python benchmarks/pretraining.py --summary             no computing: what the cells say
    python benchmarks/pretraining.py --smoke               a minute or two: does it run at all?

The work is cut into cells, one small JSON file each in benchmarks/results/pretraining_momenta. A
killed run goes on when started again; two runs started at once share the cells. Models are kept in
benchmarks/work, which git ignores, and trained again where they are missing.

Cells without the key `momenta` are older: their replicas began too hot, ethanol of 500 K with
650 K. All of them are in benchmarks/results/pretraining (`--summary --cells` that folder).

Not for: what the cells mean (see `pretraining_summary`), or whether the CLI foretells failure (see
`cli_validity`).
"""

import hashlib
import json
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

import cells
from halcyon import files
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    ModelSettings,
    PretrainingSettings,
    TrainingSettings,
)
from halcyon.errors import InputError
from pretraining_figures import draw
from pretraining_summary import CAMPAIGN, lines, summarised

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "pretraining_momenta"
WORK = ROOT / "benchmarks" / "work" / "pretraining"
SCHEMA = 1
SEED = 20261121
MOMENTA = "centre of mass at rest"
"""How replicas begin. Cells that lack it began with the mean momentum removed from every atom."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every cell shares. Cells of different plans do not mix."""

    replicas: int = 8
    time_ps: float = 4.0
    timestep_fs: float = 0.5
    trajectory_fs: float = 100.0
    train: int = 200  # labels at most; smaller sets are the first of them
    validation: int = 20
    test: int = 40  # at each of 300 and 500 K
    teacher_frames: int = 300  # of dynamics; half as many displaced
    pretraining_epochs: int = PretrainingSettings().epochs
    epochs: int = TrainingSettings().epochs
    updates: tuple[int, int] | None = TrainingSettings().updates

    @property
    def digest(self) -> str:
        """Of all that cells depend on."""
        settings = [ModelSettings(), PretrainingSettings(), TrainingSettings()]
        content = [asdict(self), SEED, *(section.model_dump(mode="json") for section in settings)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


SMOKE = Plan(
    replicas=2,
    time_ps=0.02,
    trajectory_fs=2.0,
    train=6,
    validation=5,
    test=3,
    teacher_frames=12,
    pretraining_epochs=2,
    epochs=2,
    updates=None,
)


@dataclass(frozen=True)
class Cell:
    """Replicas of a model at a temperature; or, as group `campaign-…`, a whole campaign."""

    group: str
    system: str
    labels: int
    kelvin: int
    seed: int

    @property
    def name(self) -> str:
        """E.g. `scratch_ethanol-50_1100K_1`."""
        return f"{self.group}_{self.system}-{self.labels}_{self.kelvin}K_{self.seed}"


def grid() -> list[Cell]:
    """All cells; what the claim rests on comes first."""
    both, controls = ("scratch", "pretrained"), ("shuffled", "zbl")
    five, three = range(1, 6), range(1, 4)
    points = [
        (both, "ethanol", 50, 1100, five),
        (both, "ethanol", 50, 800, five),
        (controls, "ethanol", 50, 1100, five),
        (both, "ethanol", 50, 500, five),
        *((both, "ethanol", n, kelvin, five) for n in (25, 100, 200) for kelvin in (1100, 800)),
        *((both, "aspirin", 50, kelvin, three) for kelvin in (800, 500)),
        ((f"{CAMPAIGN}-pretrained", f"{CAMPAIGN}-scratch"), "ethanol", 0, 500, three),
    ]
    return [
        Cell(group, system, labels, kelvin, seed)
        for groups, system, labels, kelvin, seeds in points
        for seed in seeds
        for group in groups
    ]


SMOKE_GRID = [Cell(g, "ethanol", 6, 1100, 1) for g in ("scratch", "pretrained", "shuffled", "zbl")]


def seed_of(*words: object) -> int:
    """A seed that depends on these words only."""
    text = " ".join(map(str, (SEED, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


# Frames and models


@dataclass(frozen=True)
class Data:
    """Frames of a system with energies (eV) and forces (eV/Å)."""

    teacher: list[Atoms]
    train: list[Atoms]
    validation: list[Atoms]
    test: dict[int, list[Atoms]]
    bonds: list[tuple[int, int]]
    classes: list[str]


@cache
def data_of(name: str, plan: Plan, work: Path) -> Data:
    """Sample the force field and label frames of it, or read what was labelled before."""
    from halcyon.frames import read_frames, write_frames
    from taught import labelled, subject_of, taught

    subject = subject_of(name, work / "prepared")
    counts = {300: plan.train + plan.validation + plan.test, 500: plan.test}
    stored = {kelvin: work / f"{name}-{kelvin}.parquet" for kelvin in counts}
    teacher = work / f"{name}-teacher.parquet"
    if not teacher.exists() or not all(file.exists() for file in stored.values()):
        displaced = plan.teacher_frames // 2
        write_frames(teacher, taught(subject, plan.teacher_frames, displaced, seed=seed_of(name)))
        order = seed_of(name, "order")
        for kelvin, count in counts.items():
            frames = labelled(subject, kelvin, count, seed=seed_of(name, kelvin), order=order)
            write_frames(stored[kelvin], frames)
    cold, hot = (read_frames(stored[kelvin]) for kelvin in (300, 500))
    end = plan.train + plan.validation
    return Data(
        teacher=read_frames(teacher),
        train=cold[: plan.train],
        validation=cold[plan.train : end],
        test={300: cold[end:], 500: hot},
        bonds=subject.bonds,
        classes=subject.classes,
    )


def model_of(cell: Cell, data: Data, plan: Plan, work: Path) -> Path:
    """The fine-tuned model of a cell; temperatures share it."""
    from halcyon.models.training import Recipe, train

    elements = data.train[0].numbers
    size = ModelSettings(pair_repulsion=cell.group == "zbl")
    start = None
    if cell.group in ("pretrained", "shuffled"):
        start = work / f"base-{cell.group}-{cell.system}-{cell.seed}.model"
        if not start.exists():
            frames = data.teacher if cell.group == "pretrained" else shuffled(data.teacher)
            train(
                [frame for index, frame in enumerate(frames) if index % 10],
                frames[::10],
                Recipe(
                    elements=elements,
                    model=size,
                    fit=PretrainingSettings(epochs=plan.pretraining_epochs),
                    seed=seed_of("base", cell.seed),
                ),
                out=start,
                work=work / start.stem,
            )
    out = work / f"{cell.group}-{cell.system}-{cell.labels}-{cell.seed}.model"
    if not out.exists():
        train(
            data.train[: cell.labels],
            data.validation,
            Recipe(
                elements=elements,
                model=size,
                fit=TrainingSettings(epochs=plan.epochs, updates=plan.updates),
                seed=seed_of("fit", cell.seed),
                start=start,
            ),
            out=out,
            work=work / out.stem,
        )
    return out


def shuffled(frames: Sequence[Atoms]) -> list[Atoms]:
    """The same frames, each with the label of another: a teacher of nothing but sizes."""
    order = np.random.default_rng(SEED).permutation(len(frames))
    dealt = [frame.copy() for frame in frames]
    for frame, index in zip(dealt, order, strict=True):
        frame.info["energy"] = frames[index].info["energy"]
        frame.arrays["forces"] = frames[index].arrays["forces"]
    return dealt


# Cells


def run_dynamics(cell: Cell, plan: Plan, work: Path) -> dict[str, Any]:
    """Train what is missing, run the replicas, measure errors and the drift of features."""
    begun = time.monotonic()
    data = data_of(cell.system, plan, work)
    path = model_of(cell, data, plan, work)
    trained_s = time.monotonic() - begun
    known = data.teacher if cell.group == "pretrained" else []
    return measured(path, cell, data, plan, Watch(work / cell.name, known)) | {
        "training_seconds": round(trained_s, 1),
    }


@dataclass(frozen=True)
class Watch:
    """How a model is watched.

    Attributes:
        work: folder of the replicas.
        taught: the teacher's frames that the model knows.
    """

    work: Path
    taught: Sequence[Atoms]


def measured(path: Path, cell: Cell, data: Data, plan: Plan, watch: Watch) -> dict[str, Any]:
    """Errors of a model, the fate of its replicas, and the drift of features in them."""
    from halcyon.exploration.explore import Monitoring, Replica, RunControl, explore
    from halcyon.frames import read_frames, structure_only
    from halcyon.models import drift, mace
    from halcyon.models.batched import BatchedMace
    from halcyon.models.domains import find_domain

    model = mace.load(path, device="cpu")
    labels = data.train[: cell.labels]
    structure = labels[0].info["structure"]
    watched = DomainSettings()
    domain = find_domain(
        model,
        {"train": labels, "validation": data.validation, "test": data.test[min(data.test)]},
        watch.taught,
        classes={structure: data.classes},
        bonded={structure: data.bonds},
        settings=watched,
        seed=seed_of("domain", cell.seed),
    )
    seed = seed_of("dynamics", cell.system, cell.kelvin, cell.seed)  # of no group: equal starts
    random = np.random.default_rng(seed)
    common = data.train[: min(25, plan.train)]  # known to all models
    found = explore(
        BatchedMace(model),
        [
            Replica(i, cell.kelvin, structure_only(common[random.integers(len(common))]))
            for i in range(plan.replicas)
        ],
        ExplorationSettings(
            temperatures_K=[cell.kelvin],
            replicas=plan.replicas,
            replacements=0,
            time_ps=plan.time_ps,
            timestep_fs=plan.timestep_fs,
            trajectory_every_fs=plan.trajectory_fs,
        ),
        Monitoring(domain=domain, settings=watched, system_kind="molecule"),
        RunControl(work=watch.work, identity=hashlib.sha256(path.read_bytes()).hexdigest()),
        seed=seed,
    )
    visited = [frame for part in found.trajectory for frame in read_frames(part)]
    last = found.traces.groupby("replica").last()
    learned, new = (
        drift.by_class(frames, mace.evaluate(model, frames).descriptors, {structure: data.classes})
        for frames in (labels, visited)
    )
    return {
        "errors": {
            str(kelvin): mace.errors(mace.evaluate(model, frames), frames)
            for kelvin, frames in data.test.items()
        },
        "replicas": [{"end_ps": end.time_ps, "failure": end.failure} for end in found.replicas],
        "cli_ps": {
            signal: [round(float(value), 6) for value in last[column]]
            for signal, column in (("label", "cli_label"), ("guard", "cli_guard"))
        },
        "drift": {name: part.model_dump() for name, part in drift.compared(learned, new).items()},
    }


def run_campaign(cell: Cell, work: Path) -> dict[str, Any]:
    """A whole campaign by the workflow: labels spent when its labelling saturated, if it did."""
    folder = work / cell.name
    config = yaml.safe_load((ROOT / "config" / "quickstart.yaml").read_text(encoding="utf-8"))
    config |= {
        "campaign": cell.name,
        "systems": [cell.system],
        "seed": seed_of("campaign", cell.seed),
        "pretraining": {"enabled": cell.group == f"{CAMPAIGN}-pretrained"},
        "results": str(folder / "results"),
        "label_store": str(folder / "labels"),
        "limits": {"max_generations": 12, "label_budget": 400},
    }
    files.write_text(folder / "config.yaml", yaml.safe_dump(config))
    command = ["snakemake", "--cores", os.environ.get("CORES", "1"), "--directory", str(ROOT)]
    command += ["--configfile", str(folder / "config.yaml"), "--rerun-incomplete"]
    subprocess.run(command, check=True, cwd=ROOT)
    paths = sorted((folder / "results").glob("**/verdict.json"))
    verdicts = [files.read_json(path) for path in paths]
    last = max(verdicts, key=lambda verdict: verdict["generation"])
    return {"decision": last["decision"], "labels": last["labels"]["spent"]}


# All of them


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """All cells of a folder.

    Raises:
        InputError: there is none, or they were made with different settings or momenta.
    """
    known = [files.read_json(path) for path in sorted(folder.glob("*.json"))]
    if not known:
        raise InputError(f"{folder}: no cell yet: nothing to summarise")
    for key in ("schema", "plan", "momenta"):
        if len({cell.get(key) for cell in known}) > 1:
            raise InputError(f"{folder}: holds cells that differ in the key `{key}`: part them")
    return known


def compute(chosen: Sequence[Cell], plan: Plan, folder: Path, work: Path) -> None:
    """Compute what is missing."""
    for cell, path in cells.missing(chosen, folder, work):
        begun = time.monotonic()
        campaign = cell.group.startswith(CAMPAIGN)
        found = run_campaign(cell, work) if campaign else run_dynamics(cell, plan, work)
        seconds = round(time.monotonic() - begun, 1)
        head = {"schema": SCHEMA, "plan": plan.digest, "momenta": MOMENTA, "name": cell.name}
        head |= asdict(cell)
        files.write_json(path, head | found | {"seconds": seconds})
        if not campaign:
            shutil.rmtree(work / cell.name)  # checkpoints and trajectory
        failed = sum(row["failure"] is not None for row in found.get("replicas", []))
        print(f"{cell.name}: {failed} failed; {seconds:.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    parser = cells.parser(__doc__ or "", results=None, work=WORK)
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw figures")
    parser.add_argument("--smoke", action="store_true", help="tiny models and runs, elsewhere")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    plan = SMOKE if args.smoke else Plan()
    work = args.work / plan.digest
    folder = args.cells or (work / "cells" if args.smoke else RESULTS)
    chosen = cells.chosen(SMOKE_GRID if args.smoke else grid(), args.only)
    done = cells.carry_out(
        args,
        chosen,
        folder,
        compute=lambda: compute(chosen, plan, folder, work),
        done=lambda: read_cells(folder),
    )
    if done is None:
        return
    summary = summarised(done, seed=SEED)
    print(*lines(summary), sep="\n")
    if args.json:
        files.write_json(args.json, summary)
    if args.plots:
        draw(done, summary, args.plots)


if __name__ == "__main__":
    main()
