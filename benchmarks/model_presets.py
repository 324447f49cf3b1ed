"""Which size of model is worth its price? Force error, speed of training, and ns per day.

Models of six sizes learn 50, 200 and 1,000 labels of three systems from random weights. Frames are
those of a force field's dynamics at 300 and 500 K, labels GFN2-xTB's. Each training is repeated
with twice as many steps until the error of the validation frames' forces falls by less than 5 %
(`converged`), or 16,000 steps are made: so a large model is not called bad because it was stopped
early. Given are errors on 200 frames that nothing was chosen by.

    python benchmarks/model_presets.py --list                what is done, what is missing
    python benchmarks/model_presets.py --json presets.json   do it, or go on where it stopped
    python benchmarks/model_presets.py --only ethanol-50     cells whose names begin so
    python benchmarks/model_presets.py --summary             no computing: what the cells say

The whole takes days on one core. It is cut into cells, one small JSON file each, kept in
benchmarks/results/model_presets. A killed run goes on when started again; two runs started at once
share the cells. Labels and models are kept in benchmarks/work, which git ignores. `--device cuda`
trains and times on a graphics card; its cells have names of their own.

Not for: pre-training (see `pretraining`), or whether a campaign ends right (see `verdict_truth`).
"""

import contextlib
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ase import Atoms

import cells
from halcyon import files
from halcyon.config import ModelSettings, TrainingSettings
from halcyon.domain.states import State
from halcyon.frames import read_frames, write_frames
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.models.training import Recipe, train
from signals.systems import SYSTEMS, with_reference

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "model_presets"
WORK = ROOT / "benchmarks" / "work" / "model_presets"
SCHEMA = 1
SIZES: dict[str, dict[str, Any]] = {
    "16x0e-quick": {"channels": 16, "correlation": 2, "r_max_A": 4.0},
    "16x0e": {"channels": 16},
    "32x0e+32x1o": {"channels": 32, "max_L": 1},
    "64x0e": {"channels": 64},
    "64x0e+64x1o": {"channels": 64, "max_L": 1},
    "128x0e": {"channels": 128},
    "128x0e+128x1o": {"channels": 128, "max_L": 1},
}
"""Of the models; correlation 3 and 5 Å where nothing else is said. The first is `quick`."""
LABELS = (50, 200, 1000)
NAMES = ("ethanol", "aspirin", "water")
VALIDATION, TEST = 100, 200
FIRST_STEPS, MOST_STEPS = 1000, 16_000
WORTH = 0.95
"""A training twice as long must lower the validation error to less than this part, to go on."""
BATCH, LEARNING_RATE, SEED = 5, 0.01, 20261129
REPLICAS = 8
TIMESTEP_FS = 0.5
TIMED_S = 3.0
HEAD = (
    "cell                               steps  conv.  force MAE  RMSE meV/Å  energy meV/atom"
    "  labels/s  ns/day"
)


@dataclass(frozen=True)
class Cell:
    """A model of one size that learns so many labels of a system on a device."""

    system: str
    labels: int
    size: str
    device: str

    @property
    def name(self) -> str:
        """Of its file."""
        end = "" if self.device == "cpu" else f"-{self.device}"
        return f"{self.system}-{self.labels}-{self.size}{end}"


def grid(device: str) -> list[Cell]:
    """All cells, the cheap ones first."""
    return [
        Cell(system, labels, size, device)
        for labels in LABELS
        for system in NAMES
        for size in SIZES
    ]


def frames_of(system: str, work: Path) -> dict[str, list[Atoms]]:
    """Labelled frames to train on, to validate and to test: made, or read if they were before."""
    path = work / f"{system}.parquet"
    with files.only_one(work / f"lock-frames-{system}"):
        if not path.exists():
            total = max(LABELS) + VALIDATION + TEST
            write_frames(path, with_reference(SYSTEMS[system], work, total))
    frames = read_frames(path)
    return {
        "test": frames[:TEST],
        "validation": frames[TEST : TEST + VALIDATION],
        "train": frames[TEST + VALIDATION :],
    }


def computed(cell: Cell, frames: dict[str, list[Atoms]], work: Path) -> dict[str, Any]:
    """Train until it is long enough, and measure."""
    size = {"correlation": 3, "r_max_A": 5.0} | SIZES[cell.size]
    settings = ModelSettings(**size)
    model_file, steps, lengths = work / f"{cell.name}.model", FIRST_STEPS, []
    while True:
        recipe = Recipe(
            elements=sorted({int(z) for atoms in frames["test"] for z in atoms.numbers}),
            model=settings,
            fit=TrainingSettings(
                epochs=1, updates=(steps, steps), batch_size=BATCH, learning_rate=LEARNING_RATE
            ),
            seed=SEED,
            device=cell.device,
        )
        with contextlib.redirect_stdout(sys.stderr):
            done = train(
                frames["train"][: cell.labels],
                frames["validation"],
                recipe,
                out=model_file,
                work=work / cell.name,
            )
        best = done.epochs[done.best_epoch - 1]
        lengths.append(
            {
                "steps": steps,
                "validation_forces_mae_meV_per_A": best.forces_mae_meV_per_A,
                "best_epoch": done.best_epoch,
                "epochs": len(done.epochs),
                "labels_per_s": len(done.epochs) * cell.labels / done.seconds,
                "seconds": done.seconds,
            }
        )
        print(f"  {cell.name}: {lengths[-1]}", flush=True)
        errors = [length["validation_forces_mae_meV_per_A"] for length in lengths]
        converged = len(errors) > 1 and errors[-1] > WORTH * errors[-2]
        if converged or 2 * steps > MOST_STEPS:
            break
        steps *= 2
    model = mace.load(model_file, device=cell.device, dtype="float32")
    predicted = mace.evaluate(model, frames["test"])
    rate = steps_per_s(BatchedMace(model), frames["test"][:REPLICAS])
    return {
        "model": settings.model_dump(),
        "trainings": lengths,
        "converged": converged,
        "test": mace.errors(predicted, frames["test"]),
        "labels_per_s": lengths[-1]["labels_per_s"],
        "replicas": REPLICAS,
        "ns_per_day": REPLICAS * rate * TIMESTEP_FS * 1e-6 * 86400,
        "threads": torch.get_num_threads(),
    }


def steps_per_s(model: BatchedMace, frames: Sequence[Atoms]) -> float:
    """Evaluations of a batch of frames per second; an integrator adds some percent."""
    state = State.of(frames, device=model.device, dtype=model.dtype)
    for _ in range(3):
        model(state)
    number, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < TIMED_S:
        model(state)["energy"].sum().item()  # waits for the device
        number += 1
    return number / (time.perf_counter() - begun)


def compute(chosen: Sequence[Cell], folder: Path, work: Path) -> None:
    """Compute what is missing."""
    for cell, path in cells.missing(chosen, folder, work):
        begun = time.monotonic()
        content = computed(cell, frames_of(cell.system, work), work)
        head = {
            "schema": SCHEMA,
            "name": cell.name,
            "system": cell.system,
            "labels": cell.labels,
            "size": cell.size,
            "device": cell.device,
            "seed": SEED,
        }
        files.write_json(path, head | content | {"seconds": time.monotonic() - begun})
        print(row(files.read_json(path)), flush=True)


def row(cell: dict[str, Any]) -> str:
    """A line under `HEAD`."""
    test = cell["test"]
    return (
        f"{cell['name']:34} {cell['trainings'][-1]['steps']:6} "
        f"{'yes' if cell['converged'] else 'no':>6} {test['forces_mae_meV_per_A']:10.1f} "
        f"{test['forces_rmse_meV_per_A']:11.1f} {test['energy_mae_meV_per_atom']:16.2f} "
        f"{cell['labels_per_s']:9.1f} {cell['ns_per_day']:7.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute what is missing; summarise, print, write."""
    parser = cells.parser(__doc__ or "", results=RESULTS, work=WORK)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    chosen = cells.chosen(grid(args.device), args.only)
    known = cells.carry_out(
        args,
        chosen,
        args.cells,
        compute=lambda: compute(chosen, args.cells, args.work),
        done=lambda: cells.read(args.cells, [*grid("cpu"), *grid("cuda")], schema=SCHEMA),
    )
    if known is None:
        return
    print(HEAD)
    for cell in known:
        print(row(cell))
    if args.json:
        files.write_json(args.json, {"cells": known})


if __name__ == "__main__":
    main()
