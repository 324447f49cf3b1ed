"""Frames that a start model labels, so that the fine-tuning does not forget what it knew.

They show the system's species as the start model's own training set may have shown them: frames of
the force field's dynamics and walls, copies of these that are compressed or stretched as a whole
and rattled, and frames that the user names. The start model labels them (pseudo-labels): they are
no labels, and neither the label store nor any count of labels knows them.

    from halcyon.models.mace import load
    from halcyon.models.replay import drawn, labelled

    replayed, dropped = labelled(
        load("m.model", dtype="float64"), drawn(frames, number=4, seed=1), cap_eV_per_A=100.0
    )
    replayed[0].info["reason"]  # who labelled it

Not for: how they are learned (see `training` and `learner`).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read

from halcyon.config import TrainingSettings
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_only, write_frames
from halcyon.models import mace

MOLECULE = (0.85, 1.2)
"""All positions of a molecule are scaled by a factor between these."""
CRYSTAL = (0.94, 1.06)
"""Cell and positions of a periodic frame are scaled by a factor between these."""
RATTLE_A = (0.01, 0.15)
"""Standard deviation of the displacements of an atom, drawn for each frame, Å."""
LABELLED_BY = "labelled by the start model"
OF_FILES = "file"
"""Origin of the user's frames."""


def drawn(frames: Sequence[Atoms], *, number: int, seed: int) -> list[Atoms]:
    """Frames to replay, without labels: half of them as they are, half strained and rattled.

    Args:
        frames: of the system's species, with `info["origin"]`; at least one.
        number: how many to draw. There are fewer where `frames` has fewer than half of it.
        seed: of the draws.
    """
    random = np.random.default_rng(seed)
    plain = random.choice(len(frames), min(number - number // 2, len(frames)), replace=False)
    strained = [
        _strained(frames[int(random.integers(len(frames)))], random) for _ in range(number // 2)
    ]
    return [_unlabelled(frames[i]) for i in sorted(plain)] + strained


def _unlabelled(frame: Atoms) -> Atoms:
    copy = structure_only(frame)
    copy.info["origin"] = frame.info.get("origin", "")
    return copy


def _strained(frame: Atoms, random: np.random.Generator) -> Atoms:
    frame = structure_only(frame)
    periodic = bool(frame.pbc.any())
    factor = random.uniform(*(CRYSTAL if periodic else MOLECULE))
    if periodic:
        frame.set_cell(frame.cell * factor, scale_atoms=True)
    else:
        centre = frame.positions.mean(0)
        frame.positions = centre + factor * (frame.positions - centre)
    width = random.uniform(*RATTLE_A)
    frame.positions += random.normal(scale=width, size=frame.positions.shape)
    frame.info["origin"] = "strained"
    return frame


def labelled(
    model: Any, frames: Sequence[Atoms], *, cap_eV_per_A: float
) -> tuple[list[Atoms], int]:
    """Frames with the model's energies and forces, and how many were dropped.

    Args:
        model: see `mace.evaluate`.
        frames: changed: they get `info["energy"]`, eV, and `arrays["forces"]`, eV/Å.
        cap_eV_per_A: frames with a larger force, or with one that is not finite, are dropped.
    """
    predictions = mace.evaluate(model, frames)
    kept = []
    for frame, energy, forces in zip(frames, predictions.energy, predictions.forces, strict=True):
        if np.isfinite(energy) and np.linalg.norm(forces, axis=1).max() <= cap_eV_per_A:
            frame.info |= {"energy": float(energy), "reason": LABELLED_BY}
            frame.arrays["forces"] = forces
            kept.append(frame)
    return kept, len(frames) - len(kept)


def of_files(paths: Sequence[Path], elements: Sequence[int]) -> list[Atoms]:
    """The user's frames of the system's elements, without their labels.

    Args:
        paths: files that ASE reads.
        elements: atomic numbers; frames with others are left out.

    Raises:
        InputError: a file is missing or cannot be read, or none of its frames can be used.
    """
    frames = []
    for path in paths:
        try:
            content = read(path, index=":")
        except FileNotFoundError as error:
            raise InputError(
                f"training.replay_from: {path}: no such file; expected frames that ASE reads"
            ) from error
        except Exception as error:  # ASE's readers fail in any way
            raise InputError(
                f"training.replay_from: {path}: not readable as frames ({error}); expected a file "
                "that ASE reads, such as extended XYZ"
            ) from error
        usable = [atoms for atoms in content if {*atoms.numbers.tolist()} <= {*elements}]
        usable = [atoms for atoms in usable if atoms.pbc.all() or not atoms.pbc.any()]
        if not usable:
            raise InputError(
                f"training.replay_from: {path}: none of its {len(content)} frames can be replayed; "
                f"expected frames of {mace.symbols(elements)} only, periodic along all cell "
                "vectors or along none"
            )
        for atoms in usable:
            copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            copy.info["origin"] = OF_FILES
            frames.append(copy)
    return frames


def prepared(
    path: Path,
    start: Path,
    frames: Sequence[Atoms],
    settings: TrainingSettings,
    *,
    cap_eV_per_A: float,
    seed: int,
    device: str,
    say: Callable[[str], None],
) -> list[Atoms]:
    """The frames to replay: read where they were made before, else made and written, atomically.

    They are made again where the start model, the user's files, the settings or the seed have
    changed.

    Args:
        path: their file. The column `level` says of which start model and settings they are.
        start: the start model's file.
        frames: the teacher's, at least one.
        settings: how many to draw, and the user's files.
        cap_eV_per_A: as for `labelled`.
        seed: of the draws.
        device: as for `mace.load`.
        say: called with a line for people where they are made.

    Raises:
        InputError: as `of_files`; or the start model gives all frames forces that are too large.
    """
    identity = _identity(start, frames, settings, [cap_eV_per_A, seed])
    if path.exists():
        kept = read_frames(path)
        if kept and kept[0].info.get("level") == identity:
            return kept
    model: Any = mace.load(start, device=device, dtype="float64")
    unlabelled = drawn(frames, number=settings.replay_frames, seed=seed)
    unlabelled += of_files(settings.replay_from, [int(z) for z in model.atomic_numbers])
    kept, dropped = labelled(model, unlabelled, cap_eV_per_A=cap_eV_per_A)
    if not kept:
        raise InputError(
            f"{start}: gives all {dropped} frames to replay forces above {cap_eV_per_A:g} eV/Å: it "
            "does not know this system. Name another model, or set training.replay_weight: 0"
        )
    for atoms in kept:
        atoms.info["level"] = identity
    write_frames(path, kept)
    origins = Counter(atoms.info["origin"] for atoms in kept)
    words = ", ".join(f"{number} {origin}" for origin, number in sorted(origins.items()))
    say(
        f"{len(kept)} frames labelled by the start model, to be replayed ({words}); {dropped} "
        f"dropped, with forces above {cap_eV_per_A:g} eV/Å → {path}"
    )
    return kept


def _identity(
    start: Path, frames: Sequence[Atoms], settings: TrainingSettings, numbers: Sequence[float]
) -> str:
    digest = hashlib.sha256(json.dumps([settings.replay_frames, *numbers]).encode())
    for file in (start, *settings.replay_from):
        digest.update(file.read_bytes() if file.exists() else b"")
    for atoms in frames:
        digest.update(atoms.numbers.tobytes() + atoms.positions.tobytes())
    return digest.hexdigest()
