"""A campaign's model in OpenMM, with the CLI monitor on.

    from ase.io import read
    from halcyon.final.monitor.ase import MonitoredMace
    from halcyon.final.monitor.openmm import CliReporter, mace_system, topology
    from openmm import LangevinMiddleIntegrator
    from openmm.app import Simulation

    atoms = read("results/quickstart/ethanol/final/structures/ethanol.xyz")
    calculator = MonitoredMace("results/quickstart/ethanol/final")
    system = mace_system(calculator, atoms)
    simulation = Simulation(topology(atoms), system, LangevinMiddleIntegrator(500, 5, 0.0005))
    simulation.context.setPositions(atoms.positions / 10)
    simulation.reporters.append(CliReporter(calculator, atoms))
    simulation.step(200)  # raises UnreliableDynamics when a threshold is exceeded

The force is an `openmm.PythonForce`: only OpenMM must be installed.

Not for: openmm-ml, whose MACE potential does not give the energies of the atoms.
"""

from typing import Any

import numpy as np
import openmm
from ase import Atoms, units
from openmm import app, unit

from halcyon.final.monitor.ase import Monitor, MonitoredMace

ANGSTROM_PER_NM = 10.0
KJ_PER_MOL = units.kJ / units.mol
"""One kJ/mol, eV."""


def topology(atoms: Atoms) -> app.Topology:
    """OpenMM's topology of some atoms: one residue, no bonds."""
    described = app.Topology()
    residue = described.addResidue("SYS", described.addChain())
    for index, number in enumerate(atoms.numbers):
        element = app.Element.getByAtomicNumber(int(number))
        described.addAtom(f"{element.symbol}{index}", element, residue)
    if atoms.pbc.all():
        described.setPeriodicBoxVectors(atoms.cell.array / ANGSTROM_PER_NM * unit.nanometer)
    return described


def mace_system(calculator: MonitoredMace, atoms: Atoms) -> openmm.System:
    """OpenMM's system of some atoms whose only force is the model's.

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
    """An OpenMM reporter that monitors every step.

    It costs no forward pass of its own: the calculator keeps its last results, and the integrator
    needs them for the next step anyway.
    """

    def __init__(self, calculator: MonitoredMace, atoms: Atoms, **options: Any) -> None:
        """Prepare; the monitor begins with the first report, which tells the time step.

        Args:
            calculator: the calculator that the system was made with.
            atoms: at the start of the run.
            **options: see `monitor.ase.Monitor`.
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
        """Count the step that was made; called by OpenMM.

        Raises:
            UnreliableDynamics: a threshold is exceeded, or the structure has failed, and `action`
                is `stop`.
        """
        _place(self._moving, state)
        self.look(self._moving)


def _place(atoms: Atoms, state: openmm.State) -> None:
    """Give atoms the positions and the cell of a state."""
    positions = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    atoms.set_positions(np.asarray(positions) * ANGSTROM_PER_NM)
    if atoms.pbc.all():
        box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
        atoms.set_cell(np.asarray(box) * ANGSTROM_PER_NM)
