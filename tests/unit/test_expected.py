"""Expected force errors: staircases made by hand, and made-up signals that see or do not."""

import dataclasses

import numpy as np
import pytest
import torch
from ase import Atoms
from sklearn.metrics import roc_auc_score

from halcyon.domain import expected
from halcyon.domain.expected import Curve, ExpectedErrors, Pairs, fit_expected
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


def test_a_staircase_is_found_and_its_steps_are_joined_by_straight_lines():
    curve = fit(staircase([(1, 0.1), (2, 0.2), (3, 0.5)])).curves["latent"]["O"]
    # By hand: 0.1 before 1; halfway between steps; and 0.5 at 3, so 0.5 · 6/3 at 6.
    found = curve.at(np.array([0.0, 0.9, 1.5, 2.5, 3.0, 6.0]))
    np.testing.assert_allclose(found, [0.1, 0.1, 0.15, 0.35, 0.5, 1.0])
    assert curve.limit == pytest.approx(2 + (0.3 - 0.2) / (0.5 - 0.2))
    assert curve.extrapolated == 1
    np.testing.assert_allclose(curve.low, curve.error)  # errors without spread
    assert (curve.source, curve.pairs) == ("class", 150)


def test_steps_that_fall_are_pooled_to_their_mean():
    # 0.4 and 0.2 violate the order: their weighted mean, by hand, is (2 · 0.4 + 1 · 0.2) / 3.
    made = staircase([(1, 0.1), (2, 0.4), (3, 0.2), (4, 0.9)])
    weight = np.where(made.distances["latent"] == 2, 2.0, 1.0)
    curve = fit(dataclasses.replace(made, weight=weight)).curves["latent"]["O"]
    np.testing.assert_allclose(
        curve.at(np.array([1.0, 2.0, 2.7, 3.0, 4.0])), [0.1, *[1 / 3] * 3, 0.9]
    )


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


def test_a_class_of_few_pairs_shares_those_of_its_element_or_of_all_atoms():
    n = expected.FEWEST_PAIRS
    classes = np.repeat(["O", "H0", "H1"], [n - 1, n, 10])
    error = np.repeat([0.1, 0.2, 0.4], [n - 1, n, 10])
    fitted = fit(pairs_of({"latent": np.ones(len(error))}, error, classes=classes))
    of_class = fitted.curves["latent"]
    assert {name: curve.source for name, curve in of_class.items()} == {
        "O": "all atoms",
        "H0": "class",
        "H1": "element",
    }
    at_one = {name: curve.at(np.ones(1))[0] for name, curve in of_class.items()}
    assert at_one["O"] == pytest.approx(error.mean())
    assert at_one["H0"] == pytest.approx(0.2)
    assert at_one["H1"] == pytest.approx((n * 0.2 + 10 * 0.4) / (n + 10))
    assert any("fewer than 50 pairs of their own" in line for line in fitted.lines())


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
