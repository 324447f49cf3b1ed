"""Expected force errors: staircases made by hand, and made-up signals that see or do not."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from halcyon.domain import curves, expected
from halcyon.domain.curves import Curve, Pairs
from halcyon.domain.expected import ExpectedErrors, fit_expected
from halcyon.domain.intervals import Calibration, Domain, SignalData
from halcyon.domain.margins import Margin
from halcyon.domain.signals import ExpectedError

ELEMENTS = {"O": "O", "H0": "H", "H1": "H"}
CLASSES = np.array(["O", "H0", "H1"])
TOLERANCE = 0.3


def pairs_of(distances, error, *, frame=None, classes=None, weight=None):
    n = len(error)
    return Pairs(
        distances={name: np.asarray(values, dtype=float) for name, values in distances.items()},
        error=np.asarray(error, dtype=float),
        classes=np.full(n, "O") if classes is None else classes,
        frame=np.arange(n) // 5 if frame is None else frame,
        weight=np.ones(n) if weight is None else weight,
    )


def fit(pairs, elements=ELEMENTS, **changed):
    return fit_expected(pairs, elements, **({"tolerance_eV_per_A": TOLERANCE, "seed": 1} | changed))


def staircase(steps, *, each=50):
    """Pairs at a few distances, of constant error at each."""
    distance = np.repeat([d for d, _ in steps], each)
    return pairs_of({"latent": distance}, np.repeat([e for _, e in steps], each))


def seen(number, *, noise=0.5, seed=1, **blind):
    """Atoms of three classes; `latent` is proportional to the error but for noise."""
    random = np.random.default_rng(seed)
    error = random.lognormal(np.log(0.1), 1.0, number)
    distances = {"latent": error * random.lognormal(0, noise, number)}
    distances |= {name: random.uniform(size=number) for name in blind}
    return pairs_of(
        distances, error, classes=np.resize(CLASSES, number), frame=np.arange(number) // 9
    )


@pytest.mark.parametrize("number", [1, 2, 7, 300])
def test_a_fit_is_that_of_scikit_learn_with_ties_and_weights(number, monkeypatch):
    monkeypatch.setattr(curves, "GROUP", 1)
    random = np.random.default_rng(number)
    distance = np.round(random.uniform(0, 5, number), 1)  # many are the same
    error = 0.1 * distance + random.uniform(0.01, 0.6, number)
    weight = random.uniform(0.1, 1, number)
    pairs = pairs_of({"latent": distance}, error, weight=weight)
    found = curves.steps(distance, pairs, np.ones(number, bool))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(distance, error, sample_weight=weight)
    grid = np.linspace(0, 5, 101)
    np.testing.assert_allclose(
        np.interp(grid, found.distance, found.error), theirs.predict(grid), rtol=1e-12
    )
    assert len(found.distance) == len(theirs.X_thresholds_)


def test_a_staircase_is_found_and_its_steps_are_joined_by_straight_lines():
    curve = fit(staircase([(1, 0.1), (2, 0.2), (3, 0.5)])).curves["latent"]["O"]
    # By hand: 0.1 before 1; halfway between steps.
    found = curve.at(np.array([0.0, 0.9, 1.5, 2.5, 3.0]))
    np.testing.assert_allclose(found, [0.1, 0.1, 0.15, 0.35, 0.5])
    assert curve.limit == pytest.approx(2 + (0.3 - 0.2) / (0.5 - 0.2))
    assert curve.extrapolated == 1
    np.testing.assert_allclose(curve.low[:3], curve.error[:3])  # errors without spread
    assert (curve.source, curve.pairs) == ("class", 150)


def test_steps_that_fall_are_pooled_to_their_mean():
    # 0.4 and 0.2 violate the order: their weighted mean, by hand, is (2 · 0.4 + 1 · 0.2) / 3.
    made = staircase([(1, 0.1), (2, 0.4), (3, 0.2), (4, 0.9)])
    weight = np.where(made.distances["latent"] == 2, 2.0, 1.0)
    curve = fit(dataclasses.replace(made, weight=weight)).curves["latent"]["O"]
    knots = np.interp([1.0, 2.0, 2.7, 3.0, 4.0], curve.distance, curve.error)
    np.testing.assert_allclose(knots, [0.1, *[1 / 3] * 3, 0.9])


def test_a_limit_that_no_pair_reaches_is_extrapolated_and_says_by_how_much():
    fitted = fit(staircase([(1, 0.05), (2, 0.1)]))
    curve = fitted.curves["latent"]["O"]
    # 0.1 at 2, in proportion: 0.3 at 6.
    assert curve.limit == pytest.approx(6.0)
    assert curve.extrapolated == pytest.approx(3.0)
    assert curve.at(np.array([curve.limit]))[0] == pytest.approx(TOLERANCE)
    assert any("extrapolated, by a factor of up to 3" in line for line in fitted.lines())


def test_where_all_pairs_are_bad_every_distance_is_beyond_the_limit():
    curve = fit(staircase([(1, 0.4), (2, 0.9)])).curves["latent"]["O"]
    assert curve.limit == 0
    assert (curve.at(np.array([0.0, 0.5])) > TOLERANCE).all()


def test_where_all_distances_are_zero_nothing_is_known_beyond():
    curve = fit(staircase([(0, 0.1)])).curves["latent"]["O"]
    np.testing.assert_allclose(curve.at(np.array([0.0, 1e-9])), [0.1, np.inf])
    assert curve.limit == 0


def test_expectations_never_fall():
    fitted = fit(seen(600))
    grid = np.linspace(0, 20, 500)
    for curve in fitted.curves["latent"].values():
        assert (np.diff(curve.at(grid)) >= 0).all()
        assert (np.array(curve.low) <= np.array(curve.error) + 1e-9).all()
        assert (np.array(curve.error) <= np.array(curve.high) + 1e-9).all()


def test_the_expectation_is_the_mean_error_at_a_distance():
    # Of pairs that nothing was fitted to.
    curve = fit(seen(3000), {"O": "O", "H0": "O", "H1": "O"}).curves["latent"]["O"]
    fresh = seen(30_000, seed=2)
    distance = fresh.distances["latent"]
    for low, high in ((0.05, 0.1), (0.1, 0.2), (0.3, 0.6)):
        inside = (distance > low) & (distance < high)
        mean = fresh.error[inside].mean()
        assert curve.at(distance[inside]).mean() == pytest.approx(mean, rel=0.15)


def test_errors_grow_beyond_the_pairs_as_they_grow_within_them():
    # Made as the power 1.5 of the distance: what is fitted within 1 to 4 must hold at 8 and 40.
    random = np.random.default_rng(2)
    distance = random.uniform(1, 4, 2000)
    error = 0.05 * distance**1.5
    curve = fit(pairs_of({"latent": distance}, error)).curves["latent"]["O"]
    far = np.array([8.0, 20.0, 40.0])
    np.testing.assert_allclose(curve.at(far), 0.05 * far**1.5, rtol=0.05)
    assert curve.limit == pytest.approx((TOLERANCE / 0.05) ** (1 / 1.5), rel=0.02)
    # Beyond the straight lines that stand for the power, in proportion.
    last = np.array(curve.distance[-1:])
    np.testing.assert_allclose(curve.at(3 * last), 3 * curve.at(last))


@pytest.mark.parametrize(("power", "used"), [(0.3, 1.0), (4.0, curves.GREATEST_GROWTH)])
def test_errors_grow_at_least_in_proportion_and_at_most_as_the_square(power, used):
    distance = np.random.default_rng(2).uniform(1, 4, 2000)
    curve = fit(pairs_of({"latent": distance}, 0.01 * distance**power)).curves["latent"]["O"]
    within, beyond = curve.at(np.array([curve.greatest, 2 * curve.greatest]))
    assert beyond / within == pytest.approx(2**used, rel=0.001)


def test_growth_is_that_within_classes():
    # Each class's errors grow in proportion; O is far and bad, H near and good: over all atoms the
    # slope is 3, which tells of the classes, and not of growth.
    random = np.random.default_rng(3)
    oxygen = np.resize([True, False], 2000)
    distance = np.where(oxygen, 10.0, 1.0) * random.uniform(1, 2, 2000)
    error = np.where(oxygen, 0.1, 0.001) * distance
    made = pairs_of({"latent": distance}, error, classes=np.where(oxygen, "O", "H0"))
    assert curves.growth(distance, made) == pytest.approx(1.0)


def steady(frames, atoms, error, classes, *, spread=0.0, seed=1):
    """Pairs at distance 1, so many frames of so many atoms of each class, of a mean error each."""
    random = np.random.default_rng(seed)
    errors, names, numbers, begin = [], [], [], 0
    for number, mean, name in zip(frames, error, classes, strict=True):
        of_frame = mean * random.lognormal(0, spread, number)
        errors += [*np.repeat(of_frame, atoms)]
        names += [name] * (number * atoms)
        numbers += [*np.repeat(np.arange(begin, begin + number), atoms)]
        begin += number
    return pairs_of(
        {"latent": np.ones(len(errors))}, errors, classes=np.array(names), frame=np.array(numbers)
    )


def test_a_class_leans_on_its_element_and_on_all_atoms_the_more_the_fewer_its_frames():
    even = curves.EVEN_FRAMES
    made = steady([even, 3 * even], 4, [0.2, 0.8], ["H0", "O"])
    of_class = fit(made).curves["latent"]
    central = {name: curve.error[0] for name, curve in of_class.items()}
    # By hand. The mean of all atoms is (1 · 0.2 + 3 · 0.8) / 4 = 0.65. O has 3 even frames, so it
    # counts 3/4. H0 is all there is of H: 1/2. H1 has no pairs: its element's are those of H0.
    assert central["O"] == pytest.approx(0.8**0.75 * 0.65**0.25)
    assert central["H0"] == pytest.approx(0.2**0.5 * 0.65**0.5)
    assert central["H1"] == pytest.approx(central["H0"])
    assert [of_class[name].own for name in ("O", "H0", "H1")] == pytest.approx([0.75, 0.5, 0])
    assert {name: curve.source for name, curve in of_class.items()} == {
        "O": "class, all atoms",
        "H0": "class, all atoms",
        "H1": "element, all atoms",
    }
    assert of_class["H1"].pairs == of_class["H0"].pairs == 4 * even


def test_a_class_leans_on_its_element_first():
    even = curves.EVEN_FRAMES
    made = steady([even, even, 2 * even], 2, [0.1, 0.3, 0.8], ["H0", "H1", "O"])
    curve = fit(made).curves["latent"]["H0"]
    # By hand: half is its own, a third (2/3 of the rest) its element's, whose mean is 0.2; the
    # rest that of all atoms, 0.5.
    assert curve.error[0] == pytest.approx(0.1 ** (1 / 2) * 0.2 ** (1 / 3) * 0.5 ** (1 / 6))
    assert curve.source == "class, element, all atoms"


def test_atoms_of_one_frame_are_no_more_frames():
    few, many = (steady([5, 40], n, [0.2, 0.8], ["H0", "O"]) for n in (1, 30))
    assert fit(few).curves["latent"]["H0"].own == fit(many).curves["latent"]["H0"].own == 5 / 25


def test_a_class_of_few_frames_is_named():
    made = steady([5, 60], 3, [0.2, 0.8], ["H0", "O"])
    last = list(fit(made).lines())[-1]
    assert "few frames of their own" in last
    assert last.endswith("other classes: H0, H1")


def test_the_upper_end_of_the_interval_is_acted_upon():
    few, many = (
        fit(steady([n], 3, [0.2], ["O"], spread=1.0), {"O": "O"}).curves["latent"]["O"]
        for n in (12, 1200)
    )
    for curve in (few, many):
        assert curve.at(np.ones(1))[0] == curve.high[0] > curve.error[0]
    # As the standard error of a mean: its one-sided 95 % end for this lognormal and 1200 frames is
    # 1 + 1.645 · 1.31 / √1200 = 1.06.
    assert many.high[0] / many.error[0] == pytest.approx(1.06, abs=0.02)
    assert few.high[0] / few.error[0] > 1.12


def test_the_limit_is_where_the_upper_end_meets_the_tolerance():
    curve = fit(seen(300)).curves["latent"]["O"]
    assert curve.at(np.array([curve.limit]))[0] == pytest.approx(TOLERANCE)
    assert np.interp(curve.limit, curve.distance, curve.error) < TOLERANCE


def test_a_curve_of_an_early_release_is_acted_upon_as_it_was():
    # Schema 3 knew an interval, and went by the expectation.
    curve = Curve(
        distance=[1.0, 2.0], error=[0.1, 0.2], source="class", pairs=9, low=[0.1, 0.1], high=[1, 2]
    )
    np.testing.assert_allclose(curve.at(np.array([1.0, 2.0, 4.0])), [0.1, 0.2, 0.4])
    assert curve.limited(0.3).limit == pytest.approx(3.0)
    assert curve.limited(0.3).extrapolated == pytest.approx(1.5)


def test_the_auroc_is_that_of_scikit_learn_class_by_class():
    pairs = seen(900, noise=1.0)
    trial = expected._Trial(pairs, ELEMENTS, TOLERANCE, 1)
    foretold = np.random.default_rng(5).permutation(np.round(trial.foretold(["latent"]), 2))
    foretold = 0.7 * foretold + 0.3 * np.round(pairs.error, 1)
    above = both = 0.0
    for name in CLASSES:
        rows = pairs.classes == name
        bad = pairs.error[rows] > TOLERANCE
        weight = bad.sum() * (~bad).sum()
        above += roc_auc_score(bad, foretold[rows]) * weight
        both += weight
    auroc = trial.skill(foretold).auroc
    assert auroc.value == pytest.approx(above / both)
    assert auroc.low < auroc.value < auroc.high


def test_a_signal_that_knows_nothing_is_blind_and_does_not_decide():
    fitted = fit(seen(900, node_energy=True))
    assert fitted.skill["node_energy"].blind
    assert not fitted.skill["latent"].blind
    assert fitted.signals == ["latent"]
    assert "combination" not in fitted.skill  # of one that sees there is none
    lines = list(fitted.lines())
    assert "latent decides: AUROC 0.9" in lines[0]
    assert lines[1].endswith("finding bad atoms: node_energy")


def test_a_signal_that_knows_only_the_class_is_blind():
    # Errors of O are ten times those of H: a number that only tells O from H is no foresight.
    random = np.random.default_rng(3)
    classes = np.resize(CLASSES, 900)
    error = np.where(classes == "O", 0.5, 0.05) * random.lognormal(0, 1, 900)
    tells = np.where(classes == "O", 2.0, 1.0) + 0.01 * random.normal(size=900)
    fitted = fit(pairs_of({"latent": tells}, error, classes=classes, frame=np.arange(900) // 9))
    assert fitted.skill["latent"].blind


def test_where_all_are_blind_one_decides_and_the_domain_says_so():
    made = seen(900, node_energy=True, guard=True)
    blind = dataclasses.replace(
        made, distances={name: made.distances[name] for name in ("node_energy", "guard")}
    )
    fitted = fit(blind)
    assert all(skill.blind for skill in fitted.skill.values())
    assert len(fitted.signals) == 1
    assert "all signals are blind: the index cannot be trusted to see errors" in fitted.lines()


def test_two_that_see_different_things_decide_together():
    random = np.random.default_rng(4)
    two = random.normal(size=(2, 1800))
    error = 0.1 * np.exp(two.sum(axis=0))
    made = pairs_of(
        dict(zip(("latent", "guard"), np.exp(two), strict=True)),
        error,
        classes=np.resize(CLASSES, 1800),
        frame=np.arange(1800) // 9,
    )
    fitted = fit(made)
    assert fitted.signals == ["latent", "guard"]
    assert fitted.deciding == "combination"
    assert fitted.skill["combination"].auroc.low > fitted.skill["latent"].auroc.high
    # The error that was made of both, within the scatter of the fit.
    found = fitted.at(made.distances, made.classes)
    usual = np.abs(two.sum(axis=0)) < 1.5
    assert np.median(np.abs(np.log(found / error))[usual]) < 0.2


def test_two_that_see_the_same_do_not_decide_together():
    made = seen(900)
    twin = made.distances["latent"] * np.random.default_rng(6).lognormal(0, 0.01, 900)
    both = dataclasses.replace(made, distances={"latent": made.distances["latent"], "guard": twin})
    assert len(fit(both).signals) == 1


def test_with_few_bad_atoms_the_better_guess_of_the_error_decides():
    made = seen(900, node_energy=True)
    small = dataclasses.replace(made, error=made.error / 100)
    fitted = fit(small)
    assert fitted.bad < expected.FEWEST_BAD
    assert all(skill.auroc is None and not skill.blind for skill in fitted.skill.values())
    assert fitted.signals == ["latent"]
    assert fitted.skill["latent"].log_error < fitted.skill["node_energy"].log_error
    assert "too few bad atoms for an AUROC" in next(fitted.lines())


def test_monitors_for_comparison_never_decide():
    made = seen(900)
    known = {"bond_stretch": made.error, "latent": made.distances["latent"]}
    fitted = fit(dataclasses.replace(made, distances=known))
    assert fitted.skill["bond_stretch"].auroc.value > fitted.skill["latent"].auroc.value
    assert fitted.signals == ["latent"]


def test_earlier_frames_that_lack_a_signal_count_for_the_others():
    made = seen(900, node_energy=True)
    node_energy = np.where(np.arange(900) < 450, made.distances["node_energy"], np.nan)
    fitted = fit(
        dataclasses.replace(made, distances=dict(made.distances) | {"node_energy": node_energy})
    )
    assert fitted.signals == ["latent"]
    assert fitted.pairs == 900


def test_the_same_pairs_give_the_same_to_the_last_bit():
    made = seen(300, node_energy=True)
    assert fit(made) == fit(made)
    assert fit(made, seed=2) != fit(made)


# At every step of dynamics.


def domain(fitted, sizes):
    unit = Margin(value=1.0, low=1.0, high=1.0, method="none", alpha=0.1, n=1)
    return Domain(
        classes={name: list(np.resize(CLASSES, n)) for name, n in sizes.items()},
        label=dict.fromkeys(ELEMENTS, (-1.0, 1.0)),
        guard=dict.fromkeys(ELEMENTS, (-2.0, 2.0)),
        margin=unit,
        bonds={},
        signals={"potential_energy": Calibration(threshold=unit, data=SignalData())},
        expected=fitted,
    )


@pytest.mark.parametrize("signals", [["node_energy"], ["node_energy", "guard"]])
def test_scores_at_a_step_are_those_of_the_curves(signals):
    random = np.random.default_rng(8)
    made = seen(900)
    noisy = [made.distances["latent"] * random.lognormal(0, 1, 900) for _ in signals]
    fitted = fit(dataclasses.replace(made, distances=dict(zip(signals, noisy, strict=True))))
    if len(signals) > 1:
        assert fitted.combined  # else nothing is tried of it
    sizes = {"large": 7, "small": 2}
    signal = ExpectedError(domain(fitted, sizes))
    starts = [Atoms("X" * sizes[name], info={"structure": name}) for name in ("small", "large") * 3]
    energy = torch.as_tensor(random.normal(scale=2, size=27))
    energy[3], energy[4] = torch.nan, torch.inf
    output = {"node_energy": energy}
    cpu = torch.device("cpu")
    classes = np.concatenate([signal.classes[atoms.info["structure"]] for atoms in starts])
    # The middle of both intervals is 0; half widths are 1 and 2 eV.
    distances = {"node_energy": np.abs(energy.numpy()), "guard": np.abs(energy.numpy()) / 2}
    by_curves = fitted.at(distances, classes)
    raw = signal.distance(starts, cpu)(None, output).numpy()
    np.testing.assert_allclose(raw, by_curves, rtol=1e-12)
    scores = signal.for_batch(starts, cpu)(None, output).numpy()
    assert (scores[3:5] == np.inf).all()
    finite = np.isfinite(by_curves)
    np.testing.assert_allclose(
        scores[finite], np.maximum(by_curves[finite] / TOLERANCE - 1, 0), atol=1e-12
    )
    assert (scores > 0).any()
    assert (scores == 0).any()


def test_what_is_written_is_what_is_read():
    for fitted in (fit(seen(600, node_energy=True)), fit(staircase([(1, 0.05), (2, 0.1)]))):
        assert ExpectedErrors.of(fitted.content()) == fitted


def test_a_curve_of_one_knot_is_a_constant_and_a_proportion():
    curve = Curve(distance=[2.0], error=[0.1], source="class", pairs=5)
    np.testing.assert_allclose(curve.at(np.array([0.0, 2.0, 4.0])), [0.1, 0.1, 0.2])
