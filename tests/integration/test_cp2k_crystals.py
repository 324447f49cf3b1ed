"""k-points and smeared electrons through the real CP2K: aluminium, two atoms, 4 s a label.

The references are slopes of CP2K's own energies, and a supercell without k-points along one
direction. Grid and basis are coarse, for speed.
"""

import numpy as np
import pytest
import yaml
from ase import Atoms

from conftest import ROOT
from halcyon.config import Cp2kReference
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.stress import GPA

pytestmark = [
    pytest.mark.cp2k,
]

SPACING = 1.6
"""1/Å: two points along the short vectors of the cell, one along the long one."""
STEP_A, STRAIN = 0.01, 0.005


@pytest.fixture(scope="module")
def level(tmp_path_factory):
    """The shipped level for solids, with smearing, on a coarse grid, in a small basis."""
    content = yaml.safe_load((ROOT / "config/cp2k/pbe-solid.yaml").read_text())
    dft = content["force_eval"]["dft"]
    dft["mgrid"]["cutoff"] = 190  # 24 points along the short vectors, 48 along two of them
    dft["scf"] |= {
        "added_mos": -1,
        "smear": {"method": "FERMI_DIRAC", "electronic_temperature": 3000},
    }
    kinds = content["force_eval"]["subsys"]["kind"]
    content["force_eval"]["subsys"]["kind"] = {
        "Al": kinds["Al"] | {"basis_set": "SZV-MOLOPT-SR-GTH"}
    }
    path = tmp_path_factory.mktemp("level") / "level.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def aluminium():
    """Face-centred cubic, its tetragonal cell, one atom away from its site."""
    atoms = Atoms("Al2", [[0, 0, 0], [1.58, 1.38, 2.125]], cell=[2.86, 2.86, 4.05], pbc=True)
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "aluminium"}
    return atoms


def moved(position=0.0, strain=0.0):
    atoms = aluminium()
    atoms.positions[1, 0] += position
    stretch = np.diag([1 + strain, 1, 1])
    atoms.set_cell(atoms.cell.array @ stretch, scale_atoms=True)
    return atoms


def test_forces_and_stress_are_slopes_of_the_energy_that_is_kept(level, tmp_path):
    backend = make_reference(
        Cp2kReference(backend="cp2k", level=level, k_spacing_per_A=SPACING), stress=True
    )
    frames = [
        aluminium(),
        moved(position=STEP_A),
        moved(position=-STEP_A),
        moved(strain=STRAIN),
        moved(strain=-STRAIN),
        aluminium().repeat((2, 1, 1)),
    ]
    frames[-1].info = aluminium().info
    middle, right, left, longer, shorter, double = backend.label(frames, tmp_path, 1)
    assert all(r.status is Status.OK for r in (middle, right, left, longer, shorter, double))
    force = -(right.energy - left.energy) / (2 * STEP_A)
    assert abs(force) > 1
    # The energy has the entropy of the smeared electrons in it, as the forces have.
    assert middle.forces[1, 0] == pytest.approx(force, abs=0.005)
    stress = (longer.energy - shorter.energy) / (2 * STRAIN) / aluminium().get_volume()
    assert abs(stress) > 10 * GPA
    assert middle.stress[0] == pytest.approx(stress, abs=0.02 * GPA)
    # Two k-points along a vector, around Γ, are one of twice the vector.
    assert double.energy / 2 == pytest.approx(middle.energy, abs=1e-5)
    assert np.allclose(double.forces[:2], middle.forces, atol=1e-4)
    assert np.allclose(double.stress, middle.stress, atol=1e-3 * GPA)


def test_a_rescued_label_with_k_points_is_that_of_the_level(level, tmp_path):
    """Too few steps at first: the density of a rung is where the level's own SCF goes on."""
    content = yaml.safe_load(level.read_text())
    content["force_eval"]["dft"]["scf"]["max_scf"] = 6
    impatient = tmp_path / "impatient.yaml"
    impatient.write_text(yaml.safe_dump(content))
    records = []
    for path, rescue in ((level, []), (impatient, ["conjugate_gradients", "more_steps"])):
        backend = make_reference(
            Cp2kReference(backend="cp2k", level=path, k_spacing_per_A=SPACING, rescue=rescue)
        )
        (record,) = backend.label([aluminium()], tmp_path / path.stem, 1)
        records.append(record)
    straight, rescued = records
    assert rescued.status is Status.OK
    assert (straight.rung, rescued.rung) == (0, 2)  # the first is not possible with k-points
    assert rescued.energy == pytest.approx(straight.energy, abs=1e-5)
    assert np.allclose(rescued.forces, straight.forces, atol=1e-4)
    assert not [*tmp_path.rglob("frame-RESTART.kp"), *tmp_path.rglob("guess.wfn")]
