"""Heating in ASE that stops when predictions leave the training domain, before a bond breaks.

python examples/ase_md.py results/quickstart/ethanol/final ethanol 300 200    from 300 K, 200 K/ps
"""

import sys

import numpy as np
from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta

from halcyon.final.monitor.ase import CliMonitor, MonitoredMace

folder, structure, kelvin, heating = *sys.argv[1:3], *map(float, sys.argv[3:5])
atoms = read(f"{folder}/structures/{structure}.xyz")
atoms.calc = MonitoredMace(folder)
thermalize_momenta(atoms, temperature_K=kelvin, rng=(random := np.random.default_rng(1)))
options = {"friction": 0.005 / units.fs, "fixcm": False, "rng": random}
dynamics = Langevin(atoms, 0.5 * units.fs, temperature_K=kelvin, **options)


def heat() -> None:
    """Raise the thermostat with time."""
    dynamics.set_temperature(temperature_K=kelvin + heating * dynamics.nsteps * 0.0005)


dynamics.attach(heat)
monitor = CliMonitor(atoms, dynamics, frame="unreliable.xyz")
dynamics.run(20_000)
print(monitor.summary())
