"""Stress of labels: against energies of strained cells, in every backend, store, set and training.

Expected numbers are finite differences of energies, computed here with tblite or ASE's EMT.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import write

from halcyon.campaign.dynamics_job import refuse_unlearned_stress
from halcyon.config import (
    AseReference,
    Campaign,
    DatasetLayout,
    DatasetReference,
    ExplorationSettings,
    FitSettings,
    ModelSettings,
    SanitySettings,
    XtbReference,
)
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.finite_difference import STRAIN, check_stress, fault, stress_in_set
from halcyon.labels.labelling import Labeller
from halcyon.labels.published import read_set
from halcyon.labels.reference import make_reference
from halcyon.labels.reference.ase import AseCalculator
from halcyon.labels.reference.base import Record, Status
from halcyon.labels.reference.cp2k.output import read_result
from halcyon.labels.store import LabelStore
from halcyon.labels.store_tools import export, import_sets, verify
from halcyon.labels.stress import GPA, tensor, voigt
from halcyon.models import graphs, mace, parity
from halcyon.models.fit import fit, set_errors
from halcyon.models.learner import Learner
from halcyon.models.training import Recipe

EMT_SETTINGS = AseReference(backend="ase", calculator="ase.calculators.emt.EMT")
NEUTRAL = {"charge": 0, "multiplicity": 1, "structure": "crystal"}


def copper(*, seed=1, scale=1.0, displaced=0.05, shear=0.03) -> Atoms:
    """Four atoms of copper, displaced, strained and sheared, labelled by EMT."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ [[scale, shear, 0], [0, scale, 0], [0, 0, scale]], True)
    atoms.rattle(displaced, seed=seed)
    atoms.info = dict(NEUTRAL)
    (record,) = AseCalculator(EMT_SETTINGS).label([atoms], Path(), 1)
    atoms.info |= {"energy": record.energy, "stress": list(record.stress), "status": "ok"}
    atoms.info["key"] = structure_key(atoms)
    atoms.arrays["forces"] = record.forces
    return atoms


def salt() -> Atoms:
    atoms = bulk("NaCl", "rocksalt", a=5.3)
    atoms.rattle(0.1, seed=2)
    atoms.info = dict(NEUTRAL)
    return atoms


def by_strain(atoms: Atoms, energy) -> np.ndarray:
    """Derivative of an energy by strain, central differences, over the volume."""
    step, slopes = 1e-3, np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.info = dict(atoms.info)
            moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(energy(moved))
        slopes[i, j] = (energies[0] - energies[1]) / (2 * step)
    return slopes / atoms.get_volume()


@pytest.mark.parametrize(
    ("settings", "atoms"),
    [
        (XtbReference(backend="xtb", method="GFN1-xTB", accuracy=0.01), salt()),
        (EMT_SETTINGS, copper()),
        (
            AseReference(
                backend="ase",
                calculator="ase.calculators.lj.LennardJones",
                arguments={"sigma": 2.3, "rc": 3.0, "smooth": True},
            ),
            copper(displaced=0.2),
        ),
    ],
    ids=["tblite", "EMT", "LJ"],
)
def test_stress_is_the_slope_of_the_energy_by_strain_tension_positive(settings, atoms):
    reference = make_reference(settings)

    def energy(frame):
        (record,) = reference.label([frame], Path(), 1)
        return record.energy

    (record,) = reference.label([atoms], Path(), 1)
    expected = by_strain(atoms, energy)
    assert np.abs(expected).max() > 0.005  # eV/Å³; a wrong sign would show
    np.testing.assert_allclose(tensor(record.stress), expected, atol=2e-4)
    assert record.stress == voigt(tensor(record.stress))


def test_molecules_and_what_is_periodic_in_part_have_no_stress():
    water = molecule("H2O", vacuum=4.0)
    water.info = dict(NEUTRAL)
    (record,) = make_reference(XtbReference(backend="xtb")).label([water], None, 1)
    assert record.status is Status.OK
    assert record.stress is None
    sheet = copper()
    sheet.pbc = (True, True, False)
    (record,) = AseCalculator(EMT_SETTINGS).label([sheet], None, 1)
    assert record.status is Status.OK
    assert record.stress is None


def test_a_calculator_that_takes_partial_periodicity_for_full_is_refused():
    sheet = copper()
    sheet.pbc = (True, True, False)
    AseCalculator(EMT_SETTINGS).check([sheet])  # EMT knows the difference
    tblite = AseReference(backend="ase", calculator="tblite.ase.TBLite", arguments={"verbosity": 0})
    half = Atoms("H2", [[0, 0, 0], [0.8, 0, 0]], cell=[3.0] * 3, pbc=(True, False, True))
    half.info = dict(NEUTRAL)
    with pytest.raises(InputError, match="takes the frame for periodic in all directions"):
        AseCalculator(tblite).check([half])


def test_a_calculator_without_stress_labels_and_is_refused_where_stress_is_needed():
    reference = AseCalculator(AseReference(backend="ase", calculator="test_stress.without_stress"))
    (record,) = reference.label([copper()], None, 1)
    assert record.status is Status.OK
    assert record.stress is None
    with pytest.raises(InputError, match="it has no stress; it offers energy, forces"):
        reference.check_stress()
    AseCalculator(EMT_SETTINGS).check_stress()


def without_stress():
    """EMT that offers energies and forces only."""
    calculator = EMT()
    calculator.implemented_properties = ["energy", "forces"]
    return calculator


CP2K_STRESS = """
 STRESS| Analytical stress tensor [{unit}]
 STRESS|                        x                   y                   z
 STRESS|      x       -3.01112716938E+00  -1.69477798606E+00  -1.69295474826E+00
 STRESS|      y       -1.69477798606E+00   1.79798848042E+00   5.15689222339E+00
 STRESS|      z       -1.69295474826E+00   5.15689222339E+00   4.24961302214E+00
 STRESS| 1/3 Trace                                             1.01215811106E+00
 STRESS| Determinant                                           6.93021129765E+01

 STRESS| Eigenvectors and eigenvalues of the analytical stress tensor [{unit}]
 STRESS|                        1                   2                   3
 STRESS| Eigenvalues  -3.54946974022E+00  -2.21777230272E+00   8.80371637612E+00
"""
CP2K_OUTPUT = """
  *** SCF run converged in    9 steps ***
 ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:               -2.0
"""
CP2K_FORCES = """
 ATOMIC FORCES in [a.u.]

 # Atom   Kind   Element          X              Y              Z
      1      1      H           0.1     -0.1     -0.2
"""


def test_cp2ks_stress_is_read_with_the_other_sign():
    # The file is of CP2K 2023.1; in bar it was up to 2022. The sign is checked with the program
    # itself in tests/integration/test_cp2k.py.
    result = read_result(CP2K_OUTPUT, CP2K_FORCES, 1, stress=CP2K_STRESS.format(unit="GPa"))
    assert result.stress[0] == pytest.approx(3.01112716938 * units.GPa)
    assert result.stress[3] == pytest.approx(-5.15689222339 * units.GPa)
    assert result.stress[5] == pytest.approx(1.69477798606 * units.GPa)
    bar = read_result(CP2K_OUTPUT, CP2K_FORCES, 1, stress=CP2K_STRESS.format(unit="bar"))
    assert bar.stress[0] == pytest.approx(3.01112716938 * units.bar)
    for damaged in ("", CP2K_STRESS.format(unit="atm"), CP2K_STRESS.replace("4.24", "*")):
        result = read_result(CP2K_OUTPUT, CP2K_FORCES, 1, stress=damaged)
        assert result.status is Status.CRASHED
        assert "no stress that can be read" in result.message
    assert read_result(CP2K_OUTPUT, CP2K_FORCES, 1).stress is None


def test_frames_keep_their_stress_in_files(tmp_path):
    frames = [copper(), copper(seed=2)]
    del frames[1].info["stress"]
    write_frames(tmp_path / "frames.parquet", frames)
    first, second = read_frames(tmp_path / "frames.parquet")
    assert first.info["stress"] == frames[0].info["stress"]
    assert "stress" not in second.info


class Counted(AseCalculator):
    """EMT that counts, and gives a stress only where it is asked to."""

    def __init__(self, *, stress=True, fail=False):
        super().__init__(EMT_SETTINGS)
        self.stress, self.fail, self.calculations = stress, fail, 0

    def _label(self, atoms, work, cores):
        self.calculations += 1
        record = super()._label(atoms, work, cores)
        if self.fail:
            return Record(status=Status.CRASHED, message="no luck")
        if self.stress:
            return record
        return Record(status=record.status, energy=record.energy, forces=record.forces)


@pytest.fixture
def label(tmp_path):
    def run(frames, reference, work, *, needs_stress=False):
        labeller = Labeller(
            reference=reference,
            store=LabelStore(tmp_path / "store", reference.level),
            work=tmp_path / work,
            cores=1,
            provenance={"campaign": "c", "system": "s"},
            needs_stress=needs_stress,
        )
        return labeller.label(frames)

    return run


def test_labels_without_stress_serve_until_a_campaign_needs_it(label, tmp_path):
    frames = [copper(seed=seed) for seed in range(3)]
    old = label(frames, Counted(stress=False), "old")
    assert all("stress" not in frame.info for frame in old)
    content_with_none = Counted()
    assert all("stress" not in f.info for f in label(frames, content_with_none, "same"))
    assert content_with_none.calculations == 0
    needing = Counted()
    new = label(frames, needing, "new", needs_stress=True)
    assert needing.calculations == 3
    for frame, before, after in zip(frames, old, new, strict=True):
        assert after.info["stress"] == pytest.approx(frame.info["stress"])
        assert after.info["energy"] == before.info["energy"]
    # From now on the store has them, with the stress, for everybody, and exports each once.
    again = Counted()
    assert all("stress" in f.info for f in label(frames, again, "again", needs_stress=True))
    assert again.calculations == 0
    store = LabelStore(tmp_path / "store", again.level)
    assert export(store, tmp_path / "out.xyz", again.level, {"status": "ok"}) == 3
    checked = verify(store)
    assert checked.faults == []
    assert (checked.labels, checked.repeated) == (6, 3)


def test_a_label_whose_stress_cannot_be_computed_keeps_energy_and_forces(label):
    (old,) = label([copper()], Counted(stress=False), "old")
    (kept,) = label([copper()], Counted(fail=True), "new", needs_stress=True)
    assert kept.info["status"] == "ok"
    assert kept.info["energy"] == old.info["energy"]
    assert "stress" not in kept.info


def test_an_index_tells_which_labels_have_a_stress(label, tmp_path, monkeypatch):
    from halcyon.labels import store as label_store

    monkeypatch.setattr(label_store, "NOT_INDEXED", 0)
    label([copper()], Counted(stress=False), "old")
    label([copper(), copper(seed=2)], Counted(), "new", needs_stress=True)
    label([copper(seed=3)], Counted(), "later")  # an index has the shards before the last
    store = LabelStore(tmp_path / "store", Counted().level)
    index = pq.read_table(store.folder / label_store.INDEX)
    first = bytes.fromhex(copper().info["key"])
    rows = sorted((row["key"] == first, row["stress"]) for row in index.to_pylist())
    assert rows == [(False, True), (True, False), (True, True)]
    keys = [copper(seed=seed).info["key"] for seed in (1, 2, 3)]
    assert store.with_stress(keys) == set(keys)
    assert all("stress" in frame.info for frame in store.find(keys).values())


def level(wrong=lambda stress: stress):
    """What labels strained frames, with a stress that is wrong."""
    reference = AseCalculator(EMT_SETTINGS)

    def compute(frames):
        labelled = []
        for frame, record in zip(frames, reference.label(frames, None, 1), strict=True):
            answer = frame.copy()
            answer.info = frame.info | {"status": "ok", "message": "", "paid": 1.5}
            answer.info |= {"energy": record.energy, "key": structure_key(frame)}
            answer.info["stress"] = [float(v) for v in wrong(np.array(record.stress))]
            answer.arrays["forces"] = record.forces
            labelled.append(answer)
        return labelled

    frames = [copper(seed=seed, scale=scale) for seed, scale in ((1, 0.97), (2, 1.0), (3, 1.02))]
    return compute(frames), compute


def test_a_right_stress_passes_with_two_calculations_of_the_most_stressed_frame():
    frames, compute = level()
    (slope,) = check_stress(frames, compute, SanitySettings(), seed=3)
    assert slope.passed
    assert slope.key == frames[0].info["key"]
    assert slope.stress_GPa == pytest.approx(slope.slope_GPa, abs=0.1)
    assert abs(slope.slope_GPa) > 3  # GPa: the strain is along the stress
    assert slope.core_seconds == 3.0
    assert check_stress(frames, compute, SanitySettings(), seed=3) == [slope]
    assert STRAIN < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        lambda stress: -stress,  # pressure positive
        lambda stress: stress / GPA,  # GPa taken for eV/Å³
        lambda stress: stress / (0.1 * GPA),  # kbar
        lambda stress: -stress / (0.1 * GPA),  # VASP's
        lambda stress: stress * 48,  # a virial
    ],
)
def test_a_wrong_sign_or_unit_is_a_fault_of_the_level(wrong):
    frames, compute = level(wrong)
    slopes = check_stress(frames, compute, SanitySettings(), seed=3)
    assert [slope.passed for slope in slopes] == [False, False]
    assert "the stress is not the slope of the energy by strain on 2 of 2 frames" in fault(slopes)


def test_an_energy_of_another_state_beside_a_frame_says_nothing_of_its_stress():
    frames, compute = level()

    def jumps(points):
        labelled = compute(points)
        labelled[0].info["energy"] -= 1.5
        return labelled

    (slope,) = check_stress(frames, jumps, SanitySettings(), seed=3)
    assert slope.passed is None
    assert "1.50 eV off a line: they are of different states" in slope.message


def test_a_small_stress_says_nothing_of_its_sign():
    relaxed = bulk("Cu", a=3.59, cubic=True)  # EMT's own lattice constant
    relaxed.info = dict(NEUTRAL)
    _, compute = level()
    slopes = check_stress(compute([relaxed]), compute, SanitySettings(), seed=3)
    assert [slope.passed for slope in slopes] == [None]
    assert "too small" in slopes[0].message
    frames, compute = level()
    for frame in frames:
        del frame.info["stress"]
    assert check_stress(frames, compute, SanitySettings(), seed=3) == []


def written_set(path, convert, *, spread=0.02):
    """A published set of copper: cells of several volumes, atoms displaced."""
    frames = []
    for number in range(8):
        frame = copper(seed=number, scale=1 + spread * (number % 4 - 2), displaced=0.02)
        published = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
        published.info = {"E": frame.info["energy"]}
        published.info["S"] = convert(tensor(frame.info["stress"]), frame.get_volume())
        published.arrays["F"] = frame.arrays["forces"]
        frames.append((frame, published))
    write(path, [published for _, published in frames], format="extxyz")
    return [frame for frame, _ in frames]


KEYS = {"energy_key": "E", "forces_key": "F", "stress_key": "S"}
VASP = {"stress_unit": "kbar", "stress_sign": "pressure", "stress_order": "xx yy zz xy yz zx"}


def in_vasps_order(stress, _volume):
    kbar = -stress / (0.1 * units.GPa)
    return kbar[[0, 1, 2, 0, 1, 2], [0, 1, 2, 1, 2, 0]]


@pytest.mark.parametrize(
    ("convert", "layout"),
    [
        (lambda stress, _: stress, {}),
        (lambda stress, _: stress / units.GPa, {"stress_unit": "GPa"}),
        (lambda stress, volume: -stress * volume, {"stress_unit": "eV", "stress_sign": "pressure"}),
        (in_vasps_order, VASP),
    ],
    ids=["ase", "GPa", "virial", "vasp"],
)
def test_a_published_stress_is_read_in_the_unit_sign_and_order_that_it_has(
    tmp_path, convert, layout
):
    expected = written_set(tmp_path / "set.xyz", convert)
    layout = DatasetLayout(**KEYS, **layout)
    for frame, right in zip(read_set(tmp_path / "set.xyz", layout), expected, strict=True):
        np.testing.assert_allclose(frame.info["stress"], right.info["stress"], atol=1e-7)
    store = LabelStore(tmp_path / "store", {"program": "imported"})
    result = import_sets(store, [tmp_path / "set.xyz"], layout, None)
    assert (result.new, result.stresses) == (8, 8)
    (scale,) = result.stress_scales.values()
    assert scale.scale == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(
    ("convert", "advice"),
    [
        (lambda stress, _: -stress, r"stress_unit eV/A\^3, stress_sign pressure"),
        (lambda stress, _: stress / units.GPa, "stress_unit GPa, stress_sign tension"),
        (lambda stress, _: -stress / (0.1 * units.GPa), "stress_unit kbar, stress_sign pressure"),
    ],
    ids=["sign", "GPa", "vasp"],
)
def test_a_set_of_wrong_sign_or_unit_is_refused_with_what_would_fit(tmp_path, convert, advice):
    path = tmp_path / "set.xyz"
    written_set(path, convert)
    store = LabelStore(tmp_path / "store", {"program": "imported"})
    with pytest.raises(InputError, match=rf"set.xyz: S \(stress_key\).*{advice} would fit"):
        import_sets(store, [path], DatasetLayout(**KEYS), None)
    assert store.shards() == []
    reference = make_reference(DatasetReference(backend="dataset", files=[path], **KEYS))
    start = copper()
    with pytest.raises(InputError, match=advice):
        reference.check([start])


def test_a_set_of_a_single_cell_does_not_tell():
    frames = [copper(seed=seed, displaced=0.1) for seed in range(5)]
    assert stress_in_set(frames).scale is None
    assert not stress_in_set(frames).wrong


def test_a_set_whose_stress_is_not_read_is_the_same_level_as_before(tmp_path):
    written_set(tmp_path / "set.xyz", lambda stress, _: stress)
    names = {"energy_key": "E", "forces_key": "F"}
    settings = DatasetReference(backend="dataset", files=[tmp_path / "set.xyz"], **names)
    reference = make_reference(settings)
    assert not [key for key in reference.level["layout"] if key.startswith("stress")]
    with pytest.raises(InputError, match=r"reference\.stress_key is missing"):
        reference.check_stress()
    npz = tmp_path / "set.npz"
    np.savez(npz, Z=[1], R=np.zeros((1, 1, 3)), E=[0.0], F=np.zeros((1, 1, 3)))
    with pytest.raises(InputError, match="npz has no cells"):
        list(read_set(npz, DatasetLayout(stress_key="S")))


@pytest.fixture(scope="module")
def crystals():
    """Frames of strained and displaced copper: 24 to learn, 8 to test."""
    random = np.random.default_rng(4)
    return [
        copper(
            seed=seed,
            scale=random.uniform(0.96, 1.04),
            displaced=0.08,
            shear=random.uniform(-0.04, 0.04),
        )
        for seed in range(32)
    ]


FIT = FitSettings(epochs=30, learning_rate=0.02, batch_size=4)
SMALL = ModelSettings(channels=4, r_max_A=3.6, correlation=2)


def trained(tmp_path, train, held_out, weight, name):
    recipe = Recipe(
        elements=[29],
        model=SMALL,
        fit=FIT.model_copy(update={"stress_weight": weight}),
        seed=1,
        device="cpu",
    )
    frames = {"train": train, "validation": held_out, "test": held_out}
    path = tmp_path / f"{name}.model"
    return fit(frames, recipe, out=path, work=tmp_path / name, say=lambda _line: None), path


def test_a_model_learns_the_stress_of_labels_that_have_one(tmp_path, crystals):
    train, held_out = crystals[:24], crystals[24:]
    metrics, path = trained(tmp_path, train, held_out, None, "default")
    assert metrics.stress_weight == 10.0
    assert metrics.test.frames_with_stress == 8
    stress = metrics.test.stress_mae_GPa
    assert stress == metrics.curve[metrics.best_epoch - 1].stress_mae_GPa or stress > 0
    assert metrics.test.stress_mae_eV_per_A3 == pytest.approx(stress * units.GPa)
    without, _ = trained(tmp_path, train, held_out, 0.0, "without")
    assert without.stress_weight == 0.0
    assert stress < without.test.stress_mae_GPa
    mean = np.mean([f.info["stress"] for f in held_out], axis=0)
    spread = np.mean([np.abs(np.subtract(f.info["stress"], mean)) for f in held_out]) / units.GPa
    assert stress < 0.5 * spread

    model = mace.load(path, device="cpu")
    predictions = mace.evaluate(model, held_out)
    parity.write(tmp_path / "parity.parquet", held_out, predictions)
    table = parity.read(tmp_path / "parity.parquet")["stress"]
    assert len(table["reference"]) == 48
    error = np.abs(table["predicted"] - table["reference"]).mean()
    assert error == pytest.approx(stress, rel=1e-3)


def test_a_label_without_stress_never_counts_as_one_with_it(crystals):
    """The loss against a sum by hand of the model's own errors, from another evaluation."""
    model = mace.new(
        SMALL.model_copy(update={"dtype": "float64"}), {29: 0.0}, scale=1.0, mean_neighbours=12.0
    ).double()
    bare = crystals[1].copy()
    bare.info = {k: v for k, v in crystals[1].info.items() if k != "stress"}
    bare.arrays["forces"] = crystals[1].arrays["forces"]
    frames = [crystals[0], bare, crystals[2]]

    def loss(weight):
        settings = FIT.model_copy(update={"stress_weight": weight})
        learner = Learner(model, settings, seed=1, say=print)
        return learner.validated(graphs.graphs(frames, model, {29: 0.0}))[0]

    predictions = mace.evaluate(model, frames)
    by_hand = [
        np.linalg.norm(tensor(predictions.stress[i]) - tensor(frames[i].info["stress"]))
        * frames[i].get_volume()
        / len(frames[i])
        for i in (0, 2)
    ]
    assert loss(3.0) - loss(0.0) == pytest.approx(3.0 * np.mean(by_hand), rel=1e-6)
    errors = set_errors(model, frames)
    assert errors.frames_with_stress == 2
    assert errors.frames == 3
    assert set_errors(model, [bare]).stress_mae_GPa is None


def test_molecules_and_crystals_are_learned_together(tmp_path, crystals):
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]], info=dict(NEUTRAL) | {"energy": 4.0})
    pair.arrays["forces"] = np.zeros((2, 3))
    metrics, path = trained(tmp_path, [*crystals[:3], pair], [*crystals[3:5], pair], None, "mixed")
    assert metrics.train.frames_with_stress == 3
    weights = mace.load(path, device="cpu").state_dict().values()
    assert all(bool(weight.isfinite().all()) for weight in weights)


def test_constant_pressure_is_refused_with_a_model_that_learned_no_stress(tmp_path, crystals):
    metrics, path = trained(tmp_path, crystals[:4], crystals[4:6], 0.0, "model")
    metrics.write(tmp_path / "metrics.json")
    with pytest.raises(InputError, match=r"npt.*has not learned any stress.*nvt"):
        refuse_unlearned_stress(path)
    metrics.model_copy(update={"stress_weight": 10.0}).write(tmp_path / "metrics.json")
    refuse_unlearned_stress(path)


def test_pressures_are_a_number_or_one_for_each_temperature():
    settings = ExplorationSettings(temperatures_K=[300.0, 500.0], pressure_bar=[1.0, 900.0])
    assert [settings.pressure_at(kelvin) for kelvin in (500.0, 300.0)] == [900.0, 1.0]
    assert ExplorationSettings(pressure_bar=7.0).pressure_at(123.0) == 7.0
    with pytest.raises(ValueError, match="a list of 2: one for each of temperatures_K; got 1"):
        ExplorationSettings(temperatures_K=[300.0, 500.0], pressure_bar=[1.0])
    with pytest.raises(ValueError, match="different temperatures_K"):
        ExplorationSettings(temperatures_K=[300.0, 300.0], pressure_bar=[1.0, 2.0])


def test_a_campaign_pays_for_stress_only_where_it_needs_it():
    def needs(**sections):
        reference = {"backend": "xtb"}
        content = {"campaign": "c", "systems": ["s"], "reference": reference} | sections
        return Campaign.model_validate(content).needs_stress

    assert not needs()
    assert needs(exploration={"ensemble": "npt"})
    assert needs(training={"stress_weight": 1.0})
    assert not needs(training={"stress_weight": 0.0})
