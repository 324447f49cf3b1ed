"""A campaign's model in OpenMM, with the CLI monitor on.

    calculator = MonitoredMace("results/quickstart/ethanol/final")
    system = mace_system(calculator, atoms)
    simulation = Simulation(topology(atoms), system, LangevinMiddleIntegrator(500, 5, 0.0005))
    simulation.context.setPositions(atoms.positions / 10)
    simulation.reporters.append(CliReporter(calculator, atoms))
    simulation.step(20_000)  # raises UnreliableDynamics where a threshold is passed

The force is an `openmm.PythonForce`: nothing need be installed besides OpenMM.

Not for: openmm-ml, whose MACE potential does not tell the energies of atoms.
"""

from typing import Any

import numpy as np
import openmm
from ase import Atoms, units
from openmm import app, unit

from halcyon.final.monitor.ase import Monitor, MonitoredMace

ANGSTROM_PER_NM = 10.0
KJ_PER_MOL = units.kJ / units.mol
"""In eV."""


def topology(atoms: Atoms) -> app.Topology:
    """OpenMM's topology of some atoms: one residue, no bonds."""
    found = app.Topology()
    residue = found.addResidue("SYS", found.addChain())
    for index, number in enumerate(atoms.numbers):
        element = app.Element.getByAtomicNumber(int(number))
        found.addAtom(f"{element.symbol}{index}", element, residue)
    if atoms.pbc.all():
        found.setPeriodicBoxVectors(atoms.cell.array / ANGSTROM_PER_NM * unit.nanometer)
    return found


def mace_system(calculator: MonitoredMace, atoms: Atoms) -> openmm.System:
    """OpenMM's system of some atoms, moved by the model alone.

    Raises:
        InputError: the atoms are none of the domain's structures.
    """
    calculator.watched(atoms)
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(float(mass))
    moving = atoms.copy()

    def compute(state: openmm.State) -> tuple[float, np.ndarray]:
        _place(moving, state)
        energy = calculator.get_property("energy", moving)
        forces = calculator.get_property("forces", moving)
        return energy / KJ_PER_MOL, forces / KJ_PER_MOL * ANGSTROM_PER_NM

    force = openmm.PythonForce(compute)
    if atoms.pbc.all():
        force.setUsesPeriodicBoundaryConditions(True)
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / ANGSTROM_PER_NM))
    system.addForce(force)
    return system


class CliReporter(Monitor):
    """An OpenMM reporter that looks at every step.

    The forward pass that it looks at is the one that the next step needs anyway: the calculator
    keeps its last answer.
    """

    def __init__(self, calculator: MonitoredMace, atoms: Atoms, **options: Any) -> None:
        """Begin; the time step is known with the first report.

        Args:
            calculator: the one that the system was made with.
            atoms: at their start.
            **options: see `calculator.Monitor`.
        """
        self._calculator, self._moving, self._options = calculator, atoms.copy(), options
        self._begun = False

    def describeNextReport(self, simulation: app.Simulation) -> dict[str, Any]:  # noqa: N802, D102
        if not self._begun:
            step = simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
            super().__init__(self._calculator, self._moving, timestep_ps=step, **self._options)
            self._begun = True
        return {"steps": 1, "periodic": False, "include": ["positions"]}

    def report(self, simulation: app.Simulation, state: openmm.State) -> None:  # noqa: ARG002
        """Look at the step that was made; called by OpenMM.

        Raises:
            UnreliableDynamics: a threshold is passed, and the monitor is to stop.
        """
        _place(self._moving, state)
        self.look(self._moving)


def _place(atoms: Atoms, state: openmm.State) -> None:
    """Move atoms, and their cell, to where a state has them."""
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    atoms.set_positions(np.asarray(positions) * ANGSTROM_PER_NM)
    if atoms.pbc.all():
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        atoms.set_cell(np.asarray(box) * ANGSTROM_PER_NM)
