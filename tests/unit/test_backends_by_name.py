"""The backends `ase` and `dataset`: what is theirs alone; see test_reference_conformance."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from halcyon.config import AseReference, DatasetReference
from halcyon.errors import InputError
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.store import LabelStore, level_hash

TOY = """
from ase.calculators.calculator import Calculator, SCFError


class Toy(Calculator):
    implemented_properties = ["energy", "forces"]

    def __init__(self, factor=1.0, file=None):
        super().__init__()
        self.factor = factor
        self.remembered = 0.0

    def reset(self):
        super().reset()
        self.remembered = 0.0

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        if atoms.positions[0, 0] > 5:
            raise SCFError("went nowhere")
        if atoms.positions[0, 0] < -5:
            raise KeyError("oops")
        values = [atoms.info["charge"], atoms.info["spin"]]
        values += [atoms.get_initial_charges().sum(), atoms.get_initial_magnetic_moments().sum()]
        self.results = {"energy": sum(s * 10**i for i, s in enumerate(values)) * self.factor}
        self.results["energy"] += self.remembered
        self.remembered = 1e6
        self.results["forces"] = atoms.positions * self.factor


class NoForces(Calculator):
    implemented_properties = ["energy"]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Import path of a module that belongs to no package."""
    (tmp_path / "halcyon_toy.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "halcyon_toy", raising=False)
    return "halcyon_toy.Toy"


def ase_reference(calculator, **arguments):
    return make_reference(AseReference(backend="ase", calculator=calculator, arguments=arguments))


def test_emt_of_copper_as_ase_gives_it(tmp_path):
    from ase.calculators.emt import EMT

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.info = {"charge": 0, "multiplicity": 1}
    reference = ase_reference("ase.calculators.emt.EMT")
    reference.check([atoms])
    (record,) = reference.label([atoms], tmp_path, 1)
    atoms.calc = EMT()
    assert record.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(record.forces, atoms.get_forces())
    assert reference.level["version"].startswith("ase 3.")


def test_charge_and_spin_are_handed_over(toy, tmp_path, water):
    water.info |= {"charge": 1, "multiplicity": 2}
    (record,) = ase_reference(toy).label([water], tmp_path, 1)
    assert record.energy == pytest.approx(1 + 20 + 100 + 1000)


def test_a_label_does_not_depend_on_the_frame_before(toy, tmp_path, rattled):
    first, second = ase_reference(toy).label(rattled(2), tmp_path, 1)
    assert first.energy == second.energy == 10.0


def test_failures_are_records(toy, tmp_path, water):
    shifted = [water.copy() for _ in range(3)]
    for frame, x in zip(shifted, (6, -6, 0), strict=True):
        frame.info = dict(water.info)
        frame.positions[:, 0] += x
    unconverged, crashed, good = ase_reference(toy).label(shifted, tmp_path, 1)
    assert (unconverged.status, unconverged.message) == (
        Status.UNCONVERGED,
        "SCFError: went nowhere",
    )
    assert (crashed.status, crashed.message) == (Status.CRASHED, "KeyError: 'oops'")
    assert good.status is Status.OK


def test_level_follows_arguments_files_and_code(toy, tmp_path):
    model = tmp_path / "weights"
    model.write_text("one")
    levels = [ase_reference(toy).level, ase_reference(toy, factor=2.0).level]
    levels.append(ase_reference(toy, file=str(model)).level)
    model.write_text("two")
    levels.append(ase_reference(toy, file=str(model)).level)
    (tmp_path / "halcyon_toy.py").write_text(TOY + "# changed\n")
    levels.append(ase_reference(toy).level)
    assert len({level_hash(level) for level in levels}) == 5


@pytest.mark.parametrize(
    ("calculator", "arguments", "message"),
    [
        ("nowhere.at_all.Calc", {}, "nowhere.at_all cannot be imported"),
        ("ase.calculators.emt.EMP", {}, "has no class or function EMP"),
        ("halcyon_toy.Toy", {"fcator": 1}, "unexpected keyword argument 'fcator'"),
        ("halcyon_toy.NoForces", {}, "it has no forces"),
    ],
)
def test_ase_check_says_what_is_wrong(toy, water, calculator, arguments, message):  # noqa: ARG001
    with pytest.raises(InputError, match=message):
        ase_reference(calculator, **arguments).check([water])


@pytest.fixture
def dataset(tmp_path, rattled):
    """Four frames of water in a published file, without the campaign's cell; and its reference."""
    frames = []
    for frame in rattled(4):
        bare = frame.copy()
        bare.calc = SinglePointCalculator(bare, energy=-1.5, forces=frame.positions * 3)
        frames.append(bare)
    write(tmp_path / "set.xyz", frames)
    return make_reference(DatasetReference(backend="dataset", files=[tmp_path / "set.xyz"]))


def test_a_frame_of_the_set_gets_its_label(dataset, rattled, tmp_path):
    requested = rattled(6)[2:]
    for frame in requested:
        frame.set_cell([9.0] * 3)  # a molecule's box is no part of it
        frame.positions = np.round(frame.positions, 8)  # what extxyz keeps
    turned = requested[0][[2, 0, 1]]
    turned.info = dict(requested[0].info)
    store = LabelStore(tmp_path / "labels", dataset.level)
    labelled = Labeller(
        reference=dataset,
        store=store,
        work=tmp_path / "work",
        cores=1,
        provenance={"campaign": "c", "system": "s"},
    ).label([*requested, turned])
    assert [f.info["status"] for f in labelled] == ["ok", "ok", "rejected", "rejected", "ok"]
    assert "not in the data set, which has 4 other frames of H2O" in labelled[2].info["message"]
    for frame in (labelled[0], labelled[4]):
        assert frame.info["energy"] == -1.5
        np.testing.assert_allclose(frame.arrays["forces"], frame.positions * 3, atol=1e-7)


def test_spin_and_charge_are_part_of_a_frame(dataset, rattled, tmp_path):
    (frame, *_) = rattled(1)
    frame.positions = np.round(frame.positions, 8)
    frame.info["multiplicity"] = 3
    (record,) = dataset.label([frame], tmp_path, 1)
    assert record.status is Status.REJECTED
    assert "multiplicity = 3" in record.message


def test_dataset_check_says_what_there_is(dataset, water):
    dataset.check([water])
    other = molecule("CH4")
    other.info = {"charge": 0, "multiplicity": 1, "structure": "methane"}
    with pytest.raises(InputError, match=r"methane: CH4, .*which has: H2O \(\+0, 1\)"):
        dataset.check([other])


def test_dataset_level_follows_files_and_units(dataset, tmp_path):
    path = tmp_path / "set.xyz"
    levels = [dataset.level]
    for changed in ({"energy_unit": "Ha"}, {"charge": 1}):
        levels.append(DatasetReference(backend="dataset", files=[path], **changed))
        levels[-1] = make_reference(levels[-1]).level
    path.write_text(path.read_text() + "\n")
    levels.append(make_reference(DatasetReference(backend="dataset", files=[path])).level)
    assert len({level_hash(level) for level in levels}) == 4
    with pytest.raises(InputError, match="no such file"):
        make_reference(DatasetReference(backend="dataset", files=[tmp_path / "none.xyz"]))
