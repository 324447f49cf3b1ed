"""Forces against the slope of the energy: GFN2-xTB is right, and made wrong in known ways."""

import numpy as np
import pytest

from conftest import ROOT
from halcyon.config import SanitySettings, XtbReference
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels.finite_difference import STEP_A, CheckedForces, check, fault
from halcyon.labels.reference.xtb import Xtb

DATA = ROOT / "tests/data/labels"
SETTINGS = SanitySettings()


@pytest.fixture
def level(rattled):
    """Frames with labels, and what labels more; `wrong` changes forces, `status` the outcome."""

    def make(wrong=lambda forces: forces, status="ok"):
        method, calls = Xtb(XtbReference(backend="xtb")), []

        def compute(frames, status=status):
            calls.append(frames)
            labelled = []
            for frame, record in zip(frames, method.label(frames, None, 1), strict=True):
                answer = frame.copy()
                answer.info = frame.info | {"status": status, "message": "", "paid": 1.5}
                answer.info |= {"energy": record.energy, "key": structure_key(frame)}
                answer.arrays["forces"] = wrong(record.forces)
                labelled.append(answer)
            return labelled

        good = compute(rattled(6), "ok")
        calls.clear()
        return good, compute, calls

    return make


def test_right_forces_pass_with_two_calculations(level):
    good, compute, calls = level()
    (slope,) = check(good, compute, SETTINGS, seed=3)
    assert slope.passed
    # GFN2-xTB's forces are analytic; what is left is the step's third order.
    assert abs(slope.force - slope.slope) < 0.005
    assert abs(slope.force) > 0.5  # the direction is not across the forces
    assert slope.core_seconds == 3.0
    (points,) = calls
    frame = next(f for f in good if f.info["key"] == slope.key)
    for point in points:
        assert np.linalg.norm(point.positions - frame.positions) == pytest.approx(STEP_A)
    assert check(good, compute, SETTINGS, seed=3) == [slope]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda forces: -forces,
        lambda forces: forces / 0.529177,  # per bohr for per Å
        lambda forces: np.roll(forces, 1, axis=0),  # atoms in another order
    ],
)
def test_wrong_forces_of_two_frames_are_a_fault_of_the_level(level, wrong):
    good, compute, calls = level(wrong)
    slopes = check(good, compute, SETTINGS, seed=3)
    assert [slope.passed for slope in slopes] == [False, False]
    assert slopes[0].key != slopes[1].key
    assert "forces are not the slope of the energy on 2 of 2 frames" in fault(slopes)
    assert len(calls) == 2


def test_one_wrong_frame_is_not_the_levels_fault(level):
    good, compute, _ = level()
    (first,) = check(good, compute, SETTINGS, seed=3)
    bad = next(frame for frame in good if frame.info["key"] == first.key)
    bad.arrays["forces"] = -bad.arrays["forces"]
    slopes = check(good, compute, SETTINGS, seed=3)
    assert [slope.passed for slope in slopes] == [False, True]
    assert fault(slopes) is None


def test_points_without_a_label_say_nothing(level):
    good, compute, _ = level(status="unconverged")
    slopes = check(good, compute, SETTINGS, seed=3)
    assert [slope.passed for slope in slopes] == [None] * 3
    assert "unconverged" in slopes[0].message
    assert fault(slopes) is None
    assert check([], compute, SETTINGS, seed=3) == []


@pytest.mark.parametrize(("frames", "passed"), [(1, [None, True]), (6, [None] * 3)])
def test_an_scf_that_finds_another_state_beside_a_frame_says_nothing(level, frames, passed):
    good, compute, calls = level()
    order = np.random.default_rng(3).permutation(len(good))[:frames]
    jumping = {good[number].info["key"] for number in order}

    def jumps(points):
        labelled = compute(points)
        if any(key in points[0].info["reason"] for key in jumping):
            labelled[0].info["energy"] -= 1.5
        return labelled

    slopes = check(good, jumps, SETTINGS, seed=3)
    assert [slope.passed for slope in slopes] == passed
    assert "lie 1.50 eV off a line" in slopes[0].message
    assert fault(slopes) is None
    assert len(calls) == len(passed)


def test_slopes_come_back_from_their_file(level, tmp_path):
    good, compute, _ = level()
    slopes = check(good, compute, SETTINGS, seed=3)
    checked = CheckedForces(slopes=tuple(slopes))
    checked.write(tmp_path / "checks.json")
    assert CheckedForces.read(tmp_path / "checks.json") == checked


def test_a_file_of_before_stresses_is_read(tmp_path):
    path = DATA / "checks_schema_1.json"
    checked = CheckedForces.read(path)
    (slope,) = checked.slopes
    assert slope.key == "cef7e970a0004d5fa3396903dd5de449"
    assert slope.structure == "methanol"
    assert slope.passed is True
    assert slope.core_seconds == 15.737081805999992
    assert (slope.force, slope.slope) == (2.886311896417873, 2.886566515223876)
    assert checked.strains == ()  # that version knew of forces only
    checked.write(tmp_path / "again.json")
    assert CheckedForces.read(tmp_path / "again.json") == checked


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 2, "slopes": []}', "schema = 2: .* update Halcyon"),
        (
            '{"schema": 1, "slopes": [{"key": "a"}]}',
            "damaged: slopes.0.structure.*Delete this file",
        ),
        ("[]", "damaged: not a JSON object"),
        ('{"sche', "damaged: it is empty or not JSON"),
    ],
)
def test_a_file_of_slopes_that_cannot_be_read_is_named(text, message, tmp_path):
    path = tmp_path / "000.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"000.json: {message}"):
        CheckedForces.read(path)
