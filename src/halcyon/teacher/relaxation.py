"""Downhill on a teacher's potential: before its dynamics, and while two atoms are pushed together.

    import openmm
    from halcyon.teacher.relaxation import minimise, positions_of

    context = teacher.context(openmm.VerletIntegrator(0.0005))
    teacher.place(context, start)
    minimise(teacher, context)
    positions_of(context)  # Å

OpenMM's minimiser tries first steps that put atoms on top of each other, where a force field is
merely stiff and no program converges. Teachers that are computed by a program go by ASE's, whose
steps are short.

Not for: geometries to compare with experiment, or reference energies.
"""

import os
from typing import Any, ClassVar

import numpy as np
import openmm
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import FixAtoms
from ase.optimize import LBFGS
from openmm import unit

from halcyon.teacher.forcefield import Teacher
from halcyon.teacher.openmm_units import KJ_PER_MOL, NM

TOLERANCE_eV_PER_A = 0.05
"""Largest force, eV/Å, that is left where a program computes the forces."""
LARGEST_STEP_A = 0.1
MOST_STEPS = 200


def minimise(
    teacher: Teacher,
    context: openmm.Context,
    *,
    steps: int | None = None,
    tolerance_eV_per_A: float = TOLERANCE_eV_PER_A,
) -> None:
    """Move the positions of a context downhill.

    Args:
        teacher: whose context it is.
        context: with the positions to begin at; other forces than the teacher's act, too.
        steps: at most so many; None: as many as it takes, up to `MOST_STEPS` with a program.
        tolerance_eV_per_A: largest force that is left, with a program.

    Raises:
        openmm.OpenMMException: the program failed, or a position is not finite.
    """
    if not teacher.program:
        openmm.LocalEnergyMinimizer.minimize(context, maxIterations=steps or 0)
        return
    atoms = Atoms(teacher.numbers, positions=positions_of(context))
    atoms.calc = _OfContext(context)
    atoms.set_constraint(FixAtoms(mask=teacher.fixed))
    descent = LBFGS(atoms, logfile=os.devnull, maxstep=LARGEST_STEP_A)
    descent.run(fmax=tolerance_eV_per_A, steps=steps or MOST_STEPS)
    context.setPositions(atoms.positions / NM)


class _OfContext(Calculator):
    """Energy and forces of a context, for ASE's optimisers."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]

    def __init__(self, context: openmm.Context) -> None:
        super().__init__()
        self._context = context

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Any = None,
        system_changes: Any = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        if atoms is not None:
            self._context.setPositions(atoms.positions / NM)
        state = self._context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(
            unit.kilojoule_per_mole / unit.nanometer
        )
        self.results = {"energy": energy * KJ_PER_MOL, "forces": forces * (KJ_PER_MOL / NM)}


def positions_of(context: openmm.Context) -> np.ndarray:
    """Positions in OpenMM's order of atoms and orientation, Å, shape (N, 3).

    Raises:
        openmm.OpenMMException: a position is infinite or NaN.
    """
    state = context.getState(positions=True)
    positions: np.ndarray = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer) * NM
    if not np.isfinite(positions).all():  # the Reference platform raises nothing
        raise openmm.OpenMMException("coordinates are not finite")
    return positions
