import numpy as np
import pytest
from ase.build import molecule

from halcyon.config import ExplorationSettings, SelectionSettings
from halcyon.domain.intervals import Domain
from halcyon.domain.margins import Margin
from halcyon.domain.samples import Sample
from halcyon.exploration.selection import Selection, select, select_diverse
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.pool import PublishedSet, frames_like

DOMAIN = Domain(
    classes={"water": ["O", "H", "H"], "ammonia": ["N", "H", "H", "H"]},
    label={"O": (-1.0, 1.0), "H": (-1.0, 1.0), "N": (-1.0, 1.0)},
    guard={},
    margin=Margin(value=0.1, low=0.1, high=0.1, method="conformal", alpha=0.1, n=9),
    bonds={"water": [(0, 1, 0.97), (0, 2, 0.97)]},
)
SETTINGS = SelectionSettings(frames=6, validation_every=3, min_difference_A=0.0)
RANK_ALONE = SETTINGS.model_copy(update={"shortlist": 1})


def predicted(frame, place=0.0):
    """A frame at some place along the diagonal of two descriptors, calm otherwise."""
    frame.arrays["descriptors"] = np.full((len(frame), 2), place)
    frame.arrays["forces"] = np.zeros((len(frame), 3))
    frame.arrays["node_energy"] = np.zeros(len(frame))
    return frame


def sample(frames):
    names = ("node_energy", "descriptors", "forces")
    return Sample(frames, *([frame.arrays[name] for frame in frames] for name in names))


def choose(candidates, labelled=(), settings=SETTINGS, *, system_kind="molecule", limit=100):
    """A selection, of copies; checks what holds of every one."""
    copies = [copied(frame) for frame in candidates]
    selection = select(
        sample(copies),
        sample(list(labelled)),
        DOMAIN,
        settings,
        ExplorationSettings(),
        system_kind=system_kind,
        limit=limit,
    )
    assert sum(selection.fates.values()) == len(candidates)
    assert selection.fates.get("selected", 0) == len(selection.frames)
    return selection


def copied(frame, **info):
    copy = frame.copy()
    copy.info = frame.info | info
    return copy


def turned(frame, **info):
    copy = copied(frame, **info)
    copy.rotate(40, "z")
    return copy


def times(selection):
    """Which candidates were taken: each has a time of its own."""
    return [round(10 * frame.info["time"]) for frame in selection.frames]


@pytest.fixture
def candidates(rattled):
    """Twelve of three replicas, 0 to 11 tenths of a ps; the later, the larger the gain."""
    frames = rattled(12)
    for number, frame in enumerate(frames):
        predicted(frame, place=number)
        frame.info |= {
            "replica": number % 3,
            "time": 0.1 * number,
            "cli_gain": 0.01 * (number // 3),
            "reason": "excursion",
            "score": 0.5,
        }
    return frames


@pytest.fixture
def seed(water):
    """A labelled frame at place 0."""
    return predicted(copied(water, split="train"))


def test_by_rank_alone_replicas_take_turns_and_the_largest_gain_comes_first(candidates):
    candidates[9].info["cli_gain"] = candidates[10].info["cli_gain"] = 0.02
    candidates[6].info["cli_gain"] = 0.021
    selection = choose(candidates, settings=RANK_ALONE)
    assert set(times(selection)) == {6, 7, 9, 10, 11, 8}
    three = RANK_ALONE.model_copy(update={"frames": 3})
    # One of each replica; replica 0's largest gain is now that of its third frame.
    assert sorted(times(choose(candidates, settings=three))) == [6, 7, 11]


def test_of_the_short_list_the_farthest_are_taken(candidates, seed):
    """Two wanted, four on the list: 9, 10, 11 and, replica 0's turn again, 6."""
    settings = SETTINGS.model_copy(update={"frames": 2, "shortlist": 2})
    for number, place in {9: 1.0, 10: 4.0, 11: 2.0, 6: -3.0, 7: 99.0}.items():
        predicted(candidates[number], place)
    selection = choose(candidates, [seed], settings)
    assert times(selection) == [10, 6]
    assert selection.fates["left: enough for this generation"] == 2
    assert selection.fates["left: ranked too low"] == 8
    unit = np.std([0, 1, 4, 2, -3])
    # Four descriptors: two of oxygen, two of hydrogen.
    distances = [frame.info["fps_distance"] for frame in selection.frames]
    assert distances == pytest.approx([2 * 4 / unit, 2 * 3 / unit])


def test_what_is_labelled_is_no_novelty_but_a_test_frame_may_be(candidates, seed, rattled):
    settings = SETTINGS.model_copy(update={"frames": 1, "shortlist": 3})
    for number, place in {9: 1.0, 10: 5.0, 11: 2.0}.items():
        predicted(candidates[number], place)
    other = predicted(rattled(14)[-1], place=5.0)
    for split, expected in (("train", 11), ("validation", 11), ("test", 10)):
        other.info["split"] = split
        assert times(choose(candidates, [seed, other], settings)) == [expected]


def test_one_bad_trajectory_does_not_take_all(candidates, seed):
    """Replica 0 is far from anything and has most candidates; by rank, two of six are its."""
    settings = SETTINGS.model_copy(update={"shortlist": 2})
    more = []
    for number in range(12, 24):
        extra = predicted(copied(candidates[0]), place=10 * number)
        extra.positions[1] += 0.001 * number
        extra.info |= {"time": 0.1 * number, "cli_gain": 1.0}
        more.append(extra)
    others = [frame for frame in candidates[:6] if frame.info["replica"]]
    selection = choose(others + more, [seed], settings)
    taken = [frame.info["replica"] for frame in selection.frames]
    assert taken.count(0) == 4
    assert len(taken) == 6


def test_structures_do_not_mix_and_have_the_places_that_rank_gives_them(candidates, seed):
    ammonia = molecule("NH3")
    ammonia.info = candidates[0].info | {"structure": "ammonia", "replica": 7, "cli_gain": 0.005}
    others = []
    for number in range(4):
        frame = predicted(copied(ammonia, time=2.0 + number), place=1000 * number)
        frame.positions[1] += 0.02 * number
        others.append(frame)
    selection = choose(candidates + others, [seed], SETTINGS)
    names = [frame.info["structure"] for frame in selection.frames]
    # In turn, two of each of the two replicas of the largest gain, one of each of the others.
    assert names == ["ammonia"] + ["water"] * 5
    # Of ammonia nothing is known: the best in rank is taken, and is compared with nothing.
    assert selection.frames[0].info["time"] == 2.0
    assert "fps_distance" not in selection.frames[0].info


def test_each_fate_is_counted(candidates, seed):
    frames = candidates
    frames[0].positions[0] = np.nan
    frames[1].positions[2] = frames[1].positions[1] + 0.1
    frames[2].positions[1] *= 1.9
    frames[3].arrays["forces"][2] = [40.0, -30.0, 1.0]
    frames[4].arrays["forces"][2] = np.nan
    labelled = [seed, copied(frames[5]), turned(frames[10])]
    twin = copied(frames[7], replica=8)
    like = turned(frames[9], time=3.0, cli_gain=0.025)
    settings = SelectionSettings(frames=1, shortlist=4, min_difference_A=1e-4)
    assert choose([*frames, twin, like], labelled, settings).fates == {
        "dropped: values not finite": 2,
        "dropped: atoms overlap": 1,
        "dropped: bond broken": 1,
        "dropped: force above the cap": 1,
        "dropped: labelled already": 1,
        "dropped: twin of another candidate": 1,
        "dropped: like a labelled frame": 1,
        "dropped: like another candidate": 1,
        "left: enough for this generation": 3,
        "left: ranked too low": 1,
        "selected": 1,
    }


def test_a_frame_before_a_failure_is_held_to_the_force_cap(candidates):
    """The exploration says nothing of its force: the model is asked again."""
    candidates[11].info["reason"] = "before failure"
    candidates[11].arrays["forces"][0] = [0.0, 0.0, 50.1]
    candidates[10].arrays["forces"][0] = [0.0, 0.0, 49.9]
    selection = choose(candidates, settings=RANK_ALONE)
    assert 11 not in times(selection)
    forces = {round(10 * f.info["time"]): f.info["force_max"] for f in selection.frames}
    assert forces[10] == pytest.approx(49.9)


@pytest.mark.parametrize("system_kind", ["molecule", "liquid", "reactive"])
def test_broken_bonds_are_what_a_reactive_system_is_about(candidates, system_kind):
    candidates[11].positions[1] *= 1.9
    selection = choose(candidates, settings=RANK_ALONE, system_kind=system_kind)
    assert (11 in times(selection)) == (system_kind == "reactive")
    assert selection.fates.get("dropped: bond broken", 0) == (system_kind != "reactive")


def test_a_bond_has_broken_at_the_stretch_that_ends_a_replica(candidates):
    # Hydrogen 1 moves outwards along its bond to 0.97 Å + 0.5 Å, less or more one percent.
    for number, stretch in ((10, 0.495), (11, 0.505)):
        frame = candidates[number]
        bond = frame.positions[1] - frame.positions[0]
        frame.positions[1] = frame.positions[0] + bond * (0.97 + stretch) / np.linalg.norm(bond)
    selection = choose(candidates, settings=RANK_ALONE)
    assert 10 in times(selection)
    assert selection.fates["dropped: bond broken"] == 1


def test_of_twins_the_one_that_says_more_is_kept(candidates):
    twin = copied(candidates[11], reason="before failure")
    del twin.info["score"]
    for frames in ([twin, *candidates], [*candidates, twin]):
        selection = choose(frames, settings=RANK_ALONE)
        assert selection.fates["dropped: twin of another candidate"] == 1
        kept = next(f for f in selection.frames if f.info["time"] == pytest.approx(1.1))
        assert kept.info["reason"] == "excursion"


def test_labelled_frames_have_no_twins(candidates):
    """Two copies of a labelled frame are both labelled already."""
    frames = [*candidates, copied(candidates[3], replica=8)]
    fates = choose(frames, [candidates[3]]).fates
    assert fates["dropped: labelled already"] == 2
    assert "dropped: twin of another candidate" not in fates


def test_taken_frames_differ(candidates):
    settings = SETTINGS.model_copy(update={"min_difference_A": 0.05, "frames": 100})
    selection = choose(candidates, settings=settings)
    assert selection.fates["dropped: like another candidate"] > 0
    distances = [f.get_all_distances()[np.triu_indices(3, k=1)] for f in selection.frames]
    for i, row in enumerate(distances):
        for other in distances[:i]:
            assert np.sqrt(np.mean((row - other) ** 2)) >= 0.05


def test_the_budget_is_the_limit(candidates, seed):
    assert len(choose(candidates, [seed], limit=2).frames) == 2
    for limit in (0, -3):
        spent = choose(candidates, [seed], limit=limit)
        assert spent.fates == {"left: the label budget is spent": 12}


def test_few_candidates_are_all_taken(candidates, seed):
    assert sorted(times(choose(candidates[:4], [seed]))) == [0, 1, 2, 3]
    assert choose([], [seed]).fates == {}


def test_one_in_so_many_goes_to_the_validation_set(candidates):
    frames = choose(candidates).frames
    assert [f.info["split"] for f in frames] == ["train", "train", "validation"] * 2


def test_neither_order_nor_repetition_changes_the_choice(candidates, seed, rattled):
    for frame in candidates:
        frame.info["cli_gain"] = 0.01  # ties
        predicted(frame, place=round(10 * frame.info["time"]) % 4)
    labelled = [seed, *(predicted(frame, place=0.5) for frame in rattled(15)[12:])]
    first = choose(candidates, labelled)
    random = np.random.default_rng(1)
    for _ in range(5):
        shuffled = [candidates[i] for i in random.permutation(12)]
        again = choose(shuffled, labelled[::-1])
        assert times(again) == times(first)
        assert again.fates == first.fates
        for frame, other in zip(again.frames, first.frames, strict=True):
            assert frame.info == other.info | {
                "fps_distance": pytest.approx(other.info["fps_distance"])
            }


def test_a_selected_frame_says_why(candidates, seed, tmp_path):
    frame = candidates[11]
    frame.info |= {"atom": 2, "cli": 0.02, "cli_atom": 0.05, "reason": "before failure"}
    del frame.info["score"]
    frame.arrays["node_energy"][:] = [-1.5, 0.3, 4.0]  # 3 eV outside of an interval of 2 eV
    selection = choose(candidates, [seed])
    write_frames(tmp_path / "selected.parquet", selection.frames)
    read = next(f for f in read_frames(tmp_path / "selected.parquet") if f.info["time"] > 1.05)
    assert (
        read.info.items()
        >= {
            "replica": 2,
            "atom": 2,
            "cli": 0.02,
            "cli_atom": 0.05,
            "cli_gain": 0.03,
            "force_max": 0.0,
            "reason": "before failure",
        }.items()
    )
    assert read.info["score"] == pytest.approx(1.5)
    assert read.info["fps_distance"] > 0
    # What the exploration saw stays as it is.
    assert {f.info["score"] for f in selection.frames if f.info["time"] < 1.05} == {0.5}


def test_no_frame_of_any_candidate():
    nothing = Selection.of_none(12, "the index has saturated")
    assert nothing.frames == []
    assert nothing.fates == {"left: the index has saturated": 12}


def test_published_frames_take_the_place_of_the_selected_ones(candidates, water):
    selection = choose(candidates, settings=RANK_ALONE)
    near = [copied(frame) for frame in selection.frames[:4]]
    for frame in near:
        frame.rattle(0.001, seed=1)
    far = copied(water)
    far.positions[0] += 0.5
    taken = copied(near[0], key=structure_key(near[0]))
    published = PublishedSet({"water": frames_like([*near, far], water)}, max_difference_A=0.05)
    replaced = selection.replaced(published, [taken])
    assert len(selection.frames) == 6
    assert {f.info["key"] for f in replaced.frames} == {structure_key(f) for f in near[1:]}
    assert all("nearest in the set" in frame.info["reason"] for frame in replaced.frames)
    assert replaced.fates == selection.fates | {
        "selected": 3,
        "left: nothing like it in the data set": 3,
    }
    assert selection.fates["selected"] == 6  # the selection itself stays


def test_diverse_frames_are_the_farthest_of_the_random_ones(candidates, seed):
    for number, frame in enumerate(candidates):
        frame.info["draw"] = 0.05 * number
    labelled = predicted(copied(candidates[9], split="train"), place=9)
    predicted(candidates[11], place=14)
    twin = predicted(turned(candidates[11], draw=0.9), place=14)  # 11 itself, only turned
    fierce = predicted(copied(candidates[3], draw=0.01), place=99)
    fierce.positions[1] += 0.01
    fierce.arrays["forces"][:] = 60.0
    frames = [*candidates, twin, fierce]
    settings = SETTINGS.model_copy(update={"min_difference_A": 1e-4})
    known = sample([seed, labelled])
    taken = select_diverse(sample(frames), known, DOMAIN, settings, number=2)
    # Learned: 0 and 9. The farthest is 11, at place 14, then 4, whose draw comes before that of 5.
    assert [round(10 * f.info["time"]) for f in taken] == [11, 4]
    assert [f.info["split"] for f in taken] == ["train", "train"]
    assert {f.info["reason"] for f in taken} == {"diverse"}
    assert all(f.info["key"] == structure_key(f) for f in taken)
    assert select_diverse(sample(frames), known, DOMAIN, settings, number=0) == []
