import numpy as np
import pytest

from halcyon import domain
from halcyon.domain import Domain
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
    return domain.build(**(arguments | changed))


def test_the_bare_interval_is_left_as_often_as_theory_says():
    # n exchangeable draws: a further one lies outside their range with probability 2/(n + 1).
    outside = []
    for seed in range(2000):
        random = np.random.default_rng(seed)
        low, high = domain.bare_interval(random.normal(size=50))
        outside.append(domain.signed_scores(random.normal(size=1), low, high)[0] > 0)
    assert np.mean(outside) == pytest.approx(2 / 51, abs=0.01)


def reached(found):
    """Probability that an atom of a fresh frame is outside, measured on many."""
    fresh = frames(50_000, seed=4)
    outside = {
        name: np.mean(
            domain.signed_scores(np.concatenate([f[name] for f in fresh]), *found.label[name]) > 0
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
    assert high - low >= domain.SMALLEST_WIDTH_EV


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
