"""Frames of a shipped system for benchmarks: the teacher's, and its dynamics labelled by GFN2-xTB.

    subject = subject_of("ethanol", work / "prepared")
    frames = labelled(subject, 300, 60, seed=1, order=2)

Not for: the teacher itself (`halcyon.teacher`), or what a benchmark does with the frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon.config import TeacherSettings, XmlForceField, XtbReference, read_system
from halcyon.errors import InputError
from halcyon.labels.reference.xtb import Xtb
from halcyon.systems.structures import atom_classes, bonds, molecules, start_structure
from halcyon.teacher.forcefield import Teacher, make_teacher
from halcyon.teacher.sampling import sample

ROOT = Path(__file__).resolve().parents[1]
NO_WALLS = {"stretched_frames": 0, "contact_frames": 0, "dissociated_frames": 0}


@dataclass(frozen=True)
class Subject:
    """The first structure of a system.

    Attributes:
        name: of the system.
        start: the structure.
        bonds: pairs of its atoms.
        classes: of its atoms, by symmetry.
        teacher: the system's force field.
    """

    name: str
    start: Atoms
    bonds: list[tuple[int, int]]
    classes: list[str]
    teacher: Teacher


def subject_of(name: str, prepared: Path) -> Subject:
    """A system of config/systems.

    Args:
        name: of the system.
        prepared: folder for the files of its force field.
    """
    system = read_system(ROOT / "config" / "systems" / f"{name}.yaml")
    shape = system.structures[0]
    start = start_structure(shape)
    pairs = bonds(shape, start)
    forcefield = system.forcefield
    if isinstance(forcefield, XmlForceField):
        paths = [ROOT / file for file in forcefield.files]
        forcefield = forcefield.model_copy(update={"files": paths})
    teacher = make_teacher(
        forcefield,
        start,
        pairs,
        molecules=lambda: {shape.name: molecules(shape, start, pairs)},
        prepared=prepared,
    )
    return Subject(name, start, pairs, atom_classes(start, pairs, "symmetry"), teacher)


def taught(subject: Subject, md_frames: int, displaced: int, *, seed: int) -> list[Atoms]:
    """Frames that the force field labels: of dynamics, and displaced ones."""
    settings = TeacherSettings(md_frames=md_frames, displaced_frames=displaced, **NO_WALLS)
    return sample(subject.teacher, subject.start, settings, seed=seed)[0]


def labelled(subject: Subject, kelvin: float, count: int, *, seed: int, order: int) -> list[Atoms]:
    """Frames of the force field's dynamics at a temperature, labelled by GFN2-xTB.

    Args:
        subject: the system.
        kelvin: temperature, K.
        count: number of frames, 100 fs apart.
        seed: of the dynamics.
        order: seed of the order of the frames.

    Raises:
        InputError: GFN2-xTB failed on a frame.
    """
    settings = TeacherSettings(
        temperatures_K=[kelvin],
        md_frames=count,
        md_interval_fs=100,
        displaced_frames=0,
        **NO_WALLS,
    )
    frames, _ = sample(subject.teacher, subject.start, settings, seed=seed)
    drawn = [frames[i] for i in np.random.default_rng(order).permutation(len(frames))]
    label(drawn, subject.name)
    return drawn


def label(frames: Sequence[Atoms], name: str) -> None:
    """Give frames the energies and forces of GFN2-xTB.

    Raises:
        InputError: it failed on a frame.
    """
    records = Xtb(XtbReference(backend="xtb")).label(frames, Path(), 1)
    for frame, record in zip(frames, records, strict=True):
        if record.energy is None or record.forces is None:
            raise InputError(f"GFN2-xTB failed on a frame of {name}: {record.message}")
        frame.info["energy"], frame.arrays["forces"] = record.energy, record.forces
