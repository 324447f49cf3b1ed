"""Dealing replicas over structures and temperatures, and the successors of failed ones."""

import numpy as np
import pytest
from ase import Atoms

from halcyon.config import ExplorationSettings
from halcyon.errors import InputError
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.starts import deal, deal_to_each, successors

SETTINGS = ExplorationSettings(replicas=8, temperatures_K=[300.0, 600.0])


def frames(*structures, number=7):
    """Training frames of some structures; each has another x, by which a test knows it."""
    made = []
    for structure in structures:
        for _ in range(number):
            info = {"charge": 0, "multiplicity": 1, "structure": structure, "energy": -1.0}
            frame = Atoms("H", [[float(len(made)), 0, 0]], info=info | {"key": f"key {len(made)}"})
            made.append(frame)
    return made


def described(replicas):
    return [(r.number, r.start.info["structure"], r.temperature_K) for r in replicas]


def places(replicas):
    return [int(replica.start.positions[0, 0]) for replica in replicas]


def test_replicas_are_dealt_over_structures_and_then_over_temperatures():
    replicas = deal(frames("a", "b"), ["a", "b"], SETTINGS, seed=1)
    assert described(replicas) == [
        (0, "a", 300.0),
        (1, "b", 300.0),
        (2, "a", 600.0),
        (3, "b", 600.0),
        (4, "a", 300.0),
        (5, "b", 300.0),
        (6, "a", 600.0),
        (7, "b", 600.0),
    ]


def test_starts_are_frames_without_labels_and_follow_from_the_seed():
    replicas = deal(frames("a", "b"), ["a", "b"], SETTINGS, seed=1)
    assert all(
        set(replica.start.info) == {"charge", "multiplicity", "structure"} for replica in replicas
    )
    # One draw after another from one generator, among the frames of the replica's structure.
    random = np.random.default_rng(1)
    assert places(replicas) == [7 * (n % 2) + random.integers(7) for n in range(8)]
    assert places(deal(frames("a", "b"), ["a", "b"], SETTINGS, seed=1)) == places(replicas)
    assert places(deal(frames("a", "b"), ["a", "b"], SETTINGS, seed=2)) != places(replicas)


def test_a_successor_has_the_structure_and_temperature_of_the_failed_replica():
    train = frames("a", "b")
    failed = Replica(3, 600.0, train[9])
    successor = successors(train, {8: 41, 9: 42}.__getitem__)
    new = successor(8, failed)
    assert described([new]) == [(8, "b", 600.0)]
    assert places([new]) == [7 + np.random.default_rng(41).integers(7)]
    assert places([successor(9, failed)]) == [7 + np.random.default_rng(42).integers(7)]


def test_every_structure_runs_at_every_temperature_as_often_as_asked():
    settings = SETTINGS.model_copy(update={"replicas": 2})
    train = frames("a", "b")
    replicas, keys = deal_to_each(train, ["a", "b"], settings, seed=1)
    assert described(replicas) == [
        (number, structure, temperature)
        for number, (structure, temperature) in enumerate(
            (s, t) for s in ("a", "b") for t in (300.0, 600.0) for _ in range(2)
        )
    ]
    assert keys == {number: f"key {x}" for number, x in enumerate(places(replicas))}
    random = np.random.default_rng(1)
    assert places(replicas) == [7 * (n // 4) + random.integers(7) for n in range(8)]


def test_a_structure_without_a_training_frame_is_named():
    for dealt in (deal, deal_to_each):
        with pytest.raises(InputError, match="structure c: no labelled training frame"):
            dealt(frames("a"), ["a", "c"], SETTINGS, seed=1)
    failed = Replica(0, 300.0, frames("c")[0])
    with pytest.raises(InputError, match="structure c"):
        successors(frames("a"), hash)(1, failed)
