"""The seed: the first frames to label, drawn at random and split for good.

Of each structure, frames are drawn for training, validation and test.

Not for: making the teacher's frames (`teacher.sampling`), or frames of later generations
(`exploration.selection`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.frames import structure_key, structure_only
from halcyon.labels.pool import frames_like
from halcyon.systems.graphs import Bonds

STRAINS = 1
"""Tells the random numbers of strains from those of the draw, which stays the same without."""

MOST_BROKEN = 0.1
"""Part of the seed's frames in which a bond may be broken."""


def from_dynamics(
    frames: Sequence[Atoms],
    structures: Sequence[str],
    settings: SeedSettings,
    *,
    seeds: Mapping[str, int],
    strains: Mapping[str, float] | None = None,
) -> list[Atoms]:
    """Draw the seed from the teacher's dynamics.

    Every second frame of a structure with a strain gets another cell (`strained`).

    Args:
        frames: of the teacher, with `info` keys origin, structure and, for dynamics, temperature.
        structures: names of the structures to draw frames of.
        settings: numbers of frames, and the highest temperature to draw from.
        seeds: of the random numbers, for each structure.
        strains: largest strain of each structure whose cells are strained.

    Returns:
        Frames with the `info` keys split, generation, reason, origin (md or strained), temperature
        and key.

    Raises:
        InputError: there are fewer frames of a structure than the seed takes.
    """
    selected = []
    for structure in structures:
        candidates = [
            frame
            for frame in frames
            if frame.info["origin"] == "md"
            and frame.info["temperature"] <= settings.max_temperature_K
            and frame.info["structure"] == structure
        ]
        if len(candidates) < settings.frames:
            raise InputError(
                f"structure {structure}: {len(candidates)} frames of the teacher's dynamics up to "
                f"{settings.max_temperature_K:g} K, expected {settings.frames} for the seed "
                "(seed_labels): raise teacher.md_frames, or lower teacher.min_difference_A"
            )
        largest = (strains or {}).get(structure, 0.0)
        random = np.random.default_rng([seeds[structure], STRAINS])
        chosen = drawn(candidates, _numbers(settings), seeds[structure])
        for number, (frame, split) in enumerate(chosen):
            strain = largest if number % 2 else 0.0
            origin = {
                "origin": "strained" if strain else "md",
                "temperature": frame.info["temperature"],
            }
            kept = strained(frame, strain, random) if strain else frame
            selected.append(selected_frame(kept, split, origin))
    return selected


def check_bonds_hold(frames: Sequence[Atoms], bonds: Bonds, largest_A: float) -> None:
    """Refuse a molecule whose bonds do not hold in the teacher's dynamics.

    Its replicas would count as failed as soon as they begin, generation after generation: clusters
    of metal atoms, and weak complexes.

    Args:
        frames: of one structure, with `info["structure"]`.
        bonds: pairs of its bonded atoms.
        largest_A: deviation of a bond from its mean at which a replica has failed, Å.

    Raises:
        InputError: in more than `MOST_BROKEN` of the frames some bond is further from its mean.
    """
    if not frames or not bonds:
        return
    lengths = np.array(
        [[frame.get_distance(i, j, mic=frame.pbc.any()) for i, j in bonds] for frame in frames]
    )
    off = np.abs(lengths - lengths.mean(axis=0))
    broken = (off > largest_A).any(axis=1)
    if broken.mean() <= MOST_BROKEN:
        return
    worst = int(off.max(axis=0).argmax())
    i, j = bonds[worst]
    symbols = frames[0].get_chemical_symbols()
    raise InputError(
        f"structure {frames[0].info['structure']}: its bonds do not hold: in {broken.sum()} of "
        f"{len(frames)} seed frames a bond is more than {largest_A:g} Å "
        f"(exploration.bond_stretch_A) from its mean, e.g. {symbols[i]}{i}–{symbols[j]}{j}, "
        f"{lengths[:, worst].min():.2f} to {lengths[:, worst].max():.2f} Å long; replicas would "
        "fail where they start. Set `kind: reactive` in the system's file, whose bonds may break, "
        "or lower seed_labels.max_temperature_K, or raise exploration.bond_stretch_A"
    )


def strained(frame: Atoms, largest: float, random: np.random.Generator) -> Atoms:
    """A copy of a frame in a strained cell, its atoms at the same fractions of the cell.

    Args:
        frame: periodic in three directions.
        largest: each of the six components of the strain is drawn from ± this.
        random: draws them.
    """
    xx, yy, zz, yz, xz, xy = random.uniform(-largest, largest, size=6)
    strain = np.array([[xx, xy / 2, xz / 2], [xy / 2, yy, yz / 2], [xz / 2, yz / 2, zz]])
    copy = structure_only(frame)
    copy.set_cell(frame.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    return copy


def from_published(
    pool: Sequence[Atoms],
    starts: Sequence[Atoms],
    settings: SeedSettings,
    *,
    seeds: Mapping[str, int],
    bonds: Mapping[str, Bonds | None],
) -> list[Atoms]:
    """Draw the seed from a published set.

    Args:
        pool: frames of the set, see `Reference.pool`.
        starts: start structures, with `info["structure"]`.
        settings: numbers of frames.
        seeds: of the random numbers, for each structure.
        bonds: of each structure, the pairs of bonded atoms; None where bonds may break.

    Returns:
        Frames with the `info` keys split, generation, reason, origin and key.

    Raises:
        InputError: the set has fewer frames of a structure than the seed takes.
    """
    selected = []
    for start in starts:
        structure = start.info["structure"]
        candidates = frames_like(pool, start, bonds[structure])
        if len(candidates) < settings.frames:
            raise InputError(
                f"reference.files: {len(candidates)} frames of {structure} in the data set, "
                f"expected {settings.frames} for the seed (seed_labels)"
            )
        for frame, split in drawn(candidates, _numbers(settings), seeds[structure]):
            selected.append(selected_frame(frame, split, {"origin": "data set"}))
    return selected


def drawn(
    candidates: Sequence[Atoms], numbers: Mapping[str, int], seed: int
) -> list[tuple[Atoms, str]]:
    """Different frames, drawn at random, each with its split.

    Args:
        candidates: at least as many as there are numbers in all.
        numbers: of frames, by split.
        seed: of the draw.
    """
    splits = [split for split, number in numbers.items() for _ in range(number)]
    order = np.random.default_rng(seed).permutation(len(candidates))[: len(splits)]
    return [(candidates[index], split) for index, split in zip(order, splits, strict=True)]


def selected_frame(frame: Atoms, split: str, origin: Mapping[str, object]) -> Atoms:
    """A frame of the seed, without a label: `origin` are its `info` keys of where it is from."""
    selected = structure_only(frame)
    selected.info |= {"split": split, "generation": -1, "reason": "seed", **origin}
    selected.info |= {"key": structure_key(selected)}
    return selected


def _numbers(settings: SeedSettings) -> dict[str, int]:
    return {name: getattr(settings, name) for name in ("train", "validation", "test")}
