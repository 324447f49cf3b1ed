"""Atoms that no dynamics moves, and the layers of a slab.

    from ase.build import fcc100
    from halcyon.systems.fixed import layers_of, vacuum_A

    slab = fcc100("Al", (2, 2, 3), vacuum=6.0)
    layers_of(slab)  # [0 0 0 0 1 1 1 1 2 2 2 2]
    vacuum_A(slab)  # 12.0

A start structure has its fixed atoms in `arrays["fixed"]`, shape (N,). ASE's own constraints are
not used: they would zero the forces that are labels.

Not for: moving the others (see `exploration.dynamics`, `teacher.forcefield`).
"""

from collections.abc import Callable
from typing import NoReturn

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from halcyon.config import FixedAtoms, StructureSettings

LAYER_GAP_A = 0.5
"""Atoms whose heights differ by less belong to one layer, Å."""


def fixed_atoms(atoms: Atoms) -> np.ndarray:
    """Which atoms of a start structure no dynamics moves, shape (N,)."""
    mask: np.ndarray = atoms.arrays.get("fixed", np.zeros(len(atoms), dtype=bool))
    return mask


def mark_fixed(
    settings: StructureSettings,
    atoms: Atoms,
    read: Atoms,
    refuse: Callable[[StructureSettings, str, object, str], NoReturn],
) -> None:
    """Set `arrays["fixed"]` where a structure has fixed atoms.

    Args:
        settings: the structure's part of the system's file.
        atoms: the structure, perhaps a supercell of what was read: one copy after the other.
        read: as the file has it, with ASE's constraints.
        refuse: raises the message for a value of the settings.

    Raises:
        InputError: an atom does not exist, a constraint is of another kind, or no atom is free.
    """
    mask = np.zeros(len(read), dtype=bool)
    match settings.fixed:
        case "file":
            for constraint in read.constraints:
                if not isinstance(constraint, FixAtoms):
                    refuse(
                        settings,
                        "fixed",
                        settings.fixed,
                        f"{settings.file} has the constraint {type(constraint).__name__}: expected "
                        "whole atoms fixed in all directions. Write `fixed: {atoms: […]}`, or "
                        "`fixed: none`",
                    )
                mask[constraint.index] = True
        case FixedAtoms(atoms=numbers):
            if beyond := [number for number in numbers if number >= len(read)]:
                expected = f"no atom {beyond[0]}: expected numbers from 0 to {len(read) - 1}"
                refuse(settings, "fixed.atoms", numbers, expected)
            mask[numbers] = True
    mask = np.tile(mask, len(atoms) // len(read))
    if isinstance(settings.fixed, FixedAtoms) and settings.fixed.layers:
        if not atoms.pbc.all():
            expected = "not possible without a periodic cell: write `fixed: {atoms: […]}`"
            refuse(settings, "fixed.layers", settings.fixed.layers, expected)
        mask |= layers_of(atoms) < settings.fixed.layers
    if mask.all():
        refuse(settings, "fixed", settings.fixed, "all atoms are fixed: expected some that move")
    if mask.any():
        atoms.arrays["fixed"] = mask


def layers_of(atoms: Atoms) -> np.ndarray:
    """Layer of each atom along the third cell vector, 0 the lowest, shape (N,).

    The lowest is the one above the widest gap, so that a slab may lie across the boundary.
    """
    heights, bottom, _ = _stacked(atoms)
    order = np.argsort(heights - bottom, kind="stable")
    layer = np.zeros(len(atoms), dtype=int)
    layer[order[1:]] = np.cumsum(np.diff((heights - bottom)[order]) > LAYER_GAP_A)
    return layer


def vacuum_A(atoms: Atoms) -> float:  # noqa: N802 (the unit)
    """Widest gap between atoms along the normal of the first two cell vectors, Å."""
    return _stacked(atoms)[2]


def _stacked(atoms: Atoms) -> tuple[np.ndarray, float, float]:
    """Heights of atoms, shape (N,), that of the lowest, and the gap below it, all in Å.

    Heights are given from the lowest atom upwards, past the boundary.
    """
    cell = atoms.cell.array
    normal = np.cross(cell[0], cell[1])
    period = float(abs(cell[2] @ normal) / np.linalg.norm(normal))
    fractions = atoms.cell.scaled_positions(atoms.positions)[:, 2] % 1.0
    ordered = np.sort(fractions * period)
    gaps = np.diff(ordered, append=ordered[0] + period)
    widest = int(np.argmax(gaps))
    bottom = float(ordered[(widest + 1) % len(ordered)])
    heights = fractions * period
    heights = np.where(heights < bottom - 1e-9, heights + period, heights)
    return heights, bottom, float(gaps[widest])
