"""The sites of a crystal: where its atoms belong, as the start structure has them.

    from ase.build import bulk
    from halcyon.systems.lattice import lattice_sites

    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    round(lattice_sites(salt, kind="solid").nearest_A, 2)  # 2.82

Not for: which sites are equivalent (`sites`), or how far atoms are from them
(`domain.displacements`).
"""

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list

from halcyon.domain.displacements import LatticeSites
from halcyon.systems.fixed import fixed_atoms
from halcyon.systems.molecules import finite_molecules

NEIGHBOURS_WITHIN_A = 4.0
"""Where the search for nearest neighbours begins, Å; it goes on in twice that."""


def lattice_sites(start: Atoms, *, kind: str) -> LatticeSites | None:
    """The sites of a start structure; None: it has none.

    A site belongs to an atom or, where a crystal consists of molecules, to the centre of one.
    Molecules on a slab have none. What is bonded to a slab counts as a part of it.

    Args:
        start: N atoms.
        kind: of the system: only solids and slabs have sites, and only where they are periodic in
            three directions.
    """
    if kind not in ("solid", "slab") or not start.pbc.all():
        return None
    unit = np.arange(len(start))
    in_molecule = np.zeros(len(start), dtype=bool)
    for molecule in finite_molecules(start):
        unit[molecule] = molecule[0]
        in_molecule[molecule] = True
    if not in_molecule.all():  # they lie on or in a crystal of other atoms
        unit[in_molecule] = -1
    numbers = np.unique(unit[unit >= 0])
    return LatticeSites(
        numbers=start.numbers.copy(),
        scaled=start.cell.scaled_positions(start.positions),
        unit=unit,
        masses=start.get_masses(),
        nearest_A=_nearest(_centres(start, unit, numbers)),
        volume_A3=float(start.get_volume()),
        held=bool(fixed_atoms(start).any()),
    )


def _centres(start: Atoms, unit: np.ndarray, numbers: np.ndarray) -> Atoms:
    """The units as points in the cell of the start structure."""
    centres = []
    for number in numbers:
        members = np.flatnonzero(unit == number)
        first = members[0]
        vectors = start.get_distances(first, members, mic=True, vector=True)
        weights = start.get_masses()[members]
        centres.append(start.positions[first] + weights @ vectors / weights.sum())
    return Atoms(f"X{len(centres)}", positions=centres, cell=start.cell, pbc=True)


def _nearest(points: Atoms) -> float:
    """Distance of each point's nearest neighbour, images included, mean over points, Å."""
    cutoff = NEIGHBOURS_WITHIN_A
    while True:
        first, distances = neighbor_list("id", points, cutoff)
        nearest = np.full(len(points), np.inf)
        np.minimum.at(nearest, first, distances)
        if np.isfinite(nearest).all():
            return float(nearest.mean())
        cutoff *= 2
