"""The examples, heated out of what the quickstart's first model knows: they stop in time.

Without the monitor the same run goes on until one does. How often this holds, and for which
models, is measured in docs/production.md: slower heating and better models leave more time.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase.build import molecule
from ase.io import read

from conftest import ROOT

FROM_K, HEATING = "300", "200"
"""K and K/ps."""
BROKEN_A = 0.5
"""A bond so far off its length is broken, as in the campaign."""
LEAD_STEPS = 1000
"""For 0.5 ps more at least, unwatched, no bond is broken: at the stop the molecule was whole."""
BONDS = [(0, 1), (1, 2), (0, 3), (0, 4), (0, 5), (1, 6), (1, 7), (2, 8)]
"""Of ethanol in the campaign's order: as in the SMILES CCO, and then its hydrogens."""
ETHANOL = molecule("CH3CH2OH")
LENGTHS = [ETHANOL.get_distance(*bond) for bond in [(0, 1), (1, 2), *[(0, 6)] * 5, (2, 3)]]
"""ASE's, Å, in its own order of atoms: nothing of what the monitor looks at."""
WHOLE = f"max(atoms.get_distance(*bond) for bond in {BONDS}) < 3"
UNWATCHED = {
    "ase_md.py": {
        'monitor = CliMonitor(atoms, dynamics, frame="unreliable.xyz")': "dynamics.attach("
        'lambda: atoms.write("control.xyz", append=True))',
        "dynamics.run(20_000)": f"while dynamics.nsteps < 30_000 and {WHOLE}:\n"
        "    dynamics.run(100)",
    },
    "openmm_md.py": {
        "simulation.reporters.append(monitor := CliReporter(calculator, atoms, "
        'frame="unreliable.xyz"))': "from openmm.app import PDBReporter; "
        'simulation.reporters.append(PDBReporter("control.pdb", 1))',
        "range(200)": "range(300)",
        "    simulation.step(100)": "    simulation.step(100)\n"
        "    now = simulation.context.getState(getPositions=True).getPositions(asNumpy=True)\n"
        "    atoms.positions = now._value * 10\n"
        f"    if not {WHOLE}:\n        break",
    },
}
"""What makes each example its own control: positions are written, and nobody looks."""


@pytest.fixture(scope="session")
def folder(checkout):
    """The quickstart's first model: pre-trained, and fine-tuned to 20 frames of 300 to 500 K."""
    content = yaml.safe_load((checkout / "config/quickstart.yaml").read_text())
    content |= {"campaign": "watched", "certificate": {"when": "never"}}
    content["exploration"]["time_ps"] = 2.0
    content["limits"]["max_generations"] = 1
    (checkout / "watched.yaml").write_text(yaml.safe_dump(content))
    checkout.run("watched.yaml")
    return checkout / "results/watched/ethanol/final"


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


@pytest.mark.parametrize("name", UNWATCHED)
def test_it_stops_while_the_molecule_is_whole_and_unwatched_a_bond_breaks(name, folder, tmp_path):
    example = ROOT / "examples" / name
    done = run(example, folder, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "UnreliableDynamics: λ" in done.stderr, done.stderr  # not: a bond broken
    stopped = read(tmp_path / "unreliable.xyz")

    text = example.read_text().replace("print(monitor.summary())", "")
    for watched, unwatched in UNWATCHED[name].items():
        assert watched in text
        text = text.replace(watched, unwatched)
    (tmp_path / name).write_text(text)
    done = run(tmp_path / name, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("control.*")
    control = [frame for frame in read(path, ":") if len(frame)]  # a PDB file ends with none
    apart = [np.abs(frame.positions - stopped.positions).max() for frame in control]
    stop = int(np.argmin(apart))
    assert apart[stop] < 2e-3  # until the stop it is the same run; a PDB file has 1e-3 Å
    stretch = np.array([furthest(frame) for frame in control])
    broken = int(np.argmax(stretch > BROKEN_A))
    assert stretch[broken] > BROKEN_A, "it never broke: no control"
    assert broken > stop + LEAD_STEPS, f"stopped at step {stop}, broken at step {broken}"
