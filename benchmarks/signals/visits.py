"""Models of `signal_truth`, and the frames that their own dynamics visits.

    case = Case(SYSTEMS["ethanol"], 1000.0, "scratch", 50, 1)
    visit = visited(case, frames, work)
    visit.frames[0].arrays["forces"]  # the reference's, eV/Å

Not for: signals (see `distances`).
"""

import contextlib
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon import files
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    ModelSettings,
    PretrainingSettings,
    TrainingSettings,
)
from halcyon.exploration.explore import Monitoring, Replica, RunControl, explore
from halcyon.exploration.starts import successors
from halcyon.frames import read_frames, structure_only, write_frames
from halcyon.models import mace, training
from halcyon.models.batched import BatchedMace
from halcyon.models.domains import find_domain
from signals.systems import Frames, System, seed_of, with_labels

REPLICAS, REPLACEMENTS, EVERY_FS = 8, 40, 25.0
SETTLING_PS = 0.1
"""Of each replica, not judged: it still shows the start frame."""
JUDGED = 400
"""Frames that are labelled at most, drawn at random from all visited."""


@dataclass(frozen=True)
class Case:
    """A model, and where it is judged: at a temperature (K), or on a kind of published frames."""

    system: System
    where: str
    group: str
    labels: int
    seed: int

    @property
    def name(self) -> str:
        """E.g. `ethanol_1000K_scratch-50_1`."""
        return f"{self.system.name}_{self.where}_{self.group}-{self.labels}_{self.seed}"

    @property
    def temperature_K(self) -> float | None:  # noqa: N802 (the unit)
        """Of the dynamics; None where frames are published."""
        return float(self.where.removesuffix("K")) if self.where.endswith("K") else None


@dataclass(frozen=True)
class Visit:
    """Frames that a model is judged on, with the reference's forces.

    Attributes:
        frames: with `info["replica"]`: what comes from one replica belongs together.
        failed: labels that failed.
        ended: replicas that failed, of all.
    """

    frames: list[Atoms]
    failed: int
    ended: tuple[int, int]


def model_of(case: Case, frames: Frames, work: Path) -> Path:
    """Train a case's model, or find it. Cases that differ in where they are judged share it."""
    seed = case.seed
    elements = sorted({int(z) for atoms in frames.train for z in atoms.numbers})
    start = None
    with contextlib.redirect_stdout(sys.stderr):
        if case.group == "pretrained":
            start = work / f"base-{_teacher_of(case)}-{seed}.model"
            if not start.exists():
                recipe = training.Recipe(
                    elements=elements,
                    model=ModelSettings(),
                    fit=PretrainingSettings(),
                    seed=seed_of("base", seed),
                )
                taught = [frame for i, frame in enumerate(frames.teacher) if i % 10]
                training.train(
                    taught, frames.teacher[::10], recipe, out=start, work=work / start.stem
                )
        out = work / f"{case.system.name}-{case.group}-{case.labels}-{seed}.model"
        if not out.exists():
            recipe = training.Recipe(
                elements=elements,
                model=ModelSettings(),
                fit=TrainingSettings(),
                seed=seed_of("fit", seed),
                start=start,
            )
            training.train(
                frames.train[: case.labels],
                frames.validation,
                recipe,
                out=out,
                work=work / out.stem,
            )
    return out


def _teacher_of(case: Case) -> str:
    """Systems of one teacher share the pre-trained model."""
    return "combustion" if case.system.channel else case.system.name


def visited(case: Case, frames: Frames, work: Path) -> Visit:
    """Run a model's own dynamics and label what it visits; or take the published frames."""
    if case.temperature_K is None:
        test = frames.test[case.where]
        for number, frame in enumerate(test):
            frame.info["replica"] = number
        return Visit(test, 0, (0, 0))
    kept = work / f"visited-{case.name}.parquet"
    counts = work / f"visited-{case.name}.json"
    if not (kept.exists() and counts.exists()):
        seen, ended = _explored(case, frames, work)
        labelled, failed = with_labels(seen)
        write_frames(kept, labelled)
        files.write_json(counts, {"failed": failed, "ended": ended})
    counted = files.read_json(counts)
    return Visit(read_frames(kept), counted["failed"], tuple(counted["ended"]))


def _explored(case: Case, frames: Frames, work: Path) -> tuple[list[Atoms], tuple[int, int]]:
    """Frames of the model's dynamics, without labels; and how many replicas failed, of all."""
    path = model_of(case, frames, work)
    model = mace.load(path, device="cpu")
    train, settings = frames.train[: case.labels], DomainSettings()
    name = train[0].info["structure"]
    domain = find_domain(
        model,
        {"train": train, "validation": frames.validation, "test": frames.validation},
        [],
        classes={name: frames.classes[name]},
        bonded={name: frames.bonds[name]},
        settings=settings,
        seed=seed_of("domain"),
    )
    kelvin = case.temperature_K or 0.0
    seed = seed_of("dynamics", case.name)
    random = np.random.default_rng(seed)
    exploration = explore(
        BatchedMace(model),
        [
            Replica(i, kelvin, structure_only(train[random.integers(len(train))]))
            for i in range(REPLICAS)
        ],
        ExplorationSettings(
            temperatures_K=[kelvin],
            replicas=REPLICAS,
            replacements=REPLACEMENTS,
            time_ps=case.system.time_ps,
            trajectory_every_fs=EVERY_FS,
        ),
        Monitoring(domain=domain, settings=settings, system_kind=case.system.kind),
        RunControl(work=work / case.name, identity=hashlib.sha256(path.read_bytes()).hexdigest()),
        seed=seed,
        successor=successors(train, lambda number: seed_of(case.name, number)),
    )
    seen = [frame for part in exploration.trajectory for frame in read_frames(part)]
    ended = sum(end.failure is not None for end in exploration.replicas)
    late = [_unlabelled(frame) for frame in seen if frame.info["time"] > SETTLING_PS]
    drawn = np.sort(random.permutation(len(late))[:JUDGED])
    return [late[i] for i in drawn], (ended, len(exploration.replicas))


def _unlabelled(frame: Atoms) -> Atoms:
    copy = structure_only(frame)
    copy.info |= {name: frame.info[name] for name in ("replica", "time", "temperature")}
    return copy
