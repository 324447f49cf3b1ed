"""Molecular dynamics in OpenMM that stops where the model no longer knows what it meets.

python examples/openmm_md.py results/quickstart/ethanol/final ethanol 500
"""

import sys

from ase.io import read
from openmm import LangevinMiddleIntegrator, Platform
from openmm.app import Simulation

from halcyon.calculator import MonitoredMace
from halcyon.openmm_monitor import CliReporter, mace_system, topology

folder, structure, kelvin = sys.argv[1], sys.argv[2], float(sys.argv[3])
atoms = read(f"{folder}/structures/{structure}.xyz")
calculator = MonitoredMace(folder)
system, cpu = mace_system(calculator, atoms), Platform.getPlatformByName("Reference")
integrator = LangevinMiddleIntegrator(kelvin, 5.0, 0.0005)  # K, 1/ps, ps
simulation = Simulation(topology(atoms), system, integrator, cpu)
simulation.context.setPositions(atoms.positions / 10)  # nm
simulation.context.setVelocitiesToTemperature(kelvin)
simulation.reporters.append(monitor := CliReporter(calculator, atoms, frame="unreliable.xyz"))
simulation.step(2000)
print(monitor.summary())
