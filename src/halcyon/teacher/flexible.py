"""Is a teacher's system flexible: does it hold every bond and angle by a term, and none rigidly?

    import numpy as np
    from halcyon.config import StructureSettings
    from halcyon.systems import bonds
    from halcyon.teacher.flexible import check_flexible

    pairs = bonds(StructureSettings(name="ethanol", smiles="CCO"), start)
    order = np.arange(len(start))
    check_flexible(teacher.system, start, pairs, order, where="small-molecules.xml")

Not for: making the system (see `forcefield`).
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import openmm
from ase import Atoms

from halcyon.errors import InputError

RIGID = (
    ". The force field is rigid or incomplete; a teacher needs a flexible term for every bond and "
    "angle (for water, use amber14/tip3p.xml)"
)


def check_flexible(
    system: openmm.System,
    atoms: Atoms,
    bonds: Sequence[tuple[int, int]],
    order: np.ndarray,
    *,
    where: str,
) -> None:
    """Refuse a system with virtual sites or constraints, or without a term for a bond or angle.

    Args:
        system: to be checked.
        atoms: the structure.
        bonds: pairs of its bonded atoms.
        order: of each particle, the index of its atom, shape (N,).
        where: begins the message.

    Raises:
        InputError: the message names the bonds or angles.
    """
    if system.getNumParticles() != len(atoms):
        raise InputError(
            f"{where}: it has {system.getNumParticles() - len(atoms)} particles that are no atoms "
            "(virtual sites or Drude particles), which no model can learn. Use a force field with "
            "charges on the atoms, e.g. amber14/tip3p.xml for water"
        )
    held = {frozenset(order[list(pair)].tolist()) for pair in _terms(system, "Bond", 2)}
    bent = {tuple(order[list(three)].tolist()) for three in _terms(system, "Angle", 3)}
    symbols = atoms.get_chemical_symbols()
    loose = {
        "-".join(sorted((symbols[i], symbols[j])))
        for i, j in bonds
        if frozenset((i, j)) not in held
    }
    if loose:
        raise InputError(f"{where}: no term for the bonds {', '.join(sorted(loose))}{RIGID}")
    if any(isinstance(force, openmm.CustomCompoundBondForce) for force in system.getForces()):
        return  # such a force may hold the angles
    hinged = {
        "-".join((min(symbols[i], symbols[k]), symbols[j], max(symbols[i], symbols[k])))
        for i, j, k in _angles(bonds)
        if not {(i, j, k), (k, j, i)} & bent and frozenset((i, k)) not in held
    }
    if hinged:
        raise InputError(f"{where}: no term for the angles {', '.join(sorted(hinged))}{RIGID}")
    if system.getNumConstraints():
        raise InputError(f"{where}: it has {system.getNumConstraints()} rigid constraints{RIGID}")


def _terms(system: openmm.System, term: str, size: int) -> Iterator[tuple[int, ...]]:
    """Particles of all terms called `term` (`Bond` or `Angle`), `size` of them in each."""
    for force in system.getForces():
        parameters = getattr(force, f"get{term}Parameters", None)
        if parameters and not isinstance(force, openmm.CustomCompoundBondForce):
            for index in range(getattr(force, f"getNum{term}s")()):
                yield tuple(parameters(index)[:size])


def _angles(bonds: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Triples of atoms i-j-k along two bonds."""
    around: dict[int, list[int]] = {}
    for i, j in bonds:
        around.setdefault(i, []).append(j)
        around.setdefault(j, []).append(i)
    for middle, ends in around.items():
        for i, k in combinations(ends, 2):
            yield i, middle, k
