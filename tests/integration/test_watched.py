"""The examples, heated out of what the quickstart's model knows: they stop before a bond breaks.

Without the monitor the same run goes on until one does. How often this holds, and for which
models, is measured in docs/production.md: slower heating and better models leave more time.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read

from conftest import ROOT

FROM_K, HEATING = "300", "200"
"""K and K/ps."""
WHOLE_A, BROKEN_A = 0.35, 0.5
"""Furthest that a bond may be off: by thermal motion above 1000 K, and before it has failed."""
LEAD_STEPS = 1000
"""0.5 ps, of the 3.3 or more that were measured."""
BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]
"""Of ethanol in the campaign's order: as in the SMILES CCO, and then its hydrogens."""
ETHANOL = molecule("CH3CH2OH")
LENGTHS = [ETHANOL.get_distance(*bond) for bond in [(0, 1), (1, 2), *[(0, 6)] * 5, (2, 3)]]
"""ASE's, Å, in its own order of atoms: nothing of what the monitor looks at."""
UNWATCHED = {
    'monitor = CliMonitor(atoms, dynamics, frame="unreliable.xyz")': "dynamics.attach("
    'lambda: atoms.write("control.xyz", append=True))',
    "dynamics.run(20_000)": "while dynamics.nsteps < 30_000 and max(atoms.get_distance(*bond) "
    f"for bond in {BONDS}) < 3:\n    dynamics.run(100)",
    "print(monitor.summary())": "",
}
"""What makes the example its own control: positions are written, and nobody looks."""


@pytest.fixture(scope="session")
def folder(checkout):
    checkout.run("config/quickstart.yaml")
    return checkout / "results/quickstart/ethanol/final"


def run(script, folder, cwd):
    return subprocess.run(
        [sys.executable, script, folder, "ethanol", FROM_K, HEATING],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def furthest(atoms):
    """Greatest deviation of a bond, Å."""
    return max(abs(atoms.get_distance(*bond) - r) for bond, r in zip(BONDS, LENGTHS, strict=True))


def stopped_by_lambda(name, folder, cwd):
    done = run(ROOT / "examples" / name, folder, cwd)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "UnreliableDynamics: λ" in done.stderr, done.stderr  # not: a bond broken
    stopped = read(cwd / "unreliable.xyz")
    assert furthest(stopped) < WHOLE_A
    return stopped


def test_in_ase_it_stops_while_the_molecule_is_whole_and_unwatched_a_bond_breaks(folder, tmp_path):
    stopped = stopped_by_lambda("ase_md.py", folder, tmp_path)

    text = (ROOT / "examples/ase_md.py").read_text()
    for watched, unwatched in UNWATCHED.items():
        assert watched in text
        text = text.replace(watched, unwatched)
    (tmp_path / "control.py").write_text(text)
    done = run(tmp_path / "control.py", folder, tmp_path)
    assert done.returncode == 0, done.stderr
    control = read(tmp_path / "control.xyz", ":")
    apart = [np.abs(frame.positions - stopped.positions).max() for frame in control]
    stop = int(np.argmin(apart))
    assert apart[stop] < 1e-6  # until the stop it is the same run
    stretch = np.array([furthest(frame) for frame in control])
    broken = int(np.argmax(stretch > BROKEN_A))
    assert stretch[broken] > BROKEN_A, "it never broke: no control"
    assert broken > stop + LEAD_STEPS, f"stopped at step {stop}, broken at step {broken}"


def test_in_openmm_it_stops_while_the_molecule_is_whole(folder, tmp_path):
    stopped_by_lambda("openmm_md.py", folder, tmp_path)
