"""Molecular dynamics in ASE that stops where the model no longer knows what it meets.

python examples/ase_md.py results/quickstart/ethanol/final ethanol 500
"""

import sys

from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from halcyon.calculator import CliMonitor, MonitoredMace

folder, structure, kelvin = sys.argv[1], sys.argv[2], float(sys.argv[3])
atoms = read(f"{folder}/structures/{structure}.xyz")
atoms.calc = MonitoredMace(folder)
thermalize_momenta(atoms, temperature_K=kelvin)
friction = 0.005 / units.fs
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=kelvin, friction=friction, fixcm=False)
monitor = CliMonitor(atoms, dynamics, frame="unreliable.xyz")
dynamics.run(2000)
print(monitor.summary())
