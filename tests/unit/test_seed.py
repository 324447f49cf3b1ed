"""The seed: frames drawn at random from the teacher's dynamics, and split for good."""

from collections import Counter

import numpy as np
import pytest
from ase import Atoms

from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels.seed import check_bonds_hold, from_dynamics

SETTINGS = SeedSettings(train=4, validation=5, test=6, max_temperature_K=500)


@pytest.fixture
def taught(rattled):
    """20 frames of dynamics that are cool enough, 5 that are too hot, 5 that are no dynamics."""
    frames = rattled(30)
    for number, frame in enumerate(frames):
        frame.info |= {"origin": "md", "temperature": 300.0, "energy": 1.0, "time": 0.5}
        if number >= 25:
            frame.info |= {"origin": "displaced"}
            del frame.info["temperature"]
        elif number >= 20:
            frame.info |= {"temperature": 700.0}
    return frames


def test_frames_are_split_and_without_the_teachers_labels(taught):
    frames = from_dynamics(taught, ["water"], SETTINGS, seeds={"water": 3})
    assert Counter(frame.info["split"] for frame in frames) == {
        "train": 4,
        "validation": 5,
        "test": 6,
    }
    assert len({structure_key(frame) for frame in frames}) == 15
    assert frames[0].info == {
        "charge": 0,
        "multiplicity": 1,
        "structure": "water",
        "split": "train",
        "generation": -1,
        "reason": "seed",
        "origin": "md",
        "temperature": 300.0,
        "key": structure_key(frames[0]),
    }
    cool = {structure_key(frame) for frame in taught[:20]}
    assert {frame.info["key"] for frame in frames} < cool


def test_the_same_seed_draws_the_same_frames(taught):
    chosen = from_dynamics(taught, ["water"], SETTINGS, seeds={"water": 3})
    order = np.random.default_rng(3).permutation(20)[:15]
    keys = [structure_key(taught[index]) for index in order]
    assert [frame.info["key"] for frame in chosen] == keys
    other = from_dynamics(taught, ["water"], SETTINGS, seeds={"water": 4})
    assert [frame.info["key"] for frame in other] != keys


def test_each_structure_gets_its_own(taught, rattled):
    others = rattled(20)
    for frame in others:
        frame.info |= {"origin": "md", "temperature": 400.0, "structure": "other"}
    frames = from_dynamics(
        [*taught, *others], ["water", "other"], SETTINGS, seeds={"water": 1, "other": 2}
    )
    assert [frame.info["structure"] for frame in frames] == ["water"] * 15 + ["other"] * 15


def test_too_few_frames_are_told(taught):
    with pytest.raises(InputError, match=r"structure water: 14 frames .* 500 K, expected 15"):
        from_dynamics(taught[6:], ["water"], SETTINGS, seeds={"water": 3})


def test_every_second_frame_of_a_solid_has_a_strained_cell(taught):
    for frame in taught:
        frame.cell, frame.pbc = [6.0, 7.0, 8.0], True
    plain, first, again = (
        from_dynamics(taught, ["water"], SETTINGS, seeds={"water": 3}, strains=strains)
        for strains in (None, {"water": 0.03}, {"water": 0.03})
    )
    assert [frame.info["key"] for frame in first] == [frame.info["key"] for frame in again]
    assert {f.info["split"] for f in first[1::2]} == {"train", "validation", "test"}
    for before, after in zip(plain[::2], first[::2], strict=True):
        assert before.info == after.info
    strains = []
    for before, after in zip(plain[1::2], first[1::2], strict=True):
        assert after.info["origin"] == "strained"
        assert after.info["key"] == structure_key(after)
        scaled = before.get_scaled_positions(wrap=False)
        np.testing.assert_allclose(after.get_scaled_positions(wrap=False), scaled, atol=1e-12)
        strain = np.linalg.solve(before.cell.array, after.cell.array) - np.eye(3)
        np.testing.assert_allclose(strain, strain.T, atol=1e-12)  # no rotation
        strains.append(strain)
    largest = np.abs(strains).max(axis=0)
    assert 0.01 < largest.diagonal().min() <= largest.diagonal().max() <= 0.03
    assert (largest[np.triu_indices(3, k=1)] <= 0.015).all()


def test_a_molecule_whose_bonds_do_not_hold_is_refused_before_its_first_label():
    frames = [Atoms("Li2", [[0, 0, 0], [0, 0, length]]) for length in np.linspace(2.0, 4.0, 9)]
    for frame in frames:
        frame.info["structure"] = "dilithium"
    # Of lengths 2.0, 2.25 … 4.0 Å around 3.0, all but 2.5 to 3.5 are over 0.5 Å off: 4 of 9.
    with pytest.raises(InputError) as refused:
        check_bonds_hold(frames, [(0, 1)], 0.5)
    words = str(refused.value)
    assert "in 4 of 9 seed frames a bond is more than 0.5 Å" in words
    assert "Li0–Li1, 2.00 to 4.00 Å long" in words
    assert "Set `kind: reactive`" in words
    check_bonds_hold(frames, [(0, 1)], 1.01)
    check_bonds_hold(frames, [], 0.5)
