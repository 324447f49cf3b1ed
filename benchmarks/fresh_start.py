"""Should a generation begin from the last one's model, or again from the pre-trained one?

Models are trained on the labels that a generation of a finished campaign had, three ways: `warm`
from the model of the generation before, `fresh` from the pre-trained model with as many steps, and
`fresh, long` from the pre-trained model with more. Given are force errors on the test set, on audit
frames of this and later generations, which none of them learned, and on the teacher's frames
against the teacher: what is forgotten of the walls.

    python benchmarks/fresh_start.py results/quickstart/campaign.json --generation 2
    python benchmarks/fresh_start.py … --generation 2 --seeds 1 2 3
    python benchmarks/fresh_start.py … --generation 2 --json fresh.json

The audit frames were visited by the campaign's own models, which began in one of these ways
themselves: look at both sets.

Not for: whether pre-training helps (see `pretraining`).
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from rich.console import Console
from rich.table import Table

from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather
from halcyon.models import mace
from halcyon.models.training import Recipe, train
from halcyon.verdict.audit import audit_of, usable

TAUGHT = 3
"""Every so many of the teacher's frames is looked at."""
LONG = 4000
"""Steps of the long training from the pre-trained model: the most of a campaign's default."""


def labels_before(folder: Path, generation: int) -> dict[str, list[Atoms]]:
    """Labels of the seed and of all generations before one, by set."""
    batches = ["seed", *(f"gen{number:03d}" for number in range(generation))]
    paths = [p for batch in batches for p in sorted((folder / batch / "labels").glob("*.parquet"))]
    return gather(paths)


def sets_of(folder: Path, generation: int) -> tuple[dict[str, list[Atoms]], dict[str, list[Atoms]]]:
    """What a generation learned from, and the frames that errors are given of."""
    labels = labels_before(folder, generation)
    learned = {frame.info["key"] for name in ("train", "validation") for frame in labels[name]}
    last = max(int(path.parent.name[3:]) for path in folder.glob("gen*/labels"))
    every = [frame for frames in labels_before(folder, last + 1).values() for frame in frames]
    audits = [
        frame
        for number in range(generation, last + 1)
        for frame in audit_of(every, number)
        if usable(frame) and frame.info["key"] not in learned
    ]
    taught = read_frames(folder / "teacher" / "frames.parquet")[::TAUGHT]
    return labels, {"test": labels["test"], "audit": audits, "teacher": taught}


def runs(
    campaign: Campaign, system: str, generation: int, seeds: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Train each way with each seed; a row of errors, meV/Å, and processor seconds for each."""
    settings, folder = campaign.systems[system].settings, campaign.folder / system
    labels, measured = sets_of(folder, generation)
    pretrained = folder / "teacher" / "pretrained.model"
    last, fit = folder / f"gen{generation - 1:03d}" / "model.model", settings.training
    ways = {
        "warm": (last, fit),
        "fresh": (pretrained, fit),
        "fresh, long": (pretrained, fit.model_copy(update={"updates": (LONG, LONG)})),
    }
    elements = sorted({int(z) for frame in labels["train"] for z in frame.numbers})
    for seed in seeds:
        for way, (start, fitted) in ways.items():
            begun = time.process_time()
            recipe = Recipe(
                elements=elements, model=settings.model, fit=fitted, seed=seed, start=start
            )
            with tempfile.TemporaryDirectory(prefix="halcyon-fresh-") as work:
                out = Path(work) / "trained.model"
                train(labels["train"], labels["validation"], recipe, out=out, work=Path(work))
                model = mace.load(out, device="cpu", dtype=settings.model.dtype)
            yield {
                "generation": generation,
                "labels": len(labels["train"]),
                "way": way,
                "seed": seed,
                "processor_s": time.process_time() - begun,
                "forces_mae_meV_per_A": {
                    name: error_of(model, frames) for name, frames in measured.items()
                },
                "frames": {name: len(frames) for name, frames in measured.items()},
            }


def error_of(model: torch.nn.Module, frames: Sequence[Atoms]) -> float:
    """Mean absolute error of force components, meV/Å."""
    predicted = mace.evaluate(model, frames).forces
    errors = [
        np.abs(forces - frame.arrays["forces"]).mean()
        for forces, frame in zip(predicted, frames, strict=True)
    ]
    return 1000 * float(np.mean(errors))


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Means over seeds, least to greatest in brackets."""
    first = rows[0]
    shown = Table(title=f"Generation {first['generation']}: {first['labels']} labels to learn")
    names = list(first["frames"])
    for column in ("begins", "processor s", *(f"{n}, force MAE meV/Å" for n in names), "seeds"):
        shown.add_column(column)
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        columns = [[row["processor_s"] for row in own]]
        columns += [[row["forces_mae_meV_per_A"][name] for row in own] for name in names]
        shown.add_row(way, *(spread(values) for values in columns), str(len(own)))
    return shown


def spread(values: Sequence[float]) -> str:
    """Mean, least and greatest of values."""
    return f"{np.mean(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaign", type=Path, help="campaign.json of a finished campaign")
    parser.add_argument("--system", help="(default: its first)")
    parser.add_argument("--generation", type=int, required=True, help="from 1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of trainings (1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    arguments = parser.parse_args(command_line)
    if arguments.generation < 1:
        parser.error("--generation: expected 1 or more: the first has no model before it")
    torch.set_num_threads(1)
    campaign = Campaign.read(arguments.campaign)
    system = arguments.system or next(iter(campaign.systems))
    rows = []
    for row in runs(campaign, system, arguments.generation, arguments.seeds):
        rows.append(row)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(f"seed {row['seed']}, {row['way']}: {row['forces_mae_meV_per_A']}", flush=True)
    Console().print(table(rows))


if __name__ == "__main__":
    main()
