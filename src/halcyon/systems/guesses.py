"""Estimates from a molecule's structure alone: spin, box, density of the liquid.

`halcyon new-system` writes them into the system's file, each with its reason.

Not for: geometry (`structures`), force fields (`teacher`), or calculations.
"""

import math
from collections.abc import Mapping

from ase import Atoms
from rdkit import Chem

WALL_A = 3.0
"""Distance from the molecule to each wall of its box, Å: CP2K needs 2, and the molecule moves."""
STEP_A = 0.5
"""Edges of boxes are multiples of this, Å."""
TRIPLETS = frozenset({"O=O", "S=S"})
"""Molecules with two unpaired electrons that their SMILES does not show."""
VOLUMES = ((1, 1), (2, 1.5), (10, 2), (18, 4), (36, 5), (54, 7.5), (86, 9))
"""Relative volume of an atom, up to an atomic number. Helium is interpolated."""
CORRECTIONS = {
    "[OX2;H1,H2;!$(OC=O)]": 0.1,  # hydroxyl
    "[CX3](=O)[OX2H1]": 0.1,  # carboxylic acid
    "[NX3;H1,H2,H3;!$(NC=O)]": 0.1,  # primary or secondary amine
    "[NX3]C=O": 0.1,  # amide
    "[SX3]=O": 0.1,  # sulfoxide
    "[SX4](=O)=O": 0.2,  # sulfone
}
"""Groups, as SMARTS, that make a liquid denser than the sum of atomic volumes, and by what part."""
MOST_CORRECTED = 0.3
"""The corrections of a molecule add up to at most this part."""
OPEN_SHELLS = (range(21, 31), range(39, 49), range(57, 81))
"""Elements whose ions may have any spin: transition metals and lanthanides."""
NONMETALS = frozenset(
    "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Sb Te I Xe At Rn".split()  # noqa: SIM905
)
"""Symbols of elements; what consists of others alone is a metal."""


def unpaired_electrons(molecule: Chem.Mol) -> tuple[int, str]:
    """Number of unpaired electrons, and the reason for it in words."""
    if Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(molecule))) in TRIPLETS:
        return 2, "a triplet in its ground state"
    electrons = sum(atom.GetAtomicNum() for atom in molecule.GetAtoms())
    electrons -= Chem.GetFormalCharge(molecule)
    drawn = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
    metal = any(atom.GetAtomicNum() in row for atom in molecule.GetAtoms() for row in OPEN_SHELLS)
    if metal or (electrons - drawn) % 2 or drawn > electrons:
        return electrons % 2, "the lowest that fits the number of electrons: check it"
    if drawn > 1:
        return drawn, f"{drawn} unpaired electrons, spins aligned: check it"
    return drawn, "one unpaired electron" if drawn else "no unpaired electron"


def longest_distance_A(atoms: Atoms) -> float:  # noqa: N802 (the unit)
    """The longest distance between two atoms, Å: the room that the molecule needs when it turns."""
    return float(atoms.get_all_distances().max())


def box_A(atoms: Atoms) -> float:  # noqa: N802 (the unit)
    """Edge of a cubic box that holds a molecule with `WALL_A` on each side, Å."""
    return math.ceil((longest_distance_A(atoms) + 2 * WALL_A) / STEP_A) * STEP_A


def liquid_density(molecules: Mapping[str, Chem.Mol], counts: Mapping[str, int]) -> float:
    """Density of a liquid near room temperature, g/cm³, to some 10 %, from its atoms' volumes.

    G. S. Girolami, J. Chem. Educ. 71, 962 (1994). The volume of a mixture is the sum of its parts.

    Args:
        molecules: molecules with all hydrogens, by name.
        counts: number of each molecule, by name.
    """
    mass = {name: _mass(molecule) for name, molecule in molecules.items()}
    total = sum(mass[name] * count for name, count in counts.items())
    volume = sum(mass[name] * n / _density(molecules[name]) for name, n in counts.items())
    return total / volume


def _mass(molecule: Chem.Mol) -> float:
    return float(sum(atom.GetMass() for atom in molecule.GetAtoms()))


def _density(molecule: Chem.Mol) -> float:
    volume = sum(
        next(size for number, size in VOLUMES if atom.GetAtomicNum() <= number)
        for atom in molecule.GetAtoms()
    )
    corrected = sum(
        weight * len(molecule.GetSubstructMatches(Chem.MolFromSmarts(group)))
        for group, weight in CORRECTIONS.items()
    )
    rings = molecule.GetRingInfo()
    for index in range(rings.NumRings()):
        corrected += 0.075 if rings.IsRingFused(index) else 0.1
    factor = 1 + min(corrected, MOST_CORRECTED)
    return float(factor * _mass(molecule) / (5 * volume))
