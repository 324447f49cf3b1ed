"""What the stages pretrain and train do with models, without jobs."""

import numpy as np
import pytest
from test_mace_model import ELEMENTS, FIT, TINY, springs

from halcyon.config import DomainSettings, StructureSettings
from halcyon.config.learning import SeedSettings
from halcyon.domain.samples import Sample
from halcyon.domain.scoring import scores_of
from halcyon.errors import Interrupted
from halcyon.labels.free_atoms import free_atoms
from halcyon.labels.seed import from_dynamics
from halcyon.models import mace, parity
from halcyon.models.domains import find_domain
from halcyon.models.drift import Drift
from halcyon.models.fit import adopt, diagnose, fit, pretraining_frames, set_errors, split
from halcyon.models.training import Recipe, Replay


@pytest.fixture(scope="module")
def frames():
    drawn = springs("CH3OH", 20, energy_zero=-310.0, seed=2, stiffness=2.5)
    for atoms in drawn:
        atoms.info["structure"] = "methanol"
    return {"train": drawn[:10], "validation": drawn[10:15], "test": drawn[15:]}


def recipe(**changes):
    return Recipe(**({"elements": ELEMENTS, "model": TINY, "fit": FIT, "seed": 3} | changes))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, frames):
    """A folder with a model, its metrics, and what was said."""
    folder, said = tmp_path_factory.mktemp("fitted"), []
    metrics = fit(frames, recipe(), out=folder / "m.model", work=folder, say=said.append)
    return folder, metrics, said


def test_the_metrics_are_those_of_the_model_that_was_written(fitted, frames):
    folder, metrics, said = fitted
    model = mace.load(folder / "m.model", device="cpu", dtype="float32")
    for name, drawn in frames.items():
        assert getattr(metrics, name) == set_errors(model, drawn)
        assert getattr(metrics, name).frames == len(drawn)
    assert [done.epoch for done in metrics.curve] == [1, 2, 3, 4, 5, 6]
    assert metrics.start is None
    assert said[0] == "10 frames to learn, 5 for validation, from random weights"
    assert [line.split(":")[0] for line in said[1:]] == [f"epoch {n} of 6" for n in range(1, 7)]


def test_a_start_model_and_replayed_frames_are_named(fitted, frames, tmp_path):
    said = []
    metrics = fit(
        frames,
        recipe(start=fitted[0] / "m.model"),
        out=tmp_path / "m.model",
        work=tmp_path,
        say=said.append,
        replay=Replay(frames["validation"], 0.3),
    )
    assert metrics.start == str(fitted[0] / "m.model")
    assert said[0] == (
        "10 frames to learn, 5 labelled by the teacher to replay with weight 0.3, 5 for "
        "validation, from m.model"
    )


def test_a_stop_is_passed_on(frames, tmp_path):
    with pytest.raises(Interrupted):
        fit(
            frames,
            recipe(),
            out=tmp_path / "m.model",
            work=tmp_path,
            say=lambda _: None,
            stopping=lambda: True,
        )
    assert not (tmp_path / "m.model").exists()


def test_an_adopted_model_keeps_its_forces_and_gets_the_frames_energy_zero(
    fitted, frames, tmp_path
):
    test = [atoms.copy() for atoms in frames["test"]]
    for atoms in test:
        atoms.info["energy"] += 1000.0
    said = []
    metrics = adopt(
        fitted[0] / "m.model",
        test,
        elements=ELEMENTS,
        settings=TINY,
        head=None,
        out=tmp_path / "adopted.model",
        device="cpu",
        say=said.append,
    )
    assert metrics.test == metrics.train == metrics.validation
    assert metrics.test.forces_mae_meV_per_A == pytest.approx(
        fitted[1].test.forces_mae_meV_per_A, rel=1e-4
    )
    assert metrics.test.energy_mae_meV_per_atom < 1000
    assert (metrics.best_epoch, metrics.curve, metrics.seconds) == (0, [], 0.0)
    assert "H, C, O; 2 layers" in said[0]


def test_the_diagnosis_compares_the_model_with_the_one_before(fitted, frames, tmp_path):
    files = {"parity_file": tmp_path / "parity.parquet", "drift_file": tmp_path / "drift.json"}
    classes = {"methanol": frames["train"][0].get_chemical_symbols()}
    model = fitted[0] / "m.model"
    diagnose(model, frames, recipe(), classes=classes, **files)
    first = Drift.read(files["drift_file"])
    assert first.before is None
    assert first.frames == 10
    assert {name: part.atoms for name, part in first.after.items()} == {"C": 10, "H": 40, "O": 10}
    assert len(parity.read(files["parity_file"])["energy"]["reference"]) == 5
    diagnose(model, frames, recipe(start=model), classes=classes, **files)
    second = Drift.read(files["drift_file"])
    assert second.before == second.after == first.after


def test_only_frames_of_pretrained_structures_count(frames):
    other = frames["train"][0].copy()
    other.info["structure"] = "radical"
    structures = {
        "methanol": StructureSettings(name="methanol", smiles="CO"),
        "radical": StructureSettings(name="radical", smiles="[OH]", pretrain=False),
    }
    drawn = [frames["train"][0], other, frames["train"][1]]
    assert pretraining_frames(drawn, structures, []) == [drawn[0], drawn[2]]


def test_no_geometry_of_the_seeds_validation_or_test_set_is_learned_from_the_teacher(frames):
    taught = [atoms.copy() for atoms in (*frames["train"], *frames["test"])]
    for atoms in taught:
        atoms.info |= {"origin": "md", "temperature": 300.0}
    settings = SeedSettings(train=4, validation=5, test=5)
    drawn = from_dynamics(taught, ["methanol"], settings, seeds={"methanol": 1})
    structures = {"methanol": StructureSettings(name="methanol", smiles="CO")}
    learned = pretraining_frames(taught, structures, drawn)
    held_out = [atoms for atoms in drawn if atoms.info["split"] != "train"]
    assert len(held_out) == 10
    assert len(learned) == len(taught) - 10
    for atoms in learned:
        nearest = min(np.abs(atoms.positions - other.positions).max() for other in held_out)
        assert nearest > 1e-3


def test_a_split_is_that_of_its_seed_and_keeps_the_order():
    numbers = list(range(40))
    parts = split(numbers, 0.1, seed=5)
    assert len(parts["validation"]) == 4
    assert parts["test"] == parts["validation"] == sorted(parts["validation"])
    assert parts["train"] == sorted(set(numbers) - set(parts["validation"]))
    assert split(numbers, 0.1, seed=5) == parts != split(numbers, 0.1, seed=6)
    assert len(split(numbers[:3], 0.1, seed=5)["validation"]) == 1


def test_a_domain_holds_what_its_model_learned(fitted, frames):
    model = mace.load(fitted[0] / "m.model", device="cpu", dtype="float32")
    classes = {"methanol": frames["train"][0].get_chemical_symbols()}
    domain = find_domain(
        model,
        frames,
        [],
        classes=classes,
        bonded={"methanol": [(0, 1)]},
        settings=DomainSettings(signals=["bond_stretch"]),
        seed=1,
    )
    energies = np.array(mace.evaluate(model, frames["train"]).node_energy)
    carbon = energies[:, classes["methanol"].index("C")]
    assert domain.label["C"][0] <= carbon.min() < carbon.max() <= domain.label["C"][1]
    assert domain.guard == domain.label  # there is no teacher
    length = np.mean([atoms.get_distance(0, 1) for atoms in frames["train"]])
    assert domain.bonds == {"methanol": [(0, 1, pytest.approx(length))]}
    assert (domain.report.held_out_frames, domain.report.check_frames) == (5, 5)
    assert domain.signals["bond_stretch"].exceedance.atoms == 30
    teacher = find_domain(
        model, frames, frames["test"], classes=classes, bonded={}, settings=DomainSettings(), seed=1
    )
    assert teacher.label == domain.label
    assert any(teacher.guard[name] != domain.guard[name] for name in domain.guard)
    hydrogen = springs("H2", 3, energy_zero=-30.0, seed=2, stiffness=2.5)
    for atoms in hydrogen:
        atoms.info["structure"] = "hydrogen"
        atoms.positions *= 0.15  # squeezed: nothing of the kind is among the labels
    unlabelled = find_domain(
        model,
        frames,
        hydrogen,
        classes=classes | {"hydrogen": ["H", "H"]},
        bonded={},
        settings=DomainSettings(),
        seed=1,
    )
    assert list(unlabelled.classes) == ["methanol"]
    assert unlabelled.label == domain.label
    energies = np.array(mace.evaluate(model, hydrogen).node_energy)
    assert unlabelled.guard["H"][0] == pytest.approx(min(domain.guard["H"][0], energies.min()))
    assert unlabelled.guard["H"][1] == pytest.approx(max(domain.guard["H"][1], energies.max()))
    assert unlabelled.guard["H"] != domain.guard["H"]


def test_where_free_atoms_are_labelled_an_atom_that_has_left_is_inside(fitted, frames):
    model = mace.load(fitted[0] / "m.model", device="cpu", dtype="float32")
    classes = {"methanol": frames["train"][0].get_chemical_symbols()}
    apart = [frames["test"][0].copy()]
    gone = classes["methanol"].index("H")
    apart[0].positions[gone] += [30.0, 0.0, 0.0]
    sample = Sample.of(apart, mace.evaluate(model, apart))
    distances = {}
    for number, labels in enumerate((frames, frames | {"free_atoms": free_atoms([1])})):
        options = {"classes": classes, "bonded": {}, "settings": DomainSettings(), "seed": 1}
        domain = find_domain(model, labels, [], **options)
        distances[number] = scores_of(sample, domain)[0]["distance_latent"]
    assert distances[0][gone] > 0.1
    assert distances[1][gone] < 1e-3
