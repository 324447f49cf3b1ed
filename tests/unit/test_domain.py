from collections import Counter

import numpy as np
import pytest

from conftest import ROOT
from halcyon.domain import intervals
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError

CLASSES = {"water": ["O", "H", "H"]}
BONDS = {"water": [(0, 1, 0.96), (0, 2, 0.96)]}


def frames(number, seed, spread=0.1):
    random = np.random.default_rng(seed)
    return [
        {"O": random.normal(-5, spread, 1), "H": random.normal(-2, spread, 2)}
        for _ in range(number)
    ]


def pooled(drawn):
    return {name: np.concatenate([frame[name] for frame in drawn]) for name in ("O", "H")}


def build(**changed):
    arguments = {
        "train": pooled(frames(50, seed=1)),
        "teacher": {},
        "held_out": frames(200, seed=2),
        "check": frames(200, seed=3),
        "classes": CLASSES,
        "bonds": BONDS,
        "alpha": 1e-3,
        "seed": 0,
    }
    return intervals.build(**(arguments | changed))


def test_the_bare_interval_is_left_as_often_as_theory_says():
    # n exchangeable draws: a further one lies outside their range with probability 2/(n + 1).
    outside = []
    for seed in range(2000):
        random = np.random.default_rng(seed)
        low, high = intervals.bare_interval(random.normal(size=50))
        outside.append(intervals.signed_scores(random.normal(size=1), low, high)[0] > 0)
    assert np.mean(outside) == pytest.approx(2 / 51, abs=0.01)


def reached(found):
    """Probability that an atom of a fresh frame is outside, measured on many."""
    fresh = frames(50_000, seed=4)
    outside = {
        name: np.mean(
            intervals.signed_scores(np.concatenate([f[name] for f in fresh]), *found.label[name])
            > 0
        )
        for name in ("O", "H")
    }
    return (outside["O"] + 2 * outside["H"]) / 3


def test_the_margin_brings_the_exceedance_to_alpha():
    found = build(held_out=frames(500, seed=2))
    assert found.margin.method == "peaks-over-threshold"
    assert found.margin.low <= found.margin.value <= found.margin.high
    assert 2e-4 < reached(found) < 5e-3
    assert found.report["exceedance_bare"]["fraction"] > 5 * reached(found)


def test_a_short_tail_errs_on_the_safe_side():
    # Of a normal distribution, whose tail is lighter than the exponential that is assumed.
    assert reached(build(held_out=frames(60, seed=2))) < 1e-3


def test_few_frames_are_calibrated_conformally_and_say_so():
    found = build(held_out=frames(10, seed=2))
    assert found.margin.method == "conformal"
    assert found.margin.alpha == pytest.approx(1 / 31)
    assert found.margin.n == 30


def test_the_guard_contains_the_label_domain_and_the_teacher():
    found = build(teacher={"O": np.array([-30.0, 4.0]), "H": np.array([-2.0])})
    assert found.guard["O"] == (-30.0, 4.0)
    assert found.guard["H"] == found.label["H"]
    assert build().guard == build().label


def test_a_single_training_value_gives_a_narrow_but_finite_interval():
    train = pooled(frames(50, seed=1)) | {"O": np.array([-5.0])}
    low, high = build(train=train).label["O"]
    assert low < -5.0 < high
    assert high - low >= intervals.SMALLEST_WIDTH_EV


def test_a_class_without_training_structures_is_an_error_that_names_it():
    with pytest.raises(InputError, match="class O"):
        build(train={"H": np.array([1.0, 2.0])})
    with pytest.raises(InputError, match="no held-out labels"):
        build(held_out=[])


def test_written_and_read_again_it_is_the_same(tmp_path):
    found = build()
    found.write(tmp_path / "domain.json")
    assert Domain.read(tmp_path / "domain.json") == found
    (tmp_path / "domain.json").write_text("{}")
    with pytest.raises(InputError, match="schema"):
        Domain.read(tmp_path / "domain.json")


def test_intervals_follow_the_batch():
    found = build()
    bounds = found.intervals("label", ["water", "water"])
    assert bounds.shape == (2, 6)
    assert bounds[:, 3].tolist() == list(found.label["O"])
    assert bounds[:, 5].tolist() == list(found.label["H"])


def test_a_file_of_schema_1_is_still_read():
    # Written by 0.1.0's first campaigns.
    found = Domain.read(ROOT / "tests/data/domain/v1.json")
    assert len(found.classes["ethanol"]) == 9
    assert found.label.keys() == found.guard.keys() == set(found.classes["ethanol"])
    assert found.margin.method == "peaks-over-threshold"
    assert found.environments == found.signals == {}
    assert found.intervals("guard", ["ethanol"]).shape == (2, 9)


def test_a_threshold_is_never_under_its_floor():
    drawn = [np.random.default_rng(i).normal(size=20) for i in range(20)]
    free = intervals.calibrate_margin(drawn, 1e-3, seed=0)
    assert free.value > 2
    floored = intervals.calibrate_margin(drawn, 1e-3, seed=0, floor=10.0)
    assert (floored.value, floored.low, floored.high) == (10, 10, 10)


def two_surroundings(number, seed):
    """Oxygen in two kinds of surroundings, 100 : 40; hydrogen in one."""
    random = np.random.default_rng(seed)
    elements, descriptors = [], []
    for i in range(number):
        kind = 0.0 if i % 7 < 5 else 5.0
        elements.append(["O", "H"])
        values = [[kind, 100.0], [0, 100]] + random.normal(size=(2, 2)) * [0.3, 1e-3]
        descriptors.append(values)
    return elements, descriptors


def test_environments_are_the_surroundings_that_there_are():
    elements, descriptors = two_surroundings(140, seed=0)
    found = intervals.fit_environments(elements, descriptors, seed=0)
    names = [
        intervals.environment_classes(found, e, d)
        for e, d in zip(elements, descriptors, strict=True)
    ]
    # More clusters may split a kind; none mixes them, and all have their training atoms.
    kinds = {name: set() for pair in names for name in pair}
    for i, (oxygen, _) in enumerate(names):
        kinds[oxygen].add(i % 7 < 5)
    assert all(len(mixed) == 1 for name, mixed in kinds.items() if name.startswith("O"))
    counts = Counter(name for pair in names for name in pair)
    assert min(counts.values()) >= intervals.ENVIRONMENT_VALUES
    assert counts["O/0"] >= counts["O/1"]
    assert intervals.fit_environments(elements, descriptors, seed=0) == found
    with pytest.raises(InputError, match="class Xe"):
        intervals.environment_classes(found, ["Xe"], np.zeros((1, 2)))


def test_few_atoms_are_one_environment():
    elements, descriptors = two_surroundings(20, seed=0)
    found = intervals.fit_environments(elements, descriptors, seed=0)
    assert {element: len(one.centroids) for element, one in found.items()} == {"H": 1, "O": 1}
