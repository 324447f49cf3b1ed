"""tblite's calculator of one frame: extended tight binding, the same for labels and teachers.

    from halcyon.teacher import tight_binding

    start.info["multiplicity"]  # 1
    calculator = tight_binding.calculator(start, "GFN2-xTB")
    calculator.singlepoint().get("energy")  # hartree

GFN1-xTB: S. Grimme, C. Bannwarth, P. Shushkov, J. Chem. Theory Comput. 13, 1989 (2017). GFN2-xTB:
C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019). IPEA1-xTB:
V. Ásgeirsson, C. A. Bauer, S. Grimme, Chem. Sci. 8, 4879 (2017). With spin polarisation:
H. Neugebauer, B. Bädorf, S. Ehlert, A. Hansen, S. Grimme, J. Comput. Chem. 44, 2120 (2023).

Not for: what becomes of a failed calculation (`labels.reference.xtb`, `teacher.calculators`).
"""

from collections.abc import Mapping

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree, kB
from tblite.interface import Calculator

HEAVIEST = 86
"""Atomic number of the last element with parameters, radon, in all Hamiltonians."""
SPIN_SCALE = 1.0
"""Factor of the spin constants; 1 is the published method."""
ELECTRONIC_TEMPERATURE_K = 300.0
"""tblite's default: orbitals are filled as at this temperature."""


def calculator(
    atoms: Atoms,
    method: str,
    *,
    accuracy: float = 1.0,
    max_iterations: int = 250,
    spin_polarized: bool = False,
    electronic_temperature_K: float = ELECTRONIC_TEMPERATURE_K,
    rescue: Mapping[str, float] | None = None,
) -> Calculator:
    """A silent calculator.

    Args:
        atoms: the frame, with `info` keys charge and multiplicity.
        method: the Hamiltonian.
        accuracy: of the SCF; smaller is tighter.
        max_iterations: SCF steps before it gives up.
        spin_polarized: whether each spin has its own orbitals.
        electronic_temperature_K: by which orbitals are filled. The energy is then the free energy
            of the electrons, whose derivatives are forces and virial.
        rescue: tblite's settings of how the SCF is converged; it has its own for what is not here.

    Raises:
        RuntimeError: tblite's own, where two atoms lie on top of each other.
    """
    made = Calculator(
        method,
        atoms.numbers,
        atoms.positions / Bohr,
        charge=atoms.info["charge"],
        uhf=atoms.info["multiplicity"] - 1,
        # A molecule's cell is a box that other programs need; tblite needs none.
        lattice=atoms.cell.array / Bohr if atoms.pbc.all() else None,
        periodic=atoms.pbc if atoms.pbc.all() else None,
    )
    made.set("verbosity", 0)
    made.set("accuracy", accuracy)
    made.set("max-iter", max_iterations)
    if electronic_temperature_K != ELECTRONIC_TEMPERATURE_K:  # tblite's default is a rounded 300 K
        made.set("temperature", electronic_temperature_K * kB / Hartree)
    for name, value in (rescue or {}).items():
        made.set(name, value)
    if spin_polarized:
        made.add("spin-polarization", SPIN_SCALE)
    return made


def fault(atoms: Atoms, method: str) -> str:
    """Why tblite cannot compute the frame, whatever its spin; empty if it can.

    Without a warning, tblite 0.8.0 itself treats partial periodicity as full.
    """
    if not np.isfinite(atoms.positions).all():
        return "a position is not a finite number"
    if atoms.pbc.any() and not atoms.pbc.all():
        return f"pbc = {atoms.pbc.tolist()}: expected periodic along all three vectors or none"
    heavy = sorted({atom.symbol for atom in atoms if atom.number > HEAVIEST})
    if heavy:
        return (
            f"element {', '.join(heavy)}: {method} has parameters up to Rn (Z = {HEAVIEST}). "
            "Expected another method for this system, e.g. an ASE calculator"
        )
    return ""
