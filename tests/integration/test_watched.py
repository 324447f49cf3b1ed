"""The examples, heated out of what a campaign's model knows: they stop before a bond breaks.

Without the monitor the same runs go on until one does. How often this holds, and for which models,
is measured in docs/production.md.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read

from conftest import ROOT

FROM_K, HEATING = "300", "500"
"""K and K/ps."""
WHOLE_A, BROKEN_A = 0.3, 0.5
"""Furthest that a bond may be off: on average over `VIBRATION_STEPS`, and at any moment."""
VIBRATION_STEPS = 60
"""30 fs: some three vibrations of a C–H bond, one of C–O."""
LEAD_STEPS = 100
BONDS = [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5)]
"""Of methanol in the campaign's order: C, O, the methyl's hydrogens, the hydroxyl's."""
LENGTHS = [molecule("CH3OH").get_distance(i, j) for i, j in [(0, 1), *[(0, 2)] * 3, (1, 3)]]
"""ASE's, Å: nothing of what the monitor looks at."""
UNWATCHED = {
    "ase_md.py": {
        'monitor = CliMonitor(atoms, dynamics, frame="unreliable.xyz")': "dynamics.attach("
        'lambda: atoms.write("control.xyz", append=True))',
        "run(20_000)": "run(10_000)",
    },
    "openmm_md.py": {
        "simulation.reporters.append(monitor := CliReporter(calculator, atoms, "
        'frame="unreliable.xyz"))': "from openmm.app import PDBReporter; "
        'simulation.reporters.append(PDBReporter("control.pdb", 1))',
        "range(200)": "range(100)",
    },
}
"""What makes each example its own control: positions are written, and nobody looks."""


@pytest.fixture(scope="session")
def folder(checkout):
    """A model with sensible forces: pre-trained, and fine-tuned to 20 frames of 300 to 500 K."""
    config = checkout.configure(
        "watched",
        model={"r_max_A": 3.5},
        teacher={
            "md_frames": 150,
            "displaced_frames": 30,
            "stretched_frames": 20,
            "contact_frames": 10,
            "temperatures_K": [300.0, 600.0, 1200.0],
        },
        pretraining={"epochs": 12},
        training={"epochs": 90, "updates": [900, 4000]},
        seed_labels={"train": 20, "validation": 15, "test": 5},
        exploration={"temperatures_K": [500.0], "replicas": 4, "time_ps": 1.0},
        limits={"max_generations": 1},
        certificate={"when": "never"},
    )
    checkout.run(config)
    return checkout / "results/watched/methanol/final"


def run(script, folder, cwd):
    return subprocess.run(
        [sys.executable, script, folder, "methanol", FROM_K, HEATING],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def stretches(frames):
    """Deviations of the bonds from their lengths, Å: a row per frame."""
    found = [[frame.get_distance(*bond) for bond in BONDS] for frame in frames]
    return np.array(found) - LENGTHS


@pytest.mark.parametrize("name", UNWATCHED)
def test_it_stops_while_the_molecule_is_whole_and_unwatched_a_bond_breaks(name, folder, tmp_path):
    example = ROOT / "examples" / name
    done = run(example, folder, tmp_path)
    assert done.returncode == 1, done.stderr
    assert "UnreliableDynamics: λ" in done.stderr, done.stderr  # not: a bond broken
    stopped = read(tmp_path / "unreliable.xyz")
    assert np.abs(stretches([stopped])).max() < BROKEN_A

    text = example.read_text().replace("print(monitor.summary())", "")
    for watched, unwatched in UNWATCHED[name].items():
        assert watched in text
        text = text.replace(watched, unwatched)
    (tmp_path / name).write_text(text)
    done = run(tmp_path / name, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("control.*")
    control = [
        frame for frame in read(path, ":") if len(frame)
    ]  # a PDB file ends with an empty one
    apart = [np.abs(frame.positions - stopped.positions).max() for frame in control]
    stop = int(np.argmin(apart))
    assert apart[stop] < 2e-3  # the same run: a PDB file has 1e-3 Å
    stretch = stretches(control)
    furthest = np.abs(stretch).max(axis=1)
    broken = int(np.argmax(furthest > BROKEN_A))
    said = f"stopped at step {stop}, {furthest[stop]:.2f} Å; broken at step {broken}"
    assert furthest[broken] > BROKEN_A, "it never broke: no control"
    assert np.abs(stretch[stop - VIBRATION_STEPS : stop + 1].mean(axis=0)).max() < WHOLE_A, said
    assert broken > stop + LEAD_STEPS, said
