"""Parts of `benchmarks/signal_truth.py` against what is known otherwise; nothing is trained."""

import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from sklearn.metrics import roc_auc_score
from test_batched_mace import random_model

from conftest import ROOT
from halcyon.domain.curves import Curve, Pairs
from halcyon.domain.expected import ExpectedErrors
from halcyon.models import mace


@pytest.fixture(scope="module")
def part():
    """A module of the benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module


@pytest.fixture(scope="module")
def model():
    return random_model()


def frames_near(number, spread, seed):
    random = np.random.default_rng(seed)
    frames = []
    for _ in range(number):
        atoms = Atoms(molecule("H2O"))
        atoms.positions += random.normal(scale=spread, size=(3, 3))
        atoms.info |= {"structure": "water", "energy": 0.0}
        atoms.arrays["forces"] = np.zeros((3, 3))
        frames.append(atoms)
    return frames


def seen(part, model, frames):
    return part("signals.described").described(model, frames, {"water": ["O", "H", "H"]})


def known(part, model):
    train, held_out = (
        seen(part, model, frames_near(n, 0.05, seed)) for n, seed in ((40, 1), (9, 2))
    )
    return part("signals.distances").Known(train, held_out, None, 1)


def test_forces_are_the_slopes_of_the_last_layer(part, model):
    # The weights, and the model's shift, are fitted to energies; forces come from MACE itself.
    frames = seen(part, model, frames_near(12, 0.1, 3))
    features = np.column_stack([frames.readout, np.ones(len(frames.readout))])
    weights, *_ = np.linalg.lstsq(features, frames.node_energy, rcond=None)
    assert features @ weights == pytest.approx(frames.node_energy, abs=1e-4)
    assert -frames.slopes @ weights[:-1] == pytest.approx(frames.forces, abs=1e-3)
    assert np.abs(frames.forces).max() > 0.01


def test_every_signal_gives_each_atom_a_number_and_distorted_frames_more(part, model):
    distances = part("signals.distances")
    of_model = known(part, model)
    alike, unlike = (
        seen(part, model, frames_near(20, spread, seed)) for spread, seed in ((0.05, 4), (0.4, 5))
    )
    for name, make in distances.SIGNALS.items():
        if name == "guard":
            continue  # of pre-trained models
        measure = make(of_model)
        values = measure(alike), measure(unlike)
        assert values[0].shape == values[1].shape == (60,), name
        if name.startswith(("latent", "nearest", "mixture", "pair", "bond")):
            assert np.median(values[1]) > np.median(values[0]), name


def test_the_signal_is_carried_to_neighbours(part, model):
    distances = part("signals.distances")
    frames = seen(part, model, frames_near(1, 0.0, 1))
    measure = lambda _: np.array([0.0, 4.0, 0.0])  # noqa: E731
    # Water: both hydrogens are bonded to the oxygen, atom 0, and not to each other.
    assert distances.around(measure, "max", bonded=True)(frames).tolist() == [4, 4, 0]
    assert distances.around(measure, "mean", bonded=True)(frames) == pytest.approx([4 / 3, 2, 0])
    assert distances.around(measure, "max", bonded=False)(frames).tolist() == [4, 4, 4]


def test_detection_is_that_of_scikit_learn(part):
    judging = part("signals.judging")
    random = np.random.default_rng(1)
    bad = random.random(600) < 0.2
    value = random.normal(size=600) + bad
    estimates = judging.detected(value, bad, np.arange(600) // 6, judging.Plan(resamples=50))
    assert estimates["auroc"]["value"] == pytest.approx(roc_auc_score(bad, value), abs=1e-3)
    assert estimates["auroc"]["low"] < estimates["auroc"]["value"] < estimates["auroc"]["high"]
    limit = np.quantile(value[~bad], 0.95)
    assert estimates["recall"]["value"] == pytest.approx((value[bad] > limit).mean(), abs=0.02)


def test_few_bad_atoms_are_not_enough(part):
    judging = part("signals.judging")
    bad = np.zeros(50, dtype=bool)
    bad[:2] = True
    estimates = judging.detected(np.arange(50.0), bad, np.arange(50), judging.Plan(resamples=50))
    assert estimates["auroc"]["value"] is None


def test_models_are_the_units_of_a_mean(part):
    combined = part("signals.summary").combined
    close = [{"value": v, "low": v - 0.1, "high": v + 0.1} for v in (0.80, 0.80, 0.80)]
    # Three equal models, each ±0.1: the mean is ±0.1/√3.
    assert combined(close)["high"] == pytest.approx(0.80 + 0.1 / 3**0.5, abs=1e-4)
    apart = [{"value": v, "low": v - 0.01, "high": v + 0.01} for v in (0.70, 0.80, 0.90)]
    # Standard error 0.1/√3 between models, Student's t for two degrees of freedom: 4.303.
    assert combined(apart)["low"] == pytest.approx(0.80 - 4.303 * 0.1 / 3**0.5, abs=1e-3)
    assert combined([{"value": None}]) is None


def test_droplets_are_whole_and_round(part):
    systems = part("signals.systems")
    atoms = systems.droplet(12, "Na", seed=1)
    assert atoms.get_chemical_formula() == "H24NaO12"
    oxygen = atoms[atoms.numbers == 8]
    assert np.linalg.norm(oxygen.positions - atoms.positions[0], axis=1).max() < 4.6
    assert atoms.get_all_distances()[np.triu_indices(len(atoms), 1)].min() > 0.9


def test_the_list_and_a_missing_folder_are_named(part, tmp_path, capsys):
    truth = part("signal_truth")
    truth.main(["--list", "--only", "ethanol", "--cells", str(tmp_path)])
    assert "ethanol_1000K_scratch-50_1" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no cell yet"):
        truth.main(["--summary", "--cells", str(tmp_path)])


def test_kept_cells_are_summarised(part, tmp_path, capsys):
    truth = part("signal_truth")
    truth.main(["--summary", "--json", str(tmp_path / "all.json")])
    summary = json.loads((tmp_path / "all.json").read_text())
    for measure in ("auroc", "recall", "cost_fraction"):
        assert "latent" in summary[measure]
    assert "AUROC" in capsys.readouterr().out


def test_expected_errors_are_judged_part_by_part(part):
    truth = part("expected_errors")
    distance = np.arange(1, 11) / 10
    curve = Curve(distance=[1.0], error=[0.6], source="class", pairs=9)
    # It expects 0.6 everywhere. True are 0.3 on the nearer half, 0.6 on the next 40 %, 1.2 at last.
    seen = Pairs(
        {"latent": distance[::-1]},
        np.repeat([1.2, 0.6, 0.3], [1, 4, 5]),
        np.full(10, "O"),
        np.arange(10),
        np.ones(10),
    )
    expected = ExpectedErrors(
        tolerance_eV_per_A=0.5, signals=["latent"], curves={"latent": {"O": curve}}
    )
    numbers = truth.judged(expected, seen)
    assert [numbers[name] for name in ("low", "middle", "top")] == pytest.approx([2.0, 1.0, 0.5])
    assert [numbers[name] for name in ("bad", "bad_flagged", "good_flagged")] == [5, 1.0, 1.0]
    assert numbers["auroc"] == 0.5
    # One that grows with the distance ranks the ten frames as their errors do, but for ties.
    rising = Curve(distance=[0.1, 1.0], error=[0.3, 1.2], source="class", pairs=9)
    numbers = truth.judged(replace(expected, curves={"latent": {"O": rising}}), seen)
    assert numbers["auroc"] == 1.0
    # By hand, with ties of 4 and of 5: √((10³ − 10 − (4³ − 4) − (5³ − 5)) / (10³ − 10)).
    assert numbers["frames_rank"] == pytest.approx((810 / 990) ** 0.5)
    assert numbers["worst_expected"] == numbers["worst"] == 1.0  # 20 are asked for, of ten


def test_a_retrospective_gives_the_error_of_its_model(part, model):
    retrospective = part("retrospective")
    frames = frames_near(5, 0.05, 4)
    predicted = mace.evaluate(model, frames).forces
    for number, (atoms, forces) in enumerate(zip(frames, predicted, strict=True)):
        atoms.arrays["forces"] = forces + (0.1 * number if number else 0.7)
    # By hand: all components of a frame are wrong by 0.7, 0.1, 0.2, 0.3 and 0.4 eV/Å.
    numbers = retrospective.errors(model, frames)
    assert numbers["forces_mae_meV_per_A"]["value"] == pytest.approx(340)
    assert numbers["forces_median_meV_per_A"] == pytest.approx(300)
    # Of an atom: √3 times as much, which is over 0.5 from 0.3 on.
    assert numbers["atoms_over_0.5_eV_per_A"] == pytest.approx(3 / 5)


def test_a_retrospectives_table_has_the_truth_beside_the_last_verdict(part):
    retrospective = part("retrospective")
    said = {
        "generation": 0,
        "labels": {"train": 50},
        "test_forces_mae_meV_per_A": 40.4,
        "audit_forces_mae_meV_per_A": {},
        "audit_frames": 1,
        "events_bound_per_ns": None,
        "calm": "not enough data",
        "audit": "missed",
    }
    audited = {"value": 101.3, "low": 13.0, "high": 785.8}
    last = said | {"generation": 1, "events_bound_per_ns": 99.5}
    last |= {"audit_forces_mae_meV_per_A": audited}
    truth = {"nm": {"forces_mae_meV_per_A": {"value": 24.1, "low": 19.2, "high": 28.0}}}
    cell = {"channel": "15", "temperature_K": 500.0, "generations": [said, last], "truth": truth}
    *_, first, second = retrospective.table([cell]).splitlines()
    assert first == "| 15 | 500 | 0 | 50 | 40 | – (1) | – | not enough data; audit: missed |  |  |"
    assert "| 101, up to 786 (1) | 99.5 | not enough data; audit: missed |" in second
    assert second.endswith("| – | 24 (19–28) |")
