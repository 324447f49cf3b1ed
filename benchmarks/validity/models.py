"""Frames, labels, models and domains of `cli_validity`.

All is kept in a work folder, which git ignores, and made again, to the same weights on the same
kind of machine, where it is missing.

Not for: what the models do (see `runs`).
"""

import hashlib
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon import mace_model, signals
from halcyon.config import (
    DomainSettings,
    ModelSettings,
    PretrainingSettings,
    TeacherSettings,
    TrainingSettings,
    XtbReference,
    read_system,
)
from halcyon.domain import Domain
from halcyon.errors import InputError
from halcyon.frames import read_frames, write_frames
from halcyon.reference.xtb import Xtb
from halcyon.systems import atom_classes, bonds, start_structure
from halcyon.teachers import make_teacher, sample
from validity.cells import SCHEMA, Model, Plan, derived_seed, read_cell, write_cell

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = ROOT / "config" / "systems" / "ethanol.yaml"


@dataclass(frozen=True)
class Data:
    """Frames, all with energies (eV) and forces (eV/Å).

    Attributes:
        teacher: labelled by the force field.
        train: labelled by the reference, as the next ones; at 300 K.
        validation: held out; calibrates the domain.
        test: by temperature, K.
        bonds: pairs of bonded atoms.
        classes: of symmetry-equivalent atoms.
    """

    teacher: list[Atoms]
    train: list[Atoms]
    validation: list[Atoms]
    test: dict[float, list[Atoms]]
    bonds: list[tuple[int, int]]
    classes: list[str]


def prepared_data(plan: Plan, work: Path, say: Callable[[str], None]) -> Data:
    """Sample and label all frames, or read them where that was done before."""
    system = read_system(SYSTEM)
    start = start_structure(system.structures[0])
    pairs = bonds(system.structures[0], start)
    paths = work / "teacher.parquet", work / "labels.parquet"
    if not all(path.exists() for path in paths):
        say("Sampling the force field, labelling")
        teacher = make_teacher([ROOT / path for path in system.forcefield], start, pairs)
        settings = TeacherSettings(
            md_frames=plan.teacher_frames, displaced_frames=plan.teacher_frames // 2
        )
        frames, _ = sample(teacher, start, settings, seed=derived_seed("teacher"))
        write_frames(paths[0], frames)
        chosen = []
        for kelvin in plan.temperatures_K:
            base = kelvin == plan.temperatures_K[0]
            splits = ["test"] * (plan.test if base else plan.test // 2)
            if base:
                splits += ["train"] * max(plan.labels) + ["validation"] * plan.validation
            settings = TeacherSettings(
                temperatures_K=[kelvin],
                md_frames=len(splits),
                md_interval_fs=100.0,
                displaced_frames=0,
            )
            seed = derived_seed("labels", f"{kelvin:g}")
            frames, _ = sample(teacher, start, settings, seed=seed)
            order = np.random.default_rng(seed).permutation(len(frames))
            for index, split in zip(order, splits, strict=True):
                frames[index].info["split"] = split
                chosen.append(frames[index])
        write_frames(paths[1], labelled(chosen, work))
    taught, known = (read_frames(path) for path in paths)
    by_split = {
        name: [frame for frame in known if frame.info["split"] == name]
        for name in ("train", "validation", "test")
    }
    return Data(
        teacher=taught,
        train=by_split["train"],
        validation=by_split["validation"],
        test={
            kelvin: [f for f in by_split["test"] if f.info["temperature"] == kelvin]
            for kelvin in plan.temperatures_K
        },
        bonds=pairs,
        classes=atom_classes(start, pairs, "symmetry"),
    )


def labelled(frames: Sequence[Atoms], work: Path) -> list[Atoms]:
    """Frames with energies and forces of GFN2-xTB.

    Raises:
        InputError: a calculation failed.
    """
    reference = Xtb(XtbReference(backend="xtb"))
    for frame, record in zip(frames, reference.label(frames, work, 1), strict=True):
        if record.energy is None:
            raise InputError(f"GFN2-xTB failed on a frame: {record.status}: {record.message}")
        frame.info["energy"] = record.energy
        frame.arrays["forces"] = record.forces
    return list(frames)


def trained(
    plan: Plan, model: Model, data: Data, work: Path, *, member: int, say: Callable[[str], None]
) -> Path:
    """File of a model, or of a member of its committee (1, 2, …; 0: the model itself)."""
    ending = f"-member{member}" if member else ""
    out = work / f"{model.name}{ending}.model"
    if out.exists():
        return out
    tuning, pretraining = plan.epochs
    start = None
    if model.group == "pre-trained":
        start = work / f"base-{model.seed}{ending}.model"
        if not start.exists():
            say(f"Pre-training {start.stem} on {len(data.teacher)} frames")
            held_out = data.teacher[::10]
            mace_model.train(
                [frame for i, frame in enumerate(data.teacher) if i % 10],
                held_out,
                elements=data.train[0].numbers,
                model=ModelSettings(),
                fit=PretrainingSettings(epochs=pretraining),
                start=None,
                out=start,
                work=work,
                seed=derived_seed("base", str(model.seed), ending),
            )
    say(f"Training {out.stem} on {model.labels} labels")
    mace_model.train(
        data.train[: model.labels],
        data.validation,
        elements=data.train[0].numbers,
        model=ModelSettings(),
        fit=TrainingSettings(epochs=tuning),
        start=start,
        out=out,
        work=work,
        seed=derived_seed("fit", model.name, ending),
    )
    return out


@dataclass(frozen=True)
class Ready:
    """A trained model, its domain, and what it is.

    Attributes:
        file: the model.
        settings: what is watched.
        domain: file of its domain, all signals calibrated.
        entry: the model's description, as kept beside the cells.
    """

    file: Path
    settings: DomainSettings
    domain: Path
    entry: dict[str, Any]


def prepared_model(
    plan: Plan,
    model: Model,
    data: Data,
    *,
    work: Path,
    cells: Path,
    say: Callable[[str], None],
) -> Ready:
    """Train a model and calibrate its domain, as far as that was not done before."""
    begun = time.monotonic()
    file = trained(plan, model, data, work, member=0, say=say)
    settings = DomainSettings(
        signals=plan.signals,
        committee=[
            trained(plan, model, data, work, member=number, say=say)
            for number in range(1, plan.committee + 1)
        ],
    )
    domain_file = work / f"{model.name}.domain.json"
    if not domain_file.exists():
        say(f"Calibrating the domain of {model.name}")
        calibrated_domain(plan, model, data, file, settings).write(domain_file)
    loaded = mace_model.load(file, device="cpu")
    weights = weights_hash(loaded)
    path = cells / f"model_{model.name}.json"
    entry = read_cell(path, plan)
    if entry is None or entry["weights"] != weights:
        if entry is not None:
            say(
                f"{model.name} has other weights than when its first cells were made (another "
                "machine or library): its cells are of two models of one recipe"
            )
        entry = described(plan, model, data, loaded, Domain.read(domain_file))
        entry |= {"weights": weights, "seconds": round(time.monotonic() - begun, 1)}
        write_cell(path, entry)
    return Ready(file=file, settings=settings, domain=domain_file, entry=entry)


def calibrated_domain(
    plan: Plan, model: Model, data: Data, file: Path, settings: DomainSettings
) -> Any:
    """Domain of a model, with the calibration of all signals."""
    loaded = mace_model.load(file, device="cpu")

    def sample(frames: Sequence[Atoms]) -> signals.Sample:
        said = mace_model.evaluate(loaded, frames)
        return signals.Sample(frames, said.node_energy, said.descriptors, said.forces)

    train = data.train[: model.labels]
    lengths = np.mean([frame.get_all_distances() for frame in train], axis=0)
    name = train[0].info["structure"]
    return signals.fit_domain(
        train=sample(train),
        teacher=sample(data.teacher if model.group == "pre-trained" else []),
        held_out=sample(data.validation),
        check=sample(data.test[plan.temperatures_K[0]]),
        classes={name: data.classes},
        bonds={name: [(i, j, float(lengths[i, j])) for i, j in data.bonds]},
        settings=settings,
        seed=derived_seed("domain", model.name),
        committee=mace_model.load_committee(settings, device="cpu"),
    )


def described(plan: Plan, model: Model, data: Data, loaded: Any, domain: Any) -> dict[str, Any]:
    """What a model is: errors by temperature, thresholds and how well they are kept."""
    errors = {
        f"{kelvin:g}": mace_model.errors(mace_model.evaluate(loaded, frames), frames)
        for kelvin, frames in data.test.items()
    }
    return {
        "schema": SCHEMA,
        "kind": "model",
        "plan": plan.digest,
        "model": model.name,
        "group": model.group,
        "labels": model.labels,
        "seed": model.seed,
        "force_mae_meV_per_A": {
            kelvin: round(found["forces_mae_meV_per_A"], 2) for kelvin, found in errors.items()
        },
        "energy_mae_meV_per_atom": {
            kelvin: round(found["energy_mae_meV_per_atom"], 3) for kelvin, found in errors.items()
        },
        "test_frames": {f"{kelvin:g}": len(frames) for kelvin, frames in data.test.items()},
        "domain": {
            "margin": asdict(domain.margin),
            "exceedance": domain.report["exceedance_with_margin"],
            "mean_width_eV": {
                tier: domain.report[f"mean_width_{tier}_eV"] for tier in ("label", "guard")
            },
        },
        "signals": {
            name: {"threshold": asdict(found.threshold), "exceedance": found.exceedance}
            for name, found in domain.signals.items()
        },
        "versions": {name: version(name) for name in ("torch", "mace-torch", "tblite", "openmm")},
        "machine": platform.machine(),
    }


def weights_hash(model: Any) -> str:
    """Hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
