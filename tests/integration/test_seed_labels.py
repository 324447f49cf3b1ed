"""A campaign that starts from labels which another program has written, in hartree and bohr."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.io import write
from tblite.ase import TBLite

from halcyon.frames import read_frames
from halcyon.labels.imported import ImportedLabels, is_imported

RIGHT = {"energy_unit": "Ha", "forces_unit": ["Ha", "bohr"]}
LABELLED = "results/{}/methanol/seed/labels/{:03d}.parquet"


@pytest.fixture(scope="module")
def somebodys(checkout):
    """30 frames of methanol by tblite's own calculator, under names of another tool."""
    random = np.random.default_rng(1)
    frames = []
    for _ in range(30):
        atoms = molecule("CH3OH")
        atoms.positions += random.normal(scale=0.04, size=(6, 3))
        atoms.calc = TBLite(method="GFN2-xTB", accuracy=0.1, verbosity=0)
        frame = Atoms(atoms.numbers, positions=atoms.positions)
        frame.info = {"REF_energy": atoms.get_potential_energy() / units.Hartree}
        frame.info |= {"total_charge": 0}
        frame.arrays["REF_forces"] = atoms.get_forces() / units.Hartree * units.Bohr
        frames.append(frame)
    write(checkout / "somebody.xyz", [*frames, frames[0]], format="extxyz")
    return "somebody.xyz"


def test_labels_that_agree_are_the_seed(checkout, somebodys):
    config = checkout.configure("had", seed_labels={"from": [somebodys], "layout": RIGHT})
    targets = [LABELLED.format("had", shard) for shard in (0, 1)]
    checkout.run(config, *targets)
    summary = ImportedLabels.read(checkout / "results/had/methanol/imported/imported.json")
    assert summary.used == {"methanol": 30}
    assert summary.left_out == {"duplicate": 1}
    assert summary.agreement.frames == 5
    # extxyz has eight decimals of hartree/bohr: 5e-9 Ha/bohr are 3e-4 meV/Å, of bohr lengths more
    assert summary.agreement.force_max_meV_per_A < 1
    frames = [frame for path in targets for frame in read_frames(checkout / path)]
    assert len(frames) == 30
    assert all(frame.info["status"] == "ok" and is_imported(frame) for frame in frames)
    assert {frame.info["paid"] for frame in frames} == {0.0}
    assert "Nothing to be done" in checkout.run(config, "-n", *targets)
    lines = (checkout / somebodys).read_text().splitlines(keepends=True)
    (checkout / somebodys).write_text("".join(lines[:-8]))  # without its last frame
    assert "import_labels" in checkout.run(config, "-n", *targets)


def test_a_wrong_unit_stops_the_campaign_with_the_numbers(checkout, somebodys):
    layout = {"energy_unit": "Ha"}  # and so Ha/Å: 0.529177 of the forces
    config = checkout.configure("wrong", seed_labels={"from": [somebodys], "layout": layout})
    output = checkout.run(config, LABELLED.format("wrong", 0), fails=True)
    assert "the forces are 0.52918 times the reference's" in output
    assert "forces_unit: [Ha, bohr] would fit" in output
    assert not (checkout / "results/wrong/methanol/imported").exists() or not list(
        (checkout / "results/wrong/methanol/imported").iterdir()
    )
