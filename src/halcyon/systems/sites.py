"""Classes of the atoms of a crystal: its sites that symmetry makes equivalent.

    from ase.build import bulk
    from halcyon.systems.sites import site_classes

    silicon = bulk("Si", "diamond", a=5.43, cubic=True)
    silicon.info["structure"] = "silicon"
    site_classes(silicon)  # ["silicon:Si0"] * 8

Not for: molecules, whose classes follow from their bonds (`structures.atom_classes`).
"""

import numpy as np
import spglib
from ase import Atoms

from halcyon.errors import InputError

SYMMETRY_TOLERANCE_A = 0.01
"""Positions that differ by less are the same site, Å: files have three digits."""


def site_classes(atoms: Atoms) -> list[str]:
    """The class of each atom of a crystal: equivalent sites of its space group.

    Found by spglib (A. Togo, K. Shinohara, I. Tanaka, Sci. Technol. Adv. Mater. Methods 4, 2384822,
    2024). Fixed atoms are not told from others.

    Args:
        atoms: N atoms, periodic in three directions, with `info["structure"]`.

    Returns:
        N names, e.g. `mgo:O0`.

    Raises:
        InputError: spglib finds no symmetry.
    """
    crystal = (atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers)
    dataset = spglib.get_symmetry_dataset(crystal, symprec=SYMMETRY_TOLERANCE_A)
    structure = atoms.info["structure"]
    if dataset is None:
        raise InputError(
            f"structure {structure}: domain.classes: spglib finds no space group within "
            f"{SYMMETRY_TOLERANCE_A} Å. Set domain.classes to element or environment"
        )
    sites = np.asarray(dataset.equivalent_atoms)
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for symbol, site in zip(atoms.symbols, sites.tolist(), strict=True):
        if site not in names:
            names[site] = f"{structure}:{symbol}{numbers.get(symbol, 0)}"
            numbers[symbol] = numbers.get(symbol, 0) + 1
    return [names[site] for site in sites.tolist()]
