"""The frames of a generation, chosen with a real, untrained model."""

from dataclasses import replace

import numpy as np
import pytest
from test_batched_mace import random_model

from halcyon.config import Settings
from halcyon.domain.curves import Curve
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.intervals import Domain
from halcyon.domain.margins import Margin
from halcyon.exploration.generation import Visited, Watched, foretell, frames_to_label
from halcyon.exploration.reservoir import in_turn
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.pool import PublishedSet
from halcyon.models import mace

DOMAIN = Domain(
    classes={"water": ["O", "H", "H"]},
    label={"O": (-1.0, 1.0), "H": (-1.0, 1.0)},
    guard={"O": (-9.0, 9.0), "H": (-9.0, 9.0)},
    margin=Margin(value=0.1, low=0.1, high=0.1, method="conformal", alpha=0.1, n=9),
    bonds={"water": [(0, 1, 0.97), (0, 2, 0.97)]},
)


@pytest.fixture(scope="module")
def watched():
    return Watched(model=random_model(), domain=DOMAIN, system_kind="molecule")


@pytest.fixture
def visited(rattled):
    frames = rattled(40)
    for number, frame in enumerate(frames):
        frame.info |= {"replica": number % 4, "temperature": 500.0, "time": 0.01 * number}
    for number, frame in enumerate(frames[:30]):
        frame.info["draw"] = ((7 * number) % 30) / 30
    for frame in frames[30:]:
        frame.info |= {"cli_gain": 0.01, "reason": "excursion", "score": 0.2}
    return Visited(candidates=frames[30:], reservoir=frames[:30])


@pytest.fixture
def labelled(rattled):
    frames = rattled(46)[40:]
    for frame in frames:
        frame.info |= {"status": "ok", "split": "train", "key": structure_key(frame)}
    return frames


def settings(**sections):
    base = {"selection": {"frames": 6, "min_difference_A": 0.0}}
    return Settings(**base | sections)


def choose(visited, labelled, watched, made=None, **options):
    return frames_to_label(
        visited,
        labelled,
        watched,
        made or settings(),
        **{"audit_frames_each": 4, "calm": False} | options,
    )


def by_role(chosen):
    roles = [frame.info["role"] for frame in chosen.frames]
    return {role: roles.count(role) for role in sorted(set(roles))}


def audited(visited):
    """Draws of the four frames that the audit takes."""
    return [frame.info["draw"] for frame in in_turn(visited.reservoir)[0][:4]]


def test_random_frames_come_first_then_trouble(visited, labelled, watched):
    chosen = choose(visited, labelled, watched)
    assert by_role(chosen) == {"audit": 4, "selected": 6}
    audit = chosen.frames[:4]
    assert [f.info["draw"] for f in audit] == audited(visited)
    assert [f.info["split"] for f in audit] == ["validation", "train"] * 2
    assert chosen.random == {"audit": 4}
    assert sum(chosen.fates.values()) == len(visited.candidates)


def test_all_carry_what_the_model_predicted_and_it_survives_the_file(
    visited, labelled, watched, tmp_path
):
    chosen = choose(visited, labelled, watched)
    predicted = mace.evaluate(watched.model, chosen.frames)
    write_frames(tmp_path / "selected.parquet", chosen.frames)
    for i, frame in enumerate(read_frames(tmp_path / "selected.parquet")):
        np.testing.assert_allclose(frame.arrays["model_forces"], predicted.forces[i])
        assert frame.info["model_energy"] == pytest.approx(predicted.energy[i])
        half_widths = np.abs(predicted.node_energy[i])  # intervals of 2 eV about 0
        np.testing.assert_allclose(frame.arrays["distance_node_energy"], half_widths, rtol=1e-5)
        assert frame.info["key"] == structure_key(frame)


def test_the_control_takes_the_next_random_frames_instead_of_trouble(visited, labelled, watched):
    made = settings(selection={"by": "random", "frames": 6, "min_difference_A": 0.0})
    chosen = choose(visited, labelled, watched, made)
    assert by_role(chosen) == {"audit": 4, "selected": 6}
    draws = [frame.info["draw"] for frame in chosen.frames]
    left = sorted({frame.info["draw"] for frame in visited.reservoir} - set(audited(visited)))
    assert draws == [*audited(visited), *left[:6]]
    assert {frame.info["reason"] for frame in chosen.frames[4:]} == {"random"}
    assert [frame.info["split"] for frame in chosen.frames[4:]].count("validation") == 1
    assert chosen.fates == {"left: enough for this generation": 20, "selected": 6}
    missed = choose(visited, labelled, watched, made, missed=True)
    assert len({frame.info["key"] for frame in missed.frames}) == len(missed.frames)


def test_the_control_takes_physical_frames_only(visited, labelled, watched):
    made = settings(selection={"by": "random", "frames": 6, "min_difference_A": 0.0})
    ordered = sorted(visited.reservoir, key=lambda frame: frame.info["draw"])
    ordered = [frame for frame in ordered if frame.info["draw"] not in audited(visited)]
    ordered[1].positions[1] += [0.0, 0.0, 3.0]  # a hydrogen has left
    ordered[2].positions[:] = labelled[0].positions
    chosen = choose(visited, labelled, watched, made)
    draws = [frame.info["draw"] for frame in chosen.frames[4:]]
    assert draws == [frame.info["draw"] for frame in [ordered[0], *ordered[3:8]]]
    assert chosen.fates["dropped: bond broken"] == chosen.fates["dropped: labelled already"] == 1
    assert sum(chosen.fates.values()) == len(visited.reservoir) - 4


@pytest.fixture
def expecting(watched):
    """A domain whose expected error grows with the distance of the atomic energy."""
    curve = Curve(distance=[0.1, 10.0], error=[0.1, 2.1], source="class", pairs=9)
    expected = ExpectedErrors(
        tolerance_eV_per_A=0.5,
        signals=["node_energy"],
        curves={"node_energy": dict.fromkeys("OH", curve)},
    )
    return replace(watched, domain=replace(DOMAIN, expected=expected))


def test_the_index_foretells_the_error_of_every_random_frame(visited, labelled, expecting):
    chosen = choose(visited, labelled, expecting, calm=True)
    assert len(chosen.foretold) == len(visited.reservoir) == 30
    by_draw = {each.draw: each for each in chosen.foretold}
    for frame in chosen.frames:
        each = by_draw[frame.info["draw"]]
        assert (each.structure, each.temperature_K, each.replica) == (
            "water",
            500.0,
            frame.info["replica"],
        )
        # Of a vector whose direction is random, a component is half as long on average.
        half = frame.arrays["expected_error"].mean() / 2
        assert each.forces_mae_eV_per_A == pytest.approx(half, rel=1e-5)
    assert len({each.forces_mae_eV_per_A for each in chosen.foretold}) == 30


@pytest.mark.parametrize("opinion", ["none", "gfn1"])
def test_the_index_foretells_only_where_it_is_asked(visited, labelled, expecting, opinion):
    made = settings(audit={"second_opinion": opinion})
    assert choose(visited, labelled, expecting, made).foretold == []


def test_nothing_is_foretold_without_expected_errors_or_frames(visited, watched, expecting):
    assert foretell(visited.reservoir, watched) == []
    assert foretell([], expecting) == []


def test_a_calm_generation_labels_the_audit_alone(visited, labelled, watched):
    chosen = choose(visited, labelled, watched, calm=True)
    assert by_role(chosen) == {"audit": 4}
    assert chosen.fates == {"left: the index has saturated": 10}
    assert all("model_forces" in frame.arrays for frame in chosen.frames)


def test_calm_but_wrong_it_labels_diverse_frames_as_well(visited, labelled, watched):
    few = Visited(candidates=visited.candidates[:2], reservoir=visited.reservoir)
    chosen = choose(few, labelled, watched, calm=True, missed=True)
    assert by_role(chosen) == {"audit": 4, "diverse": 4, "selected": 2}
    assert len({frame.info["key"] for frame in chosen.frames}) == 10
    assert chosen.random == {"audit": 4, "diverse": 4}
    right = choose(few, labelled, watched)
    assert by_role(right) == {"audit": 4, "selected": 2}, "only after a missed audit"


@pytest.mark.parametrize(
    ("left", "expected"),
    [(0, {}), (3, {"audit": 3}), (6, {"audit": 4, "selected": 2})],
)
def test_the_audit_has_the_first_claim_on_the_budget(visited, labelled, watched, left, expected):
    labelled[0].info["status"] = "not computed"  # costs nothing
    made = settings(limits={"label_budget": 5 + left})
    assert by_role(choose(visited, labelled, watched, made)) == expected


def test_an_audit_frame_that_is_labelled_already_is_used_and_stays_in_its_set(
    visited, labelled, watched
):
    first = min(visited.reservoir, key=lambda frame: frame.info["draw"])
    labelled[0].positions[:] = first.positions
    labelled[0].info |= {"key": structure_key(first), "split": "test"}
    chosen = choose(visited, labelled, watched, calm=True)
    assert by_role(chosen) == {"audit": 4}
    assert chosen.frames[0].info["split"] == "test"
    assert chosen.random == {"audit": 4, "audit: labelled already": 1}


def test_in_retrospect_published_neighbours_are_audited(visited, labelled, watched):
    near = [frame.copy() for frame in visited.reservoir[:2]]
    pool = [*near, labelled[0]]
    for frame in near:
        frame.info = dict(labelled[0].info)
        frame.rattle(1e-4, seed=1)
    published = PublishedSet({"water": pool}, max_difference_A=9.0)
    chosen = choose(visited, labelled, watched, calm=True, published=published)
    keys = [frame.info["key"] for frame in chosen.frames]
    # Two frames of the set have no label yet: each stands for an audit frame, then again.
    assert len(keys) == 4
    assert set(keys) == {structure_key(frame) for frame in near}
    assert len(set(keys[:2])) == 2
    splits = {frame.info["key"]: frame.info["split"] for frame in chosen.frames}
    assert all(splits[f.info["key"]] == f.info["split"] for f in chosen.frames)
    predicted = mace.evaluate(watched.model, chosen.frames)
    for frame, forces in zip(chosen.frames, predicted.forces, strict=True):
        np.testing.assert_allclose(frame.arrays["model_forces"], forces)
        assert "published neighbour" in frame.info["reason"]
    far = PublishedSet({"water": pool}, max_difference_A=1e-9)
    nothing = choose(visited, labelled, watched, calm=True, published=far)
    assert nothing.frames == []
    assert nothing.random == {"audit: nothing like it in the data set": 4}
