"""MACE: hand-over of the energy zero, determinism, batches, agreement with its calculator."""

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch_sim
from ase import Atoms
from ase.build import molecule
from mace.calculators import MACECalculator

from halcyon.config import FitSettings, ModelSettings
from halcyon.errors import InputError, Interrupted
from halcyon.frames import near_origin
from halcyon.models import energy_zero, groups, mace, training
from halcyon.models.graphs import graphs

TINY = ModelSettings(channels=4, layers=2, correlation=1, r_max_A=3.0, radial_basis=4)
FIT = FitSettings(epochs=6, batch_size=5, learning_rate=0.02)
ELEMENTS = [1, 6, 8]


def springs(name, n, *, energy_zero, seed, stiffness=1.0):
    """Frames of a molecule with a harmonic pair potential of its own: E in eV, F in eV/Å."""
    rng = np.random.default_rng(seed)
    start = molecule(name)
    first, second = np.triu_indices(len(start), 1)
    rest = start.get_all_distances()[first, second]
    frames = []
    for _ in range(n):
        atoms = Atoms(start.numbers, start.positions + rng.normal(0, 0.08, (len(start), 3)))
        vectors = atoms.positions[first] - atoms.positions[second]
        lengths = np.linalg.norm(vectors, axis=1)
        stretch = lengths - rest
        forces = np.zeros((len(atoms), 3))
        pull = stiffness * (stretch / lengths)[:, None] * vectors
        np.add.at(forces, first, -pull)
        np.add.at(forces, second, pull)
        atoms.info |= {"energy": energy_zero + 0.5 * stiffness * float(stretch @ stretch)}
        atoms.info |= {"charge": 0, "multiplicity": 1}
        atoms.arrays["forces"] = forces
        frames.append(atoms)
    return frames


def fit(tmp, train, validation, *, name="m.model", replay=(), replay_weight=0.0, **changes):
    recipe = {"elements": ELEMENTS, "model": TINY, "fit": FIT, "seed": 3}
    callbacks = {
        field: changes.pop(field)
        for field in training.Callbacks.__dataclass_fields__
        if field in changes
    }
    return training.train(
        train,
        validation,
        training.Recipe(**(recipe | changes)),
        out=tmp / name,
        work=tmp / "work",
        replay=training.Replay(replay, replay_weight),
        callbacks=training.Callbacks(**callbacks),
    )


def mean_error(path, frames):
    predicted = mace.evaluate(path, frames).energy
    return abs(np.mean(predicted - [atoms.info["energy"] for atoms in frames]))


@pytest.fixture(scope="module")
def teacher_frames():
    return springs("CH3OH", 23, energy_zero=0.7, seed=1, stiffness=3.0)


@pytest.fixture(scope="module")
def labels():
    return springs("CH3OH", 15, energy_zero=-310.0, seed=2, stiffness=2.5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, teacher_frames):
    """A trained model, its summary, its folder and the progress that was reported."""
    tmp = tmp_path_factory.mktemp("trained")
    reported = []
    summary = fit(tmp, teacher_frames[:18], teacher_frames[18:], progress=reported.append)
    return tmp, summary, reported


@pytest.fixture(scope="module")
def model(trained):
    return trained[0] / "m.model"


def batched(model, dtype="float64", **options):
    loaded = mace.load(model, device="cpu", dtype=dtype)
    return mace.BatchedMace(loaded, **options)


def as_state(frames, dtype=torch.float64):
    return torch_sim.io.atoms_to_state(frames, torch.device("cpu"), dtype)


def test_e0s_of_one_composition_explain_its_energy_and_not_that_of_strays():
    frames = springs("CH3OH", 9, energy_zero=-310.0, seed=1)
    for atoms, off in zip(frames, [0, 0.01, -0.01, 0.02, -0.02, 0.03, -0.03, 9, 40], strict=True):
        atoms.info["energy"] = -310.0 + off
    e0s = energy_zero.fit_e0s(frames)
    # The mean is 5.4 eV off. SciPy's least_squares with loss="huber" of these nine numbers: first
    # with 1.345 times the scale by the median of their distances, which follows the fit; then with
    # 5 times that scale. -309.9508.
    assert e0s[6] + 4 * e0s[1] + e0s[8] == pytest.approx(-309.9508, abs=1e-4)


def test_e0s_of_several_compositions_are_recovered():
    truth = {1: -13.6, 6: -1029.0, 8: -2041.0}
    frames = [molecule(name) for name in ("H2", "H2O", "CH4", "CH3OH", "CO2")]
    for atoms in frames:
        atoms.info["energy"] = sum(truth[z] for z in atoms.numbers)
    assert energy_zero.fit_e0s(frames) == pytest.approx(truth)


def test_training_learns_reports_every_epoch_and_leaves_no_litter(trained, teacher_frames):
    tmp, summary, reported = trained
    assert summary.epochs == reported
    assert [done.epoch for done in reported] == list(range(1, 7))
    assert all(done.of == 6 for done in reported)
    assert reported[-1].loss < reported[0].loss
    kept = reported[summary.best_epoch - 1]
    validation = teacher_frames[18:]
    errors = mace.errors(mace.evaluate(tmp / "m.model", validation), validation)
    # What was reported for the kept epoch is what the written model does.
    assert errors["forces_mae_meV_per_A"] == pytest.approx(kept.forces_mae_meV_per_A, rel=1e-3)
    assert mean_error(tmp / "m.model", teacher_frames[:18]) < 1e-3
    assert sorted(path.name for path in tmp.iterdir()) == ["m.model", "work"]
    assert not list(tmp.rglob("*.pt"))


def test_training_disturbs_neither_logging_nor_precision_nor_output(
    tmp_path, teacher_frames, capsys
):
    root = logging.getLogger()
    before = (root.handlers[:], root.filters[:], root.level, torch.get_default_dtype())
    short = FIT.model_copy(update={"epochs": 1})
    fit(tmp_path, teacher_frames[:5], teacher_frames[5:7], fit=short)
    assert (root.handlers[:], root.filters[:], root.level, torch.get_default_dtype()) == before
    assert capsys.readouterr().out == ""


def test_same_seed_gives_bitwise_the_same_model(trained, tmp_path, teacher_frames):
    fit(tmp_path, teacher_frames[:18], teacher_frames[18:])
    first = mace.evaluate(trained[0] / "m.model", teacher_frames)
    second = mace.evaluate(tmp_path / "m.model", teacher_frames)
    assert (first.energy == second.energy).all()
    assert all((a == b).all() for a, b in zip(first.forces, second.forces, strict=True))


def test_hand_over_leaves_no_energy_offset(model, tmp_path, labels):
    train, validation = labels[:10], labels[10:]
    untouched = mean_error(model, train)
    assert untouched > 300  # the two energy zeros have nothing to do with each other
    one = FIT.model_copy(update={"epochs": 1, "learning_rate": 1e-6})
    summary = fit(tmp_path, train, validation, start=model, fit=one)
    # Nor did the training itself see one: 310 eV would be 52 eV per atom.
    assert summary.epochs[0].energy_mae_meV_per_atom < 300
    assert mean_error(tmp_path / "m.model", train) < 1e-3
    # The atoms' interaction energies go on where they were.
    before = mace.evaluate(model, train).node_energy
    after = mace.evaluate(tmp_path / "m.model", train).node_energy
    np.testing.assert_allclose(np.concatenate(after), np.concatenate(before), atol=1e-3)


def test_fine_tuning_improves_on_the_labels(model, tmp_path, labels):
    train, validation = labels[:10], labels[10:]
    summary = fit(tmp_path, train, validation, start=model)
    assert summary.epochs[-1].forces_mae_meV_per_A < summary.epochs[0].forces_mae_meV_per_A
    assert mean_error(tmp_path / "m.model", train) < 0.5  # of 311 eV


def test_start_is_not_changed(model, tmp_path, labels):
    before = model.read_bytes()
    one = FIT.model_copy(update={"epochs": 1})
    fit(tmp_path, labels[:10], labels[10:], start=model, fit=one)
    assert model.read_bytes() == before


def test_elements_that_no_training_frame_holds_are_in_the_model(tmp_path):
    frames = springs("H2O", 8, energy_zero=-5.0, seed=1)
    one = FIT.model_copy(update={"epochs": 1})
    # Fewer frames than a batch, and an element without a frame.
    summary = fit(tmp_path, frames[:3], frames[3:], fit=one)
    assert summary.e0s[6] == 0.0
    predictions = mace.evaluate(tmp_path / "m.model", [molecule("CH4")])
    assert np.isfinite(predictions.energy).all()


def test_wrong_frames_are_named(tmp_path, model, labels):
    with pytest.raises(InputError, match="validation frames hold C, O"):
        fit(tmp_path, springs("H2", 2, energy_zero=0, seed=1), labels, elements=[1])
    with pytest.raises(InputError, match="no training frames"):
        fit(tmp_path, [], labels)
    with pytest.raises(InputError, match="lacks N; it knows H, C, O"):
        fit(tmp_path, labels[:3], labels[3:5], elements=[1, 6, 7, 8], start=model)
    with pytest.raises(InputError, match="not N"):
        mace.evaluate(model, [molecule("NH3")])
    with pytest.raises(InputError, match="no such model"):
        mace.load(tmp_path / "missing.model")


def test_what_progress_raises_ends_the_training(tmp_path, labels):
    def stop(_):
        raise Interrupted

    with pytest.raises(Interrupted):
        fit(tmp_path, labels[:5], labels[5:8], progress=stop)
    assert not (tmp_path / "m.model").exists()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-8)])
@pytest.mark.parametrize("periodic", [False, True])
def test_batch_agrees_with_maces_own_calculator(model, labels, dtype, tolerance, periodic):
    frames = [labels[0], springs("H2O", 1, energy_zero=0, seed=5)[0], labels[1]]
    if periodic:
        frames = [Atoms(a.numbers, a.positions, cell=[3.4, 4.0, 5.0], pbc=True) for a in frames]
    result = batched(model, dtype)(as_state(frames, mace.DTYPES[dtype]))
    calculator = MACECalculator(model_paths=str(model), device="cpu", default_dtype=dtype)
    begin = 0
    for system, frame in enumerate(frames):
        atoms = frame.copy()
        atoms.calc = calculator
        part = slice(begin, begin := begin + len(atoms))
        energy = float(result["energy"][system])
        assert energy == pytest.approx(atoms.get_potential_energy(), abs=10 * tolerance)
        np.testing.assert_allclose(result["forces"][part], atoms.get_forces(), atol=tolerance)
        nodes = calculator.results["node_energy"]
        np.testing.assert_allclose(result["node_energy"][part], nodes, atol=10 * tolerance)
        descriptors = calculator.get_descriptors(atoms)
        np.testing.assert_allclose(result["descriptors"][part], descriptors, atol=10 * tolerance)


def test_stress_agrees_with_maces_own_calculator(model):
    atoms = molecule("CH3OH", cell=[3.4, 4.0, 5.0], pbc=True)
    result = batched(model, compute_stress=True)(as_state([atoms]))
    calculator = MACECalculator(model_paths=str(model), device="cpu", default_dtype="float64")
    atoms.calc = calculator
    np.testing.assert_allclose(result["stress"][0], atoms.get_stress(voigt=False), atol=1e-8)


def test_every_search_for_neighbours_finds_the_same(model, labels, monkeypatch):
    state = as_state(labels[:3])
    compared = batched(model)(state)
    # Each is given up in turn: what is left is a rectangle of all pairs, a list of pairs, cells.
    for bound in ("COMPARED_MAX_ATOMS", "ALL_NEIGHBOURS_MAX_ATOMS", "ALL_PAIRS_MAX_ATOMS"):
        monkeypatch.setattr(groups, bound, 0)
        found = batched(model)(state)
        for name in compared:
            torch.testing.assert_close(found[name], compared[name])


def test_node_energies_and_e0s_sum_to_the_energy(model, labels):
    predictions = mace.evaluate(model, labels[:2])
    table = mace.load(model, dtype="float64").atomic_energies_fn.atomic_energies[0]
    e0s = dict(zip(ELEMENTS, table.tolist(), strict=True))
    for atoms, energy, nodes in zip(
        labels, predictions.energy, predictions.node_energy, strict=False
    ):
        assert sum(e0s[z] for z in atoms.numbers) + nodes.sum() == pytest.approx(energy)


def test_batches_may_shrink_and_change(model, labels):
    water = springs("H2O", 2, energy_zero=0, seed=5)
    wrapper = batched(model)
    for frames in (labels[:4], labels[1:3], [water[0], labels[2]], [labels[2], water[0]], water):
        # The same sizes in another order, too: the cache must not mistake them.
        together = wrapper(as_state(frames))
        alone = [batched(model)(as_state([atoms])) for atoms in frames]
        for name in together:
            torch.testing.assert_close(together[name], torch.cat([one[name] for one in alone]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("periodic", [False, True])
def test_a_replica_that_blew_up_is_nan_and_alone(model, labels, wrong, periodic):
    frames = [atoms.copy() for atoms in labels[:3]]
    for atoms in frames:
        atoms.set_cell([8.0] * 3)
        atoms.pbc = periodic
    wrapper = batched(model)
    good = wrapper(as_state(frames))
    frames[1].positions[2, 0] = wrong
    state = as_state(frames)
    bad = wrapper(state)
    for name, values in bad.items():
        mine = torch.arange(3) == 1 if name == "energy" else state.system_idx == 1
        assert values[mine].isnan().all()
        torch.testing.assert_close(values[~mine], good[name][~mine])


def test_state_is_left_alone(model, labels):
    state = as_state(labels[:2])
    before = state.positions.clone()
    result = batched(model)(state)
    assert (state.positions == before).all()
    assert not state.positions.requires_grad
    assert not any(values.requires_grad for values in result.values())


def test_evaluate_takes_any_mixture_in_order(model, labels):
    frames = [labels[0], molecule("H2O"), molecule("CH4", cell=[9, 9, 9], pbc=True), labels[1]]
    together = mace.evaluate(model, frames, batch_size=3)
    for index, atoms in enumerate(frames):
        alone = mace.evaluate(model, [atoms])
        assert together.energy[index] == pytest.approx(alone.energy[0], abs=1e-5)
        np.testing.assert_allclose(together.forces[index], alone.forces[0], atol=1e-5)
        assert together.node_energy[index].shape == (len(atoms),)
        assert len(together.descriptors[index]) == len(atoms)


def test_evaluate_of_no_frames_is_empty(model):
    assert mace.evaluate(model, []).energy.shape == (0,)


def test_errors_are_per_atom_and_per_component():
    atoms = Atoms("H2", positions=np.zeros((2, 3)))
    atoms.info["energy"] = 1.0
    atoms.arrays["forces"] = np.zeros((2, 3))
    forces = np.zeros((2, 3))
    forces[0, 0] = 0.6
    predictions = mace.Predictions(np.array([1.02]), [forces], [], [])
    assert mace.errors(predictions, [atoms]) == pytest.approx(
        {
            "energy_mae_meV_per_atom": 10.0,
            "energy_rmse_meV_per_atom": 10.0,
            "forces_mae_meV_per_A": 100.0,
            "forces_rmse_meV_per_A": 600 / np.sqrt(6),
        }
    )


@pytest.mark.parametrize("far_A", [30.0, 1e3, 1e5])
def test_a_molecule_far_from_the_origin_has_the_forces_of_one_that_is_not(far_A):
    with mace.precision(torch.float32):
        torch.manual_seed(4)
        e0s = dict.fromkeys(ELEMENTS, 0.0)
        model = mace.new(TINY, e0s, scale=1.0, mean_neighbours=4.0)
    (near,) = springs("CH3CH2OH", 1, energy_zero=0.0, seed=2)
    far = near.copy()
    far.positions += far_A * np.array([1.0, -0.7, 0.4])
    far.arrays["forces"] = near.arrays["forces"]
    expected, predicted = (mace.evaluate(model, [atoms]) for atoms in (near, far))
    np.testing.assert_allclose(predicted.forces[0], expected.forces[0], atol=2e-5)
    np.testing.assert_allclose(predicted.node_energy[0], expected.node_energy[0], atol=2e-6)
    learned = [graph.positions for graph in graphs([near, far], model, e0s)]
    np.testing.assert_allclose(
        *(torch.pdist(positions).numpy() for positions in learned), atol=1e-5
    )


def test_a_periodic_frame_and_a_molecule_at_its_place_are_left_as_they_are():
    box = Atoms("H", positions=[[500.0, 0, 0]], cell=[5.0] * 3, pbc=True)
    assert near_origin(box) is box
    near = molecule("H2O")
    assert near_origin(near) is near


def test_evaluating_loads_no_compiler_and_leaves_it_for_others(model):
    program = (
        "import sys\n"
        "from ase.build import molecule\n"
        "from halcyon.models import mace\n"
        f"model = mace.load({str(model)!r}, device='cpu', dtype='float32')\n"
        "mace.evaluate(model, [molecule('H2O')])\n"
        "print('torch._dynamo' in sys.modules)\n"
        "import torch._dynamo\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
