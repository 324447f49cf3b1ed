import numpy as np
import pytest

from halcyon.config import SelectionSettings
from halcyon.select import select


@pytest.fixture
def candidates(rattled):
    frames = rattled(12)
    for number, frame in enumerate(frames):
        frame.info |= {
            "replica": number % 3,
            "time": 0.1 * number,
            "cli_gain": 0.01 * (number // 3),
            "reason": "excursion",
        }
    return frames


SETTINGS = SelectionSettings(frames=6, validation_every=3, min_difference_A=0.0)


def test_every_candidate_has_a_fate(candidates):
    selection = select(candidates, [], SETTINGS, limit=100)
    assert sum(selection.fates.values()) == len(candidates)
    assert selection.fates["selected"] == len(selection.frames) == 6


def test_replicas_take_turns_and_the_largest_gain_comes_first(candidates):
    frames = select(candidates, [], SETTINGS, limit=100).frames
    assert [f.info["replica"] for f in frames] == [0, 1, 2, 0, 1, 2]
    assert [f.info["cli_gain"] for f in frames] == pytest.approx([0.03] * 3 + [0.02] * 3)


def test_one_in_so_many_goes_to_the_validation_set(candidates):
    frames = select(candidates, [], SETTINGS, limit=100).frames
    assert [f.info["split"] for f in frames] == ["train", "train", "validation"] * 2


def test_the_budget_is_the_limit(candidates):
    assert len(select(candidates, [], SETTINGS, limit=2).frames) == 2
    assert select(candidates, [], SETTINGS, limit=0).frames == []


def test_unphysical_and_known_frames_are_dropped_and_counted(candidates):
    candidates[0].positions[1] = candidates[0].positions[0] + 0.1
    candidates[1].info["force_max"] = 1000.0
    turned = candidates[3].copy()
    turned.rotate(40, "z")
    turned.info = dict(candidates[3].info)
    settings = SETTINGS.model_copy(update={"frames": 100, "min_difference_A": 1e-4})
    selection = select(candidates, [candidates[2], turned], settings, limit=100)
    assert selection.fates == {
        "dropped: atoms overlap": 1,
        "dropped: force above the cap": 1,
        "dropped: labelled already": 1,
        "dropped: like a frame labelled or taken": 1,
        "selected": 8,
    }


def test_of_two_identical_candidates_one_is_taken(candidates):
    twin = candidates[0].copy()
    twin.info = candidates[0].info | {"replica": 7}
    selection = select([candidates[0], twin], [], SETTINGS, limit=100)
    assert selection.fates == {"selected": 1, "dropped: labelled already": 1}


def test_taken_frames_differ(candidates):
    settings = SETTINGS.model_copy(update={"min_difference_A": 0.05, "frames": 100})
    frames = select(candidates, [], settings, limit=100).frames
    distances = [f.get_all_distances()[np.triu_indices(3, k=1)] for f in frames]
    for i, one in enumerate(distances):
        for other in distances[:i]:
            assert np.sqrt(np.mean((one - other) ** 2)) >= 0.05
