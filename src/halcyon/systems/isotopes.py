"""Isotopes in start structures: found, so that none becomes the common one without a word.

    from rdkit import Chem
    from halcyon.systems.isotopes import in_molecule

    in_molecule(Chem.MolFromSmiles("[2H]O[2H]"))  # ["2H (atom 0)", "2H (atom 2)"]

Halcyon's dynamics have the masses of natural abundance. A start structure with another isotope is
refused, because its dynamics would be another molecule's; docs/decisions/own-data.md says why.

Not for: energies and forces, which no isotope changes.
"""

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_masses
from rdkit import Chem, rdBase

SAME_MASS = 0.01
"""Masses that differ by less than this part are one isotope's in other rounding. 7Li, the lightest
isotope that is nearly all of its element, is 1.1 % from the natural mass, and H = 1 is 0.8 %."""
MASS_COLUMNS = ("masses", "mass")
MOL_FILES = {".mol", ".sdf"}
HYDROGENS = {"D": "deuterium", "T": "tritium"}
"""Symbols of isotopes that are no symbols of elements."""
OUT = (
    "the dynamics would have the masses of natural abundance. Expected no isotopes: write the "
    "common element. Energies and forces are the same, so a model that is trained without isotopes "
    "is right for them: set the masses in the engine that runs it"
)
"""Why isotopes are refused, and what to do; the end of a message."""


def in_molecule(molecule: Chem.Mol) -> list[str]:
    """Atoms of a molecule of RDKit that are marked as isotopes, by isotope and index from 0."""
    return [
        f"{atom.GetIsotope()}{atom.GetSymbol()} (atom {atom.GetIdx()})"
        for atom in molecule.GetAtoms()
        if atom.GetIsotope()
    ]


def in_atoms(atoms: Atoms) -> list[str]:
    """Atoms of a structure whose masses are not those of natural abundance, with these masses, u.

    Args:
        atoms: as ASE read them; masses stand in the array `masses`, or in `mass` where a file has
            such a column.
    """
    natural = atomic_masses[atoms.numbers]
    for name in MASS_COLUMNS:
        if name not in atoms.arrays:
            continue
        masses = np.asarray(atoms.arrays[name], dtype=float).reshape(len(atoms), -1)[:, 0]
        other = ~(np.abs(masses - natural) <= SAME_MASS * natural)
        return [f"{atoms.symbols[i]} (atom {i}, {masses[i]:g} u)" for i in np.flatnonzero(other)]
    return []


def in_file(path: Path) -> list[str]:
    """Isotopes of a MOL or SDF file, which ASE's reader passes over; none of other files."""
    if path.suffix.lower() not in MOL_FILES:
        return []
    with rdBase.BlockLogs():
        reader = Chem.SDMolSupplier(str(path), sanitize=False, removeHs=False)
        return [isotope for molecule in reader if molecule for isotope in in_molecule(molecule)]
