"""What every label backend must do. A new backend is one more entry in `BACKENDS`."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule

from halcyon.config import (
    AseReference,
    Cp2kReference,
    DatasetReference,
    PyscfReference,
    XtbReference,
)
from halcyon.labels.reference import Status, make_reference

DATA = Path(__file__).parent.parent / "data"

SMALL_LEVEL = DATA / "cp2k" / "small.yaml"
BACKENDS = [
    pytest.param(XtbReference(backend="xtb"), id="xtb"),
    pytest.param(
        AseReference(
            backend="ase",
            calculator="tblite.ase.TBLite",
            arguments={"method": "GFN1-xTB", "verbosity": 0},
        ),
        id="ase",
    ),
    pytest.param(PyscfReference(backend="pyscf", level=DATA / "pyscf" / "small.yaml"), id="pyscf"),
    pytest.param(
        DatasetReference(backend="dataset", files=[DATA / "published" / "hydrogen.xyz"]),
        id="dataset",
    ),
    pytest.param(
        Cp2kReference(backend="cp2k", level=SMALL_LEVEL),
        id="cp2k",
        marks=pytest.mark.cp2k,
    ),
]


@pytest.fixture(params=BACKENDS)
def reference(request):
    return make_reference(request.param)


def hydrogen(bond, multiplicity=1):
    atoms = molecule("H2", cell=[6.0] * 3)
    atoms.set_distance(0, 1, bond)
    atoms.info = {"charge": 0, "multiplicity": multiplicity, "structure": "hydrogen"}
    return atoms


def test_level_is_plain_json_and_repeats(reference):
    assert json.loads(json.dumps(reference.level)) == reference.level
    assert reference.level["program"]
    assert reference.level["version"]


def test_check_accepts_what_can_be_labelled(reference):
    reference.check([hydrogen(0.75), hydrogen(0.75, multiplicity=3)])


def test_every_frame_has_its_place_in_the_order(reference):
    frames = [hydrogen(0.65), hydrogen(0.75, multiplicity=3), hydrogen(0.0), hydrogen(1.0)]
    assert sorted(reference.order(frames)) == [0, 1, 2, 3]
    assert reference.order([]) == []


def test_every_frame_gets_its_record_in_order(reference, tmp_path):
    frames = [hydrogen(0.65), hydrogen(0.75, multiplicity=2), hydrogen(0.0), hydrogen(1.0)]
    before = [atoms.copy() for atoms in frames]
    records = list(reference.label(frames, tmp_path, 1))
    overlapping = Status.REJECTED if reference.level["program"] == "dataset" else Status.CRASHED
    assert [record.status for record in records] == [
        Status.OK,
        Status.REJECTED,
        overlapping,
        Status.OK,
    ]
    assert all(record.message for record in records[1:3])
    short, stretched = records[0], records[3]
    for record in (short, stretched):
        assert record.forces.shape == (2, 3)
        assert record.seconds > 0 or reference.level["program"] == "dataset"
        assert np.allclose(record.forces.sum(axis=0), 0, atol=1e-2)
    # The bond of H2 is 0.74 Å: the short one pushes apart, the stretched one pulls together.
    axis = np.sign(frames[0].positions[1, 2] - frames[0].positions[0, 2])
    assert short.forces[1, 2] * axis > 0 > stretched.forces[1, 2] * axis
    assert [atoms == old for atoms, old in zip(frames, before, strict=True)] == [True] * 4


def test_forces_follow_the_order_of_atoms(reference, tmp_path):
    atoms = molecule("H2" if reference.level["program"] == "CP2K" else "CO", cell=[7.0] * 3)
    atoms.info = {"charge": 0, "multiplicity": 1}
    atoms.set_distance(0, 1, 0.9)
    swapped = atoms[[1, 0]]
    swapped.info = atoms.info
    first, second = reference.label([atoms, swapped], tmp_path, 1)
    assert first.energy == pytest.approx(second.energy, abs=1e-5)
    assert np.allclose(first.forces, second.forces[::-1], atol=1e-4)
