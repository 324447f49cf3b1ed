"""Parts of `benchmarks/label_efficiency.py` against what is known otherwise; nothing is trained."""

import numpy as np
import pytest
from ase.build import molecule

from efficiency import arms, scans, summary, trial
from halcyon.config import Campaign


def test_the_deviation_of_a_committee_is_that_of_its_worst_atom():
    # Atom 0: three models agree. Atom 1: forces 0, 0.3 and -0.3 along x; their variance is
    # (0 + 0.09 + 0.09)/3 = 0.06.
    forces = [np.array([[1.0, 2.0, 3.0], [x, 0.0, 0.0]]) for x in (0.0, 0.3, -0.3)]
    assert arms.deviation(forces) == pytest.approx(np.sqrt(0.06))


def test_a_committee_labels_its_window_first_and_then_what_is_least_above():
    assert arms.worth_a_label([0.2, 0.06, 0.01, 0.9, 0.15, 0.16], 10) == [1, 4, 5, 0, 3]
    assert arms.worth_a_label([0.2, 0.06, 0.01, 0.9, 0.15, 0.16], 3) == [1, 4, 5]


@pytest.mark.parametrize("arm", arms.ARMS)
def test_arms_differ_in_what_they_say(arm, tmp_path):
    content = arms.Cell("ethanol", arm, 1).content(arms.Effort(), tmp_path, tmp_path)
    settings = Campaign.model_validate(content)
    assert settings.pretraining.enabled == (not arm.startswith("scratch"))
    assert settings.selection.by == ("random" if arm.endswith("random") else "index")
    assert (settings.selection.frames, settings.audit.frames) == (7, 1)


def cell(*models):
    return {
        "effort": {"goal_meV_per_A": 43.0},
        "models": [
            {
                "labels": labels,
                "short": {"failed": failed},
                "forces_mae_meV_per_A": {"all": error},
                "passed": passed,
            }
            for labels, failed, error, passed in models
        ],
    }


def test_labels_count_from_the_first_model_after_which_all_are_good():
    known = cell((22, 3, 90, False), (32, 0, 60, False), (42, 1, 42, False), (52, 0, 40, True))
    assert summary.needed(known, "passed", 43.0) == (52, True)
    assert summary.needed(known, "stable", 43.0) == (52, True)
    assert summary.needed(known, "right", 43.0) == (42, True)
    assert summary.needed(cell((22, 3, 90, False)), "stable", 43.0) == (22, False)


def test_the_median_allows_for_cells_that_never_got_there():
    # Kaplan and Meier by hand: 40 of four at risk -> 0.75; 60 is censored; 80 of two -> 0.375.
    ends = [(40, True), (60, False), (80, True), (100, False)]
    assert summary.median_labels(ends) == 80
    assert summary.median_labels([(40, False), (60, False)]) is None


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.1] * 500, None),  # never above 0.1 eV
        ([0.35] * 10, 0.10),  # 0.25 a frame: over 1 eV with the fifth
        ([-0.35] * 10, 0.10),
        ([np.nan, 2.0], 0.04),
    ],
)
def test_tau_is_when_the_excess_adds_up_to_1_ev(errors, expected):
    rows = [(0.02 * number, error) for number, error in enumerate(errors, start=1)]
    time = trial.tau_ps(rows)
    assert time == (expected if expected is None else pytest.approx(expected))


def test_a_hole_is_seen_with_what_the_way_into_it_costs():
    x = np.linspace(-1.0, 1.0, 21)
    wall = 4 * x**2
    hole = wall.copy()
    hole[17:] = -3.0  # beyond 0.6, where the wall has 1.44 eV
    seen = scans.compared(hole, wall, 10)
    assert seen["barrier_eV"] == pytest.approx(1.44)
    assert seen["deficit_eV"] == pytest.approx(7.0)  # 4 + 3 at the end
    assert scans.compared(wall + 9.0, wall, 10) == {
        "rms_eV": pytest.approx(0.0),
        "deficit_eV": pytest.approx(0.0),
        "barrier_eV": None,
    }


def test_scans_change_what_they_say():
    ethanol = molecule("CH3CH2OH")
    bonds = [
        (int(i), int(j))
        for i, j in np.argwhere(np.triu(ethanol.get_all_distances() < 1.6, k=1))
        if not (ethanol.numbers[i] == ethanol.numbers[j] == 1)
    ]
    assert len(bonds) == 8
    classes = ethanol.get_chemical_symbols()
    made = scans.scans_of([ethanol], bonds, classes)
    kinds = [scan.kind for scan in made]
    # C–C, C–O, C–H, O–H; C–C–O, H–C–C, H–C–H, H–C–O, C–O–H; C…H, H…H, O…H three bonds apart.
    assert [kinds.count(kind) for kind in ("bond", "angle", "contact")] == [4, 5, 3]
    for scan in made:
        np.testing.assert_allclose(
            scan.frames[scan.origin].positions, ethanol.positions, atol=1e-12
        )
        changed = [
            abs(frame.get_all_distances() - ethanol.get_all_distances()) for frame in scan.frames
        ]
        assert all(change.max() > 0.01 for i, change in enumerate(changed) if i != scan.origin)
        if scan.kind == "angle":  # bonds keep their lengths
            assert max(change[i, j] for change in changed for i, j in bonds) < 1e-9
