"""The stress of a label: which frames have one, its units, and its six numbers.

    import numpy as np
    from halcyon.labels.stress import converted, pressure, voigt

    compressed = -0.5 * np.eye(3)  # GPa, tension positive
    stress = voigt(converted(compressed, "GPa"))  # six numbers, eV/Å³
    pressure(stress)  # 0.5

A stress is the derivative of the energy by strain, over the volume: eV/Å³, positive where the cell
would shrink (tension). Its six numbers are xx, yy, zz, yz, xz, xy. Units and sign are ASE's.

Not for: computing a stress (`reference`), or whether one can be trusted (`finite_difference`).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms, units
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

GPA = float(units.GPa)
"""A gigapascal in eV/Å³."""
UNITS: Mapping[str, float] = {
    "eV/A^3": 1.0,
    "GPa": GPA,
    "kbar": 0.1 * GPA,
    "bar": 1e-4 * GPA,
    "Ha/bohr^3": units.Hartree / units.Bohr**3,
}
"""Units of stress in eV/Å³."""


def is_possible(atoms: Atoms) -> bool:
    """Whether a frame can have a stress: it is periodic in three directions."""
    return bool(atoms.pbc.all()) and atoms.cell.rank == 3


def lacks(frame: Atoms) -> bool:
    """Whether a labelled frame could have a stress and has none."""
    return is_possible(frame) and "energy" in frame.info and "stress" not in frame.info


def voigt(tensor: np.ndarray) -> list[float]:
    """Six numbers of a symmetric tensor, shape (3, 3)."""
    return [float(value) for value in full_3x3_to_voigt_6_stress(np.asarray(tensor, dtype=float))]


def tensor(stress: Sequence[float]) -> np.ndarray:
    """Symmetric tensor, shape (3, 3), of six numbers."""
    full: np.ndarray = voigt_6_to_full_3x3_stress(np.asarray(stress, dtype=float))
    return full


def converted(stress: np.ndarray, unit: str) -> np.ndarray:
    """A stress in eV/Å³, given in one of `UNITS`."""
    return np.asarray(stress, dtype=float) * UNITS[unit]


def pressure(stress: Sequence[float]) -> float:
    """Pressure, GPa, of a stress in eV/Å³."""
    return -float(np.mean(stress[:3])) / GPA
