"""Frames, labels, models and domains of `cli_validity`.

All is kept in a work folder, which git ignores, and made again, to the same weights on the same
kind of machine, where it is missing.

    ready = Workshop(plan, work, cells, print).ready(plan.models()[0])

Not for: what the models do (see `runs`).
"""

import hashlib
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon.config import (
    DomainSettings,
    ModelSettings,
    PretrainingSettings,
    TeacherSettings,
    TrainingSettings,
    XmlForceField,
    XtbReference,
    read_system,
)
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.frames import read_frames, write_frames
from halcyon.labels.reference.xtb import Xtb
from halcyon.models import mace, training
from halcyon.models.domains import find_domain
from halcyon.systems.structures import atom_classes, bonds, start_structure
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample
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
    """

    teacher: list[Atoms]
    train: list[Atoms]
    validation: list[Atoms]
    test: dict[float, list[Atoms]]


@dataclass(frozen=True)
class Ready:
    """A trained model: its file, what is watched, the file of its domain, and its description."""

    file: Path
    settings: DomainSettings
    domain: Path
    entry: dict[str, Any]


@dataclass
class Workshop:
    """Makes what a plan's cells need, as far as it was not made before.

    Attributes:
        plan: says what.
        work: folder of frames, models and domains.
        cells: folder of the models' descriptions.
        say: told what takes long.
    """

    plan: Plan
    work: Path
    cells: Path
    say: Callable[[str], None]
    known: dict[Model, Ready] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read the system."""
        self.system = read_system(SYSTEM)
        self.start = start_structure(self.system.structures[0])
        self.bonds = bonds(self.system.structures[0], self.start)

    @cached_property
    def data(self) -> Data:
        """All frames: sampled and labelled, or read."""
        plan, teacher_file, label_file = (
            self.plan,
            *(self.work / f"{name}.parquet" for name in ("teacher", "labels")),
        )
        if not (teacher_file.exists() and label_file.exists()):
            self.say("Sampling the force field, labelling")
            self._sample(teacher_file, label_file)
        known = read_frames(label_file)
        train, validation, test = (
            [frame for frame in known if frame.info["split"] == name]
            for name in ("train", "validation", "test")
        )
        by_temperature = {
            kelvin: [frame for frame in test if frame.info["temperature"] == kelvin]
            for kelvin in plan.temperatures_K
        }
        return Data(read_frames(teacher_file), train, validation, by_temperature)

    def _sample(self, teacher_file: Path, label_file: Path) -> None:
        """Frames of the force field; and labelled ones, from its dynamics at each temperature."""
        plan = self.plan
        force_field = self.system.forcefield
        assert isinstance(force_field, XmlForceField)  # noqa: S101  # `SYSTEM` is ours
        files = [ROOT / path for path in force_field.files]
        force_field = force_field.model_copy(update={"files": files})
        teacher = make_teacher(force_field, self.start, self.bonds)
        only = {"stretched_frames": 0, "contact_frames": 0, "dissociated_frames": 0}
        settings = TeacherSettings(
            md_frames=plan.teacher_frames, displaced_frames=plan.teacher_frames // 2, **only
        )
        frames, _ = sample(teacher, self.start, settings, seed=derived_seed("teacher"))
        write_frames(teacher_file, frames)
        chosen = []
        for kelvin in plan.temperatures_K:
            splits = ["test"] * (plan.test // 2)
            if kelvin == plan.temperatures_K[0]:
                splits = ["test"] * plan.test + ["train"] * max(plan.labels)
                splits += ["validation"] * plan.validation
            settings = TeacherSettings(
                temperatures_K=[kelvin],
                md_frames=len(splits),
                md_interval_fs=100.0,
                displaced_frames=0,
                **only,
            )
            seed = derived_seed("labels", f"{kelvin:g}")
            frames, _ = sample(teacher, self.start, settings, seed=seed)
            order = np.random.default_rng(seed).permutation(len(frames))
            for index, split in zip(order, splits, strict=True):
                frames[index].info["split"] = split
                chosen.append(frames[index])
        records = Xtb(XtbReference(backend="xtb")).label(chosen, self.work, 1)
        for frame, record in zip(chosen, records, strict=True):
            if record.energy is None:
                raise InputError(f"GFN2-xTB failed on a frame: {record.status}: {record.message}")
            frame.info["energy"] = record.energy
            frame.arrays["forces"] = record.forces
        write_frames(label_file, chosen)

    def ready(self, model: Model) -> Ready:
        """A trained model with its domain."""
        if model not in self.known:
            self.known[model] = self._made_ready(model)
        return self.known[model]

    def _made_ready(self, model: Model) -> Ready:
        begun = time.monotonic()
        file = self._trained(model)
        others = [self._trained(model, f"-member{n + 1}") for n in range(self.plan.committee)]
        settings = DomainSettings(signals=self.plan.signals, committee=others)
        loaded = mace.load(file, device="cpu")
        domain = self.work / f"{model.name}.domain.json"
        if not domain.exists():
            self.say(f"Calibrating the domain of {model.name}")
            self._domain(model, loaded, settings).write(domain)
        weights = weights_hash(loaded)
        path = self.cells / f"model_{model.name}.json"
        entry = read_cell(path, self.plan)
        if entry is None or entry["weights"] != weights:
            if entry is not None:
                self.say(
                    f"{model.name} has other weights than when its first cells were made (another "
                    "machine or library): its cells are of two models of one recipe"
                )
            entry = self._described(model, loaded, Domain.read(domain)) | {"weights": weights}
            entry["seconds"] = round(time.monotonic() - begun, 1)
            write_cell(path, entry)
        return Ready(file, settings, domain, entry)

    def _trained(self, model: Model, ending: str = "") -> Path:
        """File of a model; with an ending, of a member of its committee."""
        out = self.work / f"{model.name}{ending}.model"
        if out.exists():
            return out
        data, (tuning, pretraining) = self.data, self.plan.epochs
        elements, size = data.train[0].numbers, ModelSettings()
        base = self.work / f"base-{model.seed}{ending}.model"
        if model.group == "pre-trained" and not base.exists():
            self.say(f"Pre-training {base.stem} on {len(data.teacher)} frames")
            training.train(
                [frame for i, frame in enumerate(data.teacher) if i % 10],
                data.teacher[::10],
                training.Recipe(
                    elements=elements,
                    model=size,
                    fit=PretrainingSettings(epochs=pretraining),
                    seed=derived_seed("base", str(model.seed), ending),
                ),
                out=base,
                work=self.work,
            )
        self.say(f"Training {out.stem} on {model.labels} labels")
        training.train(
            data.train[: model.labels],
            data.validation,
            training.Recipe(
                elements=elements,
                model=size,
                fit=TrainingSettings(epochs=tuning, updates=None),
                seed=derived_seed("fit", model.name, ending),
                start=base if model.group == "pre-trained" else None,
            ),
            out=out,
            work=self.work,
        )
        return out

    def _domain(self, model: Model, loaded: torch.nn.Module, settings: DomainSettings) -> Domain:
        """Domain of a model, with the calibration of all signals."""
        data = self.data
        labels = {
            "train": data.train[: model.labels],
            "validation": data.validation,
            "test": data.test[self.plan.temperatures_K[0]],
        }
        name = data.train[0].info["structure"]
        return find_domain(
            loaded,
            labels,
            data.teacher if model.group == "pre-trained" else [],
            classes={name: atom_classes(self.start, self.bonds, "symmetry")},
            bonded={name: self.bonds},
            settings=settings,
            seed=derived_seed("domain", model.name),
            committee=mace.load_committee(settings, device="cpu"),
        )

    def _described(self, model: Model, loaded: torch.nn.Module, domain: Domain) -> dict[str, Any]:
        """What a model is: errors by temperature, thresholds and how well they are kept."""
        tests = {f"{kelvin:g}": frames for kelvin, frames in self.data.test.items()}
        errors = {
            kelvin: mace.errors(mace.evaluate(loaded, frames), frames)
            for kelvin, frames in tests.items()
        }
        mae = {
            key: {kelvin: round(found[of], 3) for kelvin, found in errors.items()}
            for key, of in (
                ("force_mae_meV_per_A", "forces_mae_meV_per_A"),
                ("energy_mae_meV_per_atom", "energy_mae_meV_per_atom"),
            )
        }
        content = domain.content()
        report = content["report"]
        return {
            "schema": SCHEMA,
            "kind": "model",
            "plan": self.plan.digest,
            "model": model.name,
            **asdict(model),
            **mae,
            "test_frames": {kelvin: len(frames) for kelvin, frames in tests.items()},
            "domain": {
                "margin": asdict(domain.margin),
                "exceedance": report["exceedance_with_margin"],
                "mean_width_eV": {
                    tier: report[f"mean_width_{tier}_eV"] for tier in ("label", "guard")
                },
            },
            "signals": {
                name: {key: signal[key] for key in ("threshold", "exceedance")}
                for name, signal in content["signals"].items()
            },
            "versions": {n: version(n) for n in ("torch", "mace-torch", "tblite", "openmm")},
            "machine": platform.machine(),
        }


def weights_hash(model: torch.nn.Module) -> str:
    """Hash of all weights of a model."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode() + values.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
