import json
from collections import Counter

import numpy as np
import pytest
from ase import Atoms

from conftest import ROOT
from halcyon.domain import bonds, bounds, environments, margins
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
    energies = {
        "train": pooled(frames(50, seed=1)),
        "teacher": {},
        "held_out": frames(200, seed=2),
        "check": frames(200, seed=3),
    }
    energies |= {name: changed.pop(name) for name in energies if name in changed}
    arguments = {
        "classes": CLASSES,
        "bonds": BONDS,
        "alpha": 1e-3,
        "seed": 0,
    }
    return bounds.build(bounds.ClassEnergies(**energies), **(arguments | changed))


def test_the_bare_interval_is_left_as_often_as_theory_says():
    # n exchangeable draws: a further one lies outside their range with probability 2/(n + 1).
    outside = []
    for seed in range(2000):
        random = np.random.default_rng(seed)
        low, high = bounds.bare_interval(random.normal(size=50))
        outside.append(bounds.signed_scores(random.normal(size=1), low, high)[0] > 0)
    assert np.mean(outside) == pytest.approx(2 / 51, abs=0.01)


def reached(found):
    """Probability that an atom of a fresh frame is outside, measured on many."""
    fresh = frames(50_000, seed=4)
    outside = {
        name: np.mean(
            bounds.signed_scores(np.concatenate([f[name] for f in fresh]), *found.label[name]) > 0
        )
        for name in ("O", "H")
    }
    return (outside["O"] + 2 * outside["H"]) / 3


def test_the_margin_brings_the_exceedance_to_alpha():
    found = build(held_out=frames(500, seed=2))
    assert found.margin.method == "peaks-over-threshold"
    assert found.margin.low <= found.margin.value <= found.margin.high
    assert 2e-4 < reached(found) < 5e-3
    assert found.report.exceedance_bare.fraction > 5 * reached(found)


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
    assert high - low >= bounds.SMALLEST_WIDTH_EV


def test_a_class_of_few_values_is_as_wide_as_it_needs_and_opens_no_other():
    three = {"O": np.array([-5.0, -4.999, -5.001])}  # in truth they spread by 0.1
    opened = build(train=pooled(frames(50, seed=1)) | three)
    alone = build(
        train={"H": pooled(frames(50, seed=1))["H"]},
        classes={"water": ["H", "H"]},
        held_out=[{"H": frame["H"]} for frame in frames(200, seed=2)],
        check=[],
    )
    assert opened.margin == alone.margin
    assert opened.label["H"] == alone.label["H"]
    oxygen = [frame["O"] for frame in frames(200, seed=2)]
    assert opened.label["O"][0] <= np.min(oxygen) < np.max(oxygen) <= opened.label["O"][1]


@pytest.mark.parametrize("alpha", [0.15, 0.3, 0.45])
def test_a_large_alpha_is_the_quantile_of_the_scores(alpha):
    drawn = [np.random.default_rng(n).exponential(size=9) for n in range(200)]
    margin = margins.calibrate_margin(drawn, alpha, seed=0)
    # Of the exponential distribution, -ln(alpha) is exceeded with probability alpha.
    assert margin.value == pytest.approx(-np.log(alpha), rel=0.1)
    assert margin.low < margin.value < margin.high
    assert margin.method == "quantile"


def test_a_class_without_training_structures_is_an_error_that_names_it():
    with pytest.raises(InputError, match="class O"):
        build(train={"H": np.array([1.0, 2.0])})
    with pytest.raises(InputError, match="no held-out frame has a label"):
        build(held_out=[])


def test_written_and_read_again_it_is_the_same(tmp_path):
    found = build()
    found.write(tmp_path / "domain.json")
    assert Domain.read(tmp_path / "domain.json") == found
    (tmp_path / "domain.json").write_text("{}")
    with pytest.raises(InputError, match="schema"):
        Domain.read(tmp_path / "domain.json")


def test_what_was_not_measured_is_empty_in_the_file(tmp_path):
    fitted = build(check=[])
    assert fitted.report.exceedance_bare is None
    assert fitted.content()["report"]["exceedance_bare"] == {}
    fitted.write(tmp_path / "domain.json")
    assert Domain.read(tmp_path / "domain.json") == fitted


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
    assert found.report.exceedance_with_margin.atoms == 180
    assert found.report.training_frames_values["ethanol:H0"] == 60


def test_a_file_of_schema_2_is_still_read_and_has_no_expected_errors():
    # Written by 0.1.0 for the made-up molecules of test_signals, with all signals.
    found = Domain.read(ROOT / "tests/data/domain/v2.json")
    assert found.expected is None
    assert found.signals["committee"].threshold.n == 400
    assert len(found.signals["latent_guard"].data.sets) == 2
    assert [found.report.selected_left_out, found.report.selected_used] == [0, 0]


def test_a_file_of_schema_3_is_still_read_and_used_as_it_was():
    # For the made-up molecules of test_signals, with all signals and expected errors.
    path = ROOT / "tests/data/domain/v3.json"
    kept = json.loads(path.read_text())["expected"]["curves"]["latent"]["O"]
    curve = Domain.read(path).expected.curves["latent"]["O"]
    assert not curve.cautious
    np.testing.assert_allclose(curve.at(np.array(kept["distance"])), kept["error"])
    limited = curve.limited(0.5)
    assert (curve.limit, limited.greatest, curve.own) == (kept["limit"], None, 1.0)


def test_a_file_of_today_is_written_as_it_was_read(tmp_path):
    # For the made-up molecules of test_signals, with all signals and expected errors.
    path = ROOT / "tests/data/domain/v4.json"
    Domain.read(path).write(tmp_path / "domain.json")
    assert (tmp_path / "domain.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("key", ["margin", "report", "label", "spare"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, key):
    build().write(tmp_path / "domain.json")
    content = json.loads((tmp_path / "domain.json").read_text())
    content[key] = {"fraction": 3}
    (tmp_path / "domain.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"domain\.json: damaged .* Delete this file"):
        Domain.read(tmp_path / "domain.json")


def test_what_was_calibrated_is_said_in_a_line_each():
    fitted = build()
    fraction = fitted.report.exceedance_with_margin.fraction
    assert list(fitted.lines()) == [
        f"2 classes, margin {fitted.margin.value:.2f} widths ({fitted.margin.low:.2f}–"
        f"{fitted.margin.high:.2f}, peaks-over-threshold), on test frames {fraction:.2%} of atoms "
        f"outside (95 %: {fitted.report.exceedance_with_margin.low:.2%}–"
        f"{fitted.report.exceedance_with_margin.high:.2%})"
    ]
    assert list(build(check=[]).lines())[-1].endswith("on test frames nothing was measured")


def test_bonds_are_averaged_over_the_structures_own_frames_and_across_boundaries():
    def pair(length, name, **cell):
        atoms = Atoms("H2", positions=[[0, 0, 0], [length, 0, 0]], **cell)
        atoms.info["structure"] = name
        return atoms

    drawn = [pair(0.7, "free"), pair(0.9, "free"), pair(5.0, "periodic", cell=[6] * 3, pbc=True)]
    lengths = bonds.mean_lengths(drawn, {"free": [(0, 1)], "periodic": [(0, 1)]})
    assert lengths == {"free": [(0, 1, pytest.approx(0.8))], "periodic": [(0, 1, pytest.approx(1))]}
    with pytest.raises(InputError, match="structure absent: none of its training frames"):
        bonds.mean_lengths(drawn, {"absent": [(0, 1)]})


def test_a_threshold_is_never_under_its_floor():
    drawn = [np.random.default_rng(i).normal(size=20) for i in range(20)]
    free = margins.calibrate_margin(drawn, 1e-3, seed=0)
    assert free.value > 2
    floored = margins.calibrate_margin(drawn, 1e-3, seed=0, floor=10.0)
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
    found = environments.fit_environments(elements, descriptors, seed=0)
    names = [
        environments.environment_classes(found, e, d)
        for e, d in zip(elements, descriptors, strict=True)
    ]
    # More clusters may split a kind; none mixes them, and all have their training atoms.
    kinds = {name: set() for pair in names for name in pair}
    for i, (oxygen, _) in enumerate(names):
        kinds[oxygen].add(i % 7 < 5)
    assert all(len(mixed) == 1 for name, mixed in kinds.items() if name.startswith("O"))
    counts = Counter(name for pair in names for name in pair)
    assert min(counts.values()) >= environments.ENVIRONMENT_VALUES
    assert counts["O/0"] >= counts["O/1"]
    assert environments.fit_environments(elements, descriptors, seed=0) == found
    with pytest.raises(InputError, match="class Xe"):
        environments.environment_classes(found, ["Xe"], np.zeros((1, 2)))


def test_few_atoms_are_one_environment():
    elements, descriptors = two_surroundings(20, seed=0)
    found = environments.fit_environments(elements, descriptors, seed=0)
    assert {element: len(one.centroids) for element, one in found.items()} == {"H": 1, "O": 1}
