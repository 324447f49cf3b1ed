"""Where replicas start: at random frames among those that the model was trained on.

    from halcyon.exploration.starts import deal, deal_to_each

    replicas = deal(train, ["water"], settings, seed=1)  # for an exploration
    replicas, keys = deal_to_each(train, ["water"], settings, seed=1)  # for a certificate

Equal seeds give equal starts, so that a killed run begins where it began before.

Not for: momenta (see `dynamics`), or when a successor begins (see `explore`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms

from halcyon.config import ExplorationSettings
from halcyon.errors import InputError
from halcyon.exploration.dynamics import Replica
from halcyon.frames import structure_only


def deal(
    train: Sequence[Atoms],
    structures: Sequence[str],
    settings: ExplorationSettings,
    *,
    seed: int,
) -> list[Replica]:
    """Deal `settings.replicas` replicas over structures, then over temperatures, in turn.

    Args:
        train: labelled training frames.
        structures: names of the structures to explore.
        settings: number of replicas, and their temperatures.
        seed: of the choice among the frames of a structure.

    Raises:
        InputError: a structure has no training frame.
    """
    random = np.random.default_rng(seed)
    replicas = []
    for number in range(settings.replicas):
        frame = _drawn(train, structures[number % len(structures)], random)
        turn = number // len(structures)
        temperature = settings.temperatures_K[turn % len(settings.temperatures_K)]
        replicas.append(Replica(number, temperature, structure_only(frame)))
    return replicas


def deal_to_each(
    train: Sequence[Atoms],
    structures: Sequence[str],
    settings: ExplorationSettings,
    *,
    seed: int,
) -> tuple[list[Replica], dict[int, str]]:
    """Deal `settings.replicas` replicas to each structure at each temperature.

    Args:
        train: labelled training frames.
        structures: names of the structures to run.
        settings: number of replicas of each, and their temperatures.
        seed: of the choice among the frames of a structure.

    Returns:
        The replicas, and by number the key of the frame that each starts from.

    Raises:
        InputError: a structure has no training frame.
    """
    random = np.random.default_rng(seed)
    replicas: list[Replica] = []
    keys: dict[int, str] = {}
    for structure in structures:
        for temperature in settings.temperatures_K:
            for _ in range(settings.replicas):
                frame, number = _drawn(train, structure, random), len(replicas)
                replicas.append(Replica(number, temperature, structure_only(frame)))
                keys[number] = frame.info["key"]
    return replicas, keys


def successors(
    train: Sequence[Atoms], seed_of: Callable[[int], int]
) -> Callable[[int, Replica], Replica]:
    """What gives the replica that takes the place of a failed one.

    Args:
        train: labelled training frames.
        seed_of: the seed that belongs to a replica's number.

    Returns:
        A function of the new replica's number and the failed replica. The new replica has the
        failed one's structure and temperature, and starts from a random frame of that structure.
    """

    def successor(number: int, failed: Replica) -> Replica:
        random = np.random.default_rng(seed_of(number))
        frame = _drawn(train, failed.start.info["structure"], random)
        return Replica(number, failed.temperature_K, structure_only(frame))

    return successor


def _drawn(train: Sequence[Atoms], structure: str, random: np.random.Generator) -> Atoms:
    """A random training frame of a structure."""
    frames = [frame for frame in train if frame.info["structure"] == structure]
    if not frames:
        raise InputError(
            f"structure {structure}: no labelled training frame that a replica could start from: "
            "raise seed_labels.train, or give it `explore: false`"
        )
    return frames[random.integers(len(frames))]
