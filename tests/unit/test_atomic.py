"""Atomic properties: as tblite gives them, learned by readouts that the model does not keep."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase.build import bulk, molecule
from tblite.ase import TBLite
from test_mace_model import fit, springs
from test_mace_training import same, weights
from test_work import quickstart, with_settings  # noqa: F401 - a fixture

from halcyon.campaign import work
from halcyon.campaign.check_atomic import check_atomic
from halcyon.commands.plan import trial
from halcyon.config import FitSettings, ModelSettings, PretrainingSettings
from halcyon.errors import InputError, Interrupted
from halcyon.frames import read_frames, write_frames
from halcyon.models import atomic
from halcyon.models.fast.evaluate import FastMace
from halcyon.models.mace import load
from halcyon.teacher import tight_binding
from halcyon.teacher.atomic import COLUMNS, add_properties

NAMES = ("charges", "energies", "bond_orders")


def state(atoms, charge=0, multiplicity=1):
    atoms.info |= {"charge": charge, "multiplicity": multiplicity, "structure": "s"}
    return atoms


@pytest.fixture(scope="module")
def frames():
    drawn = springs("CH3OH", 30, energy_zero=0.7, seed=5, stiffness=3.0)
    assert add_properties(drawn, "GFN2-xTB") == 0
    return drawn


@pytest.mark.parametrize(
    ("atoms", "method"),
    [
        (state(molecule("CH3OH")), "GFN2-xTB"),
        (state(molecule("H2O")), "GFN1-xTB"),
        (state(bulk("NaCl", "rocksalt", 5.64, cubic=True)), "GFN1-xTB"),
    ],
    ids=["molecule", "GFN1", "periodic"],
)
def test_properties_are_those_of_tblites_own_calculator(atoms, method):
    atoms = atoms.copy()
    assert add_properties([atoms], method) == 0
    other = atoms.copy()
    other.calc = TBLite(method=method, verbosity=0)
    energy = other.get_potential_energy()
    assert atoms.arrays["atomic_charges"] == pytest.approx(other.get_charges(), abs=1e-5)
    assert atoms.arrays["atomic_energies"].sum() == pytest.approx(energy, abs=1e-6)
    orders = other.calc.results["bond-orders"].reshape(len(atoms), len(atoms))
    assert atoms.arrays["atomic_bond_orders"] == pytest.approx(orders.sum(0), abs=1e-5)
    assert atoms.info["atomic_method"] == method


def test_bond_orders_of_an_open_shell_are_those_of_both_spins_together():
    # Carbon of a methyl radical has three single bonds, whatever the spins; hydrogen has one.
    radical = state(molecule("CH3"), multiplicity=2)
    add_properties([radical], "GFN2-xTB")
    carbon, *hydrogens = radical.arrays["atomic_bond_orders"]
    assert carbon == pytest.approx(3.0, abs=0.1)
    assert hydrogens == pytest.approx([1.0] * 3, abs=0.05)


def test_a_frame_that_tblite_cannot_compute_has_none_and_is_counted():
    good, strange = state(molecule("H2O")), state(molecule("H2O"))
    strange.cell, strange.pbc = [8.0] * 3, (True, True, False)
    assert add_properties([good, strange], "GFN2-xTB") == 1
    assert set(COLUMNS) <= set(good.arrays)
    assert not set(COLUMNS) & set(strange.arrays)
    with pytest.raises(InputError, match=r"pretraining.atomic: GFN2-xTB could compute none of 1"):
        add_properties([strange], "GFN2-xTB")


def test_work_that_was_stopped_is_not_done_again(tmp_path, monkeypatch):
    drawn = springs("H2O", 6, energy_zero=0.0, seed=3)
    whole = [atoms.copy() for atoms in drawn]
    add_properties(whole, "GFN2-xTB")
    calculator, calls = tight_binding.calculator, []

    def counted(*arguments, **options):
        calls.append(1)
        return calculator(*arguments, **options)

    def stop(done, _total):
        if done == 4:
            raise Interrupted

    monkeypatch.setattr(tight_binding, "calculator", counted)
    saved = tmp_path / "saved.parquet"
    with pytest.raises(Interrupted):
        add_properties([atoms.copy() for atoms in drawn], "GFN2-xTB", saved=saved, progress=stop)
    add_properties(drawn, "GFN2-xTB", saved=saved)
    assert len(calls) == 6
    for first, second in zip(whole, drawn, strict=True):
        assert all((first.arrays[name] == second.arrays[name]).all() for name in COLUMNS)
    add_properties(drawn, "GFN1-xTB", saved=saved)
    assert len(calls) == 12, "another Hamiltonian's numbers are not taken"


def test_frames_keep_their_properties_in_files_and_older_files_have_none(tmp_path, frames):
    plain = frames[0].copy()
    for name in COLUMNS:
        del plain.arrays[name]
    del plain.info["atomic_method"]
    write_frames(tmp_path / "new.parquet", [frames[1], plain])
    kept, without = read_frames(tmp_path / "new.parquet")
    assert all((kept.arrays[name] == frames[1].arrays[name]).all() for name in COLUMNS)
    assert not set(COLUMNS) & set(without.arrays)
    field = pq.read_schema(tmp_path / "new.parquet").field("atomic_charges")
    assert field.metadata[b"unit"] == b"e"
    table = pq.read_table(tmp_path / "new.parquet").drop_columns([*COLUMNS, "atomic_method"])
    older = table.replace_schema_metadata({"halcyon.frames": "2"})
    pq.write_table(older, tmp_path / "old.parquet")
    (first, _) = read_frames(tmp_path / "old.parquet")
    assert first == frames[1]
    with pytest.raises(InputError, match=r"pretraining.atomic = .*none of the 2 frames has"):
        atomic.refuse_missing(read_frames(tmp_path / "old.parquet"), ["charges"], "GFN2-xTB")


def test_properties_of_another_hamiltonian_are_refused(frames):
    atomic.refuse_missing(frames, NAMES, "GFN2-xTB")
    with pytest.raises(InputError, match=r"atomic_method = GFN1-xTB: the frames have .* GFN2-xTB"):
        atomic.refuse_missing(frames, NAMES, "GFN1-xTB")


def test_scaled_properties_have_no_mean_of_an_element_and_a_spread_of_1(frames):
    properties = atomic.Properties.learn(frames, ["charges", "bond_orders"])
    scaled = np.concatenate([properties.of(atoms) for atoms in frames])
    numbers = np.concatenate([atoms.numbers for atoms in frames])
    for z in (1, 6, 8):
        assert scaled[numbers == z].mean(axis=0) == pytest.approx([0, 0], abs=1e-9)
    assert scaled.std(axis=0) == pytest.approx([1, 1])


LONGER = FitSettings(epochs=15, batch_size=5, learning_rate=0.03)
LARGER = ModelSettings(channels=8)


@pytest.fixture(scope="module")
def learned(tmp_path_factory, frames):
    """Folder and summary of a training with atomic properties."""
    folder = tmp_path_factory.mktemp("with")
    return folder, fit(folder, frames[:20], frames[20:], fit=LONGER, model=LARGER, atomic=NAMES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, frames):
    """Folder of a short training with atomic properties, not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    fit(folder, frames[:11], frames[11:16], atomic=NAMES)
    return folder


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory, frames):
    """Folder and summary of a short training without, of frames that have them."""
    folder = tmp_path_factory.mktemp("without")
    return folder, fit(folder, frames[:11], frames[11:16])


def test_readouts_learn_what_tblite_says_of_frames_that_were_held_out(learned, frames):
    curve, held_out = learned[1].epochs, frames[20:]
    for name, key, factor in (
        ("charges", "charges_mae_e", 1),
        ("energies", "atomic_energies_mae_meV", 1e3),
        ("bond_orders", "bond_orders_mae", 1),
    ):
        # What one is off by who knows the mean of each element, from a direct calculation.
        values = []
        for atoms in held_out:
            result = tight_binding.calculator(atoms, "GFN2-xTB").singlepoint()
            values.append(
                {
                    "charges": result.get("charges"),
                    "energies": result.get("energies") * 27.211386,
                    "bond_orders": result.get("bond-orders")[..., 0].sum(0),
                }[name]
            )
        values, numbers = np.concatenate(values), np.concatenate([a.numbers for a in held_out])
        means = {z: values[numbers == z].mean() for z in (1, 6, 8)}
        by_mean = factor * np.abs(values - [means[z] for z in numbers]).mean()
        assert getattr(curve[-1], key) < 0.6 * by_mean, name
        assert getattr(curve[-1], key) < getattr(curve[0], key), name
    assert curve[-1].loss < curve[0].loss


def test_the_model_that_is_written_has_the_ordinary_shape(whole, ordinary):
    first, second = (load(path / "m.model", device="cpu") for path in (whole, ordinary[0]))
    assert type(first) is type(second)
    shapes = [{k: v.shape for k, v in model.state_dict().items()} for model in (first, second)]
    assert shapes[0] == shapes[1]
    assert FastMace.of(first) is not None, "the fast evaluation knows it"


def test_columns_that_are_not_learned_change_nothing(tmp_path, frames, ordinary):
    plain = [atoms.copy() for atoms in frames]
    for atoms in plain:
        for name in COLUMNS:
            del atoms.arrays[name]
    fit(tmp_path, plain[:11], plain[11:16])
    assert same(tmp_path / "m.model", ordinary[0] / "m.model")
    assert ordinary[1].epochs[-1].charges_mae_e is None


def test_a_frame_without_properties_teaches_energies_and_forces_only(tmp_path, frames):
    some = [atoms.copy() for atoms in frames[:12]]
    for name in COLUMNS:
        del some[3].arrays[name], some[11].arrays[name]
    summary = fit(tmp_path, some[:9], some[9:], atomic=["charges"])
    assert all(np.isfinite(done.charges_mae_e) for done in summary.epochs)
    assert all(np.isfinite(v).all() for v in weights(tmp_path / "m.model").values())


def test_a_training_on_frames_without_the_column_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"pretraining.atomic = \['charges'\].*atomic_charges"):
        fit(tmp_path, *[springs("H2O", 3, energy_zero=0.0, seed=1)] * 2, atomic=["charges"])


def test_a_stopped_training_goes_on_with_its_readouts(tmp_path, frames, whole, ordinary):
    data = (frames[:11], frames[11:16])
    with pytest.raises(Interrupted):
        fit(tmp_path / "parts", *data, atomic=NAMES, progress=_stop_after_3)
    said = []
    fit(tmp_path / "parts", *data, atomic=NAMES, say=said.append)
    assert said == ["going on after epoch 3 of 6"]
    assert same(whole / "m.model", tmp_path / "parts/m.model")
    assert not same(whole / "m.model", ordinary[0] / "m.model")


def _stop_after_3(done):
    if done.epoch == 3:
        raise Interrupted


def test_settings_that_cannot_work_are_refused():
    for more in ({"enabled": False}, {"start": "m.model"}):
        with pytest.raises(ValueError, match=r"atomic = .*nothing is pre-trained"):
            PretrainingSettings(atomic=["charges"], **more)
    with pytest.raises(ValueError, match="different names"):
        PretrainingSettings(atomic=["charges", "charges"])


def test_a_system_that_tblite_cannot_compute_is_refused_before_the_first_job(
    quickstart,  # noqa: F811
):
    plan = with_settings(quickstart, "pretraining", atomic=["charges"])
    start = plan.start("ethanol")
    check_atomic(plan, [start], "c.yaml")
    start.numbers[0] = 92
    message = r"c.yaml: pretraining.atomic = \['charges'\]: .*structure ethanol: element U"
    with pytest.raises(InputError, match=message):
        check_atomic(plan, [start], "c.yaml")
    check_atomic(quickstart, [start], "c.yaml")
    theirs = with_settings(plan, "seed_labels", files=["a.xyz"], level="theirs")
    with pytest.raises(InputError, match=r"level: theirs"):
        check_atomic(theirs, [], "c.yaml")


def test_the_plan_counts_the_properties_of_the_teachers_frames(quickstart, monkeypatch):  # noqa: F811
    plan = replace(with_settings(quickstart, "pretraining", atomic=["charges"]), prepared=None)
    monkeypatch.setattr(trial, "cpu_clock", lambda: 0.0)
    monkeypatch.setattr(trial, "seconds_of_properties", lambda *_: 0.2)
    found = trial.forcefield(plan, tiny=True)
    # 0.2 s for each frame, whatever the steps between them take.
    total = found["seconds_per_step"] * work.units(plan, "forcefield", None)
    assert total == pytest.approx(0.2 * plan.settings.teacher.frames)
    assert "GFN2-xTB's atomic properties at 200.0 ms a frame" in found["about"]
    assert trial.forcefield(quickstart, tiny=True)["seconds_per_step"] == 0
