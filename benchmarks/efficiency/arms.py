"""The arms of `label_efficiency`: each gives one model after another, of more and more labels.

    for model in models_of(cell, effort, work):
        print(model.labels, model.path)

Arms but the last are campaigns of this product, from configuration alone. The committee is what
the field does (DP-GEN: Y. Zhang et al., Comput. Phys. Commun. 253, 107206, 2020): four models that
differ in their random weights, and labels for random ones of the frames where the largest standard
deviation of an atom's force lies in a window.

Not for: trying a model (see `trial`).
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms

from halcyon.campaign.campaign import Campaign
from halcyon.domain.intervals import Domain
from halcyon.exploration import starts
from halcyon.exploration.explore import Monitoring, RunControl, explore
from halcyon.frames import read_frames
from halcyon.labels.labelling import NOT_COMPUTED, gather
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.models.training import Recipe, train

ROOT = Path(__file__).resolve().parents[2]
COMMITTEE = "scratch-committee"
ARMS: dict[str, dict[str, Any]] = {
    "pretrained-index": {},
    "scratch-index": {"pretraining": {"enabled": False}},
    "pretrained-random": {"selection": {"by": "random"}},
    COMMITTEE: {"pretraining": {"enabled": False}},
    "gfnff-index": {},
}
"""What differs from the first, which is the product's default."""
FORCE_FIELDS = {"gfnff-index": {"kind": "gfnff"}}
"""Second teachers."""
MODELS = 4
WINDOW_EV_PER_A = (0.05, 0.15)
"""Deviations of a committee that are worth a label, eV/Å."""
VALIDATION_EVERY = 5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much each generation and each trial may cost."""

    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0)
    replicas: int = 15
    time_ps: float = 10.0
    selected: int = 7
    audited: int = 1  # at each temperature
    seed_labels: tuple[int, int, int] = (12, 5, 5)  # train, validation, test
    most_labels: int = 150
    short_ps: float = 5.0
    long_ps: float = 20.0
    trial_replicas: int = 16
    frames: int = 60  # of the reference's own dynamics, at each temperature
    goal_meV_per_A: float = 43.0
    more: tuple[tuple[str, Any], ...] = ()

    @property
    def generations(self) -> int:
        """As many as the most labels allow."""
        each = self.selected + self.audited * len(self.temperatures_K)
        return 1 + max(0, self.most_labels - sum(self.seed_labels)) // each


@dataclass(frozen=True)
class Cell:
    """An arm of one system with one seed."""

    system: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """E.g. `ethanol_scratch-index_1`."""
        return f"{self.system}_{self.arm}_{self.seed}"

    def content(self, effort: Effort, folder: Path, systems: Path) -> dict[str, Any]:
        """The campaign's configuration. All that is not named here is the default."""
        train, validation, test = effort.seed_labels
        shared = {
            "campaign": self.name,
            "systems": [self.system],
            "systems_folder": str(systems),
            "reference": {"backend": "xtb", "method": "GFN2-xTB"},
            "results": str(folder),
            "label_store": str(folder / "labels"),
            "seed": 20261129 + self.seed,
            "seed_labels": {"train": train, "validation": validation, "test": test},
            "exploration": {
                "temperatures_K": list(effort.temperatures_K),
                "replicas": effort.replicas,
                "time_ps": effort.time_ps,
            },
            "audit": {"frames": effort.audited},
            # So little dynamics cannot show less; the loop is ended by the trial.
            "saturation": {"events_per_ns": 1000.0},
            "limits": {"max_generations": effort.generations, "label_budget": 1000},
            "certificate": {"when": "never"},
        }
        different = dict(ARMS[self.arm])
        selection = {"frames": effort.selected} | different.pop("selection", {})
        return shared | dict(effort.more) | {"selection": selection} | different


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of an arm.

    Attributes:
        labels: all that were paid for before it was trained: training, validation, test, audit.
        path: of the model.
        domain: of the model; of the committee, that of its first model.
        decision: of the generation before, where a verdict was given.
    """

    labels: int
    path: Path
    domain: Path
    decision: str | None = None


def models_of(cell: Cell, effort: Effort, work: Path) -> Iterator[Model]:
    """Models of an arm, in order; an interrupted arm goes on from what is there."""
    yield from (_committee if cell.arm == COMMITTEE else _campaign)(cell, effort, work)


# Campaigns


def _campaign(cell: Cell, effort: Effort, work: Path) -> Iterator[Model]:
    for number in range(effort.generations):
        campaign = run_until(cell, effort, work, number)
        folder = campaign.folder / cell.system
        before = folder / f"gen{number - 1:03d}" / "verdict.json"
        decision = yaml.safe_load(before.read_text())["decision"] if before.exists() else None
        yield Model(
            labels=labels_paid(shards(folder, number)),
            path=folder / f"gen{number:03d}" / "model.model",
            domain=folder / f"gen{number:03d}" / "domain.json",
            decision=decision,
        )


def run_until(cell: Cell, effort: Effort, work: Path, number: int) -> Campaign:
    """Run a cell's campaign until the domain of a generation is there."""
    folder = work / cell.name
    systems = _systems(cell, folder)
    config = folder / "config.yaml"
    text = yaml.safe_dump(cell.content(effort, folder, systems))
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    place = folder / cell.name / cell.system
    targets = [place / f"gen{number:03d}" / "domain.json"]
    if number:
        targets.append(place / f"gen{number - 1:03d}" / "verdict.json")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    command += ["--directory", str(ROOT), "--quiet", "rules", "--nolock", *map(str, targets)]
    with (folder / "log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT)
    return Campaign.read(folder / cell.name / "campaign.json")


def _systems(cell: Cell, folder: Path) -> Path:
    """Folder with the system's file, with another teacher where the arm has one."""
    source = ROOT / "benchmarks" / "verdict_systems" / f"{cell.system}.yaml"
    if not source.exists():
        source = ROOT / "config" / "systems" / f"{cell.system}.yaml"
    content = yaml.safe_load(source.read_text())
    if cell.arm in FORCE_FIELDS:
        content["forcefield"] = FORCE_FIELDS[cell.arm]
    systems = folder / "systems"
    systems.mkdir(parents=True, exist_ok=True)
    target, text = systems / source.name, yaml.safe_dump(content)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
    return systems


def shards(folder: Path, number: int) -> list[Path]:
    """Label files of the seed and of the generations before one."""
    batches = ["seed", *(f"gen{n:03d}" for n in range(number))]
    return [p for batch in batches for p in sorted((folder / batch / "labels").glob("*.parquet"))]


def labels_paid(paths: Sequence[Path]) -> int:
    """Labels that were computed, failed ones included."""
    frames = [frame for path in paths for frame in read_frames(path)]
    return sum(frame.info["status"] != NOT_COMPUTED for frame in frames)


# The committee


@dataclass
class _Committee:
    """Four models that learn from frames on which they differ.

    Attributes:
        cell: the arm.
        campaign: whose seed and first model it begins with.
        labels: so far, by set.
        models: the newest, the first of which runs the dynamics.
    """

    cell: Cell
    campaign: Campaign
    labels: dict[str, list[Atoms]]
    models: list[Path]

    @property
    def domain(self) -> Path:
        """Of the first model of all: it is watched, and says nothing."""
        return self.campaign.folder / self.cell.system / "gen000" / "domain.json"

    def train(self, start: Path | None, out: Path, *, seed: int) -> Path:
        """Train a model on the labels so far, or find it."""
        if not out.exists():
            settings = self.campaign.systems[self.cell.system].settings
            elements = sorted({int(z) for frame in self.labels["train"] for z in frame.numbers})
            recipe = Recipe(
                elements=elements,
                model=settings.model,
                fit=settings.training,
                seed=seed,
                start=start,
            )
            train(
                self.labels["train"],
                self.labels["validation"],
                recipe,
                out=out,
                work=out.with_suffix(".work"),
            )
        return out

    def deviating(self, number: int, most: int) -> list[Atoms]:
        """Frames of the first model's dynamics, from their beginning, on which all differ.

        Random ones from within the window come first. Where there are too few, those follow that
        are the least above it, which the field's programs would leave out: a young committee
        differs by more nearly everywhere, and would never get a label.
        """
        plan = self.campaign.systems[self.cell.system]
        exploration, dtype = plan.settings.exploration, plan.settings.model.dtype
        loaded = [mace.load(path, device="cpu", dtype=dtype) for path in self.models]
        seed = 1000 * self.cell.seed + number
        run = explore(
            BatchedMace(loaded[0]),
            starts.deal(self.labels["train"], plan.explored, exploration, seed=seed),
            exploration,
            Monitoring(
                domain=Domain.read(self.domain),
                settings=plan.settings.domain,
                system_kind=plan.system.kind,
            ),
            RunControl(
                work=self.campaign.folder / f"explored-{number}", identity=str(self.models[0])
            ),
            seed=seed,
            audit=plan.settings.audit.model_copy(update={"equilibration": 0.0}),
        )
        forces = [mace.evaluate(model, run.reservoir).forces for model in loaded]
        deviations = [
            deviation([of_model[i] for of_model in forces]) for i in range(len(run.reservoir))
        ]
        return [run.reservoir[i] for i in worth_a_label(deviations, most)]

    def learn(self, frames: Sequence[Atoms], work: Path) -> None:
        """Label frames; one in five is for validation."""
        records = self.campaign.reference().label(frames, work, 1)
        for count, (frame, record) in enumerate(zip(frames, records, strict=True), start=1):
            if record.forces is not None:
                frame.info["energy"] = record.energy
                frame.arrays["forces"] = record.forces
                self.labels["train" if count % VALIDATION_EVERY else "validation"].append(frame)


def _committee(cell: Cell, effort: Effort, work: Path) -> Iterator[Model]:
    campaign = run_until(cell, effort, work, 0)  # the seed's labels, and the first model
    folder = campaign.folder / cell.system
    paid = labels_paid(shards(folder, 0))
    arm = _Committee(cell, campaign, gather(shards(folder, 0)), [folder / "gen000" / "model.model"])
    arm.models += [
        arm.train(None, work / cell.name / f"committee-00-{k}.model", seed=1000 * cell.seed + k)
        for k in range(1, MODELS)
    ]
    each = effort.selected + effort.audited * len(effort.temperatures_K)
    for number in range(effort.generations):
        yield Model(labels=paid, path=arm.models[0], domain=arm.domain)
        taken = arm.deviating(number, each)
        arm.learn(taken, work / cell.name)
        paid += len(taken)
        arm.models = [
            arm.train(
                start,
                work / cell.name / f"committee-{number + 1:02d}-{k}.model",
                seed=1000 * cell.seed + 10 * (number + 1) + k,
            )
            for k, start in enumerate(arm.models)
        ]


def worth_a_label(deviations: Sequence[float], most: int) -> list[int]:
    """Which frames a committee would label, in order.

    Args:
        deviations: of frames in a random order, eV/Å.
        most: frames to take.
    """
    low, high = WINDOW_EV_PER_A
    inside = [i for i, value in enumerate(deviations) if low <= value <= high]
    above = [i for i, value in enumerate(deviations) if value > high]
    return [*inside, *sorted(above, key=lambda i: deviations[i])][:most]


def deviation(forces: Sequence[np.ndarray]) -> float:
    """Largest standard deviation of an atom's force over models, eV/Å.

    Args:
        forces: by model, eV/Å, each of shape (N, 3).
    """
    stacked = np.stack([np.asarray(of_model, dtype=float) for of_model in forces])
    squared = ((stacked - stacked.mean(axis=0)) ** 2).sum(axis=2).mean(axis=0)
    return float(np.sqrt(squared.max()))
