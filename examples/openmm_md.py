"""Heating in OpenMM that stops when predictions leave the model's training domain.

python examples/openmm_md.py results/quickstart/ethanol/final ethanol 300 200   from 300 K, 200 K/ps
"""

import sys

from ase.io import read
from openmm import LangevinMiddleIntegrator, Platform
from openmm.app import Simulation

from halcyon.final.monitor.ase import MonitoredMace
from halcyon.final.monitor.openmm import CliReporter, mace_system, topology

folder, structure, kelvin, heating = *sys.argv[1:3], *map(float, sys.argv[3:5])
atoms = read(f"{folder}/structures/{structure}.xyz")
calculator = MonitoredMace(folder)
system, cpu = mace_system(calculator, atoms), Platform.getPlatformByName("Reference")
integrator = LangevinMiddleIntegrator(kelvin, 5.0, 0.0005)  # K, 1/ps, ps
integrator.setRandomNumberSeed(1)
simulation = Simulation(topology(atoms), system, integrator, cpu)
simulation.context.setPositions(atoms.positions / 10)  # nm
simulation.context.setVelocitiesToTemperature(kelvin, 1)
simulation.reporters.append(monitor := CliReporter(calculator, atoms, frame="unreliable.xyz"))
for block in range(200):  # of 0.05 ps
    integrator.setTemperature(kelvin + heating * block * 0.05)
    simulation.step(100)
print(monitor.summary())
