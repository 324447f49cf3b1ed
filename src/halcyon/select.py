"""From candidates to the few frames worth a label; the fate of every candidate is counted.

Frames are taken by the atomic CLI gained around them, those before a failure first in turn with
the rest, and a frame that is close to one already taken or labelled is passed over.

Not for: proposing candidates (`explore`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from halcyon.config import SelectionSettings
from halcyon.frames import structure_key

OVERLAP_A = 0.5


@dataclass
class Selection:
    """Selected frames, and how many candidates met which fate."""

    frames: list[Atoms]
    fates: dict[str, int]


def select(
    candidates: Sequence[Atoms],
    labelled: Sequence[Atoms],
    settings: SelectionSettings,
    *,
    limit: int,
) -> Selection:
    """Choose frames for labelling.

    Args:
        candidates: with `info` keys reason, cli_gain, structure and, where known, force_max.
        labelled: frames that have a record already, of whatever status.
        settings: number, force cap, difference.
        limit: labels that the budget still allows.

    Returns:
        At most `min(settings.frames, limit)` frames, with `split` and `key` in their `info`;
        fates sum to the number of candidates.
    """
    fates: Counter[str] = Counter()
    wanted = min(settings.frames, limit)
    known_keys = {structure_key(frame) for frame in labelled}
    taken: list[Atoms] = []
    neighbours = _Neighbours(labelled)
    for frame in _in_turn(candidates):
        key = structure_key(frame)
        distances = frame.get_all_distances(mic=bool(frame.pbc.any()))
        closest = distances[np.triu_indices(len(frame), k=1)].min(initial=np.inf)
        if not np.isfinite(frame.positions).all() or closest < OVERLAP_A:
            fates["dropped: atoms overlap"] += 1
        elif frame.info.get("force_max", 0.0) > settings.force_cap_eV_per_A:
            fates["dropped: force above the cap"] += 1
        elif key in known_keys:
            fates["dropped: labelled already"] += 1
        elif neighbours.nearest(frame, distances) < settings.min_difference_A:
            fates["dropped: like a frame labelled or taken"] += 1
        elif len(taken) >= wanted:
            fates["left: enough for this generation"] += 1
        else:
            fates["selected"] += 1
            neighbours.add(frame, distances)
            known_keys.add(key)
            number = len(taken) + 1
            frame.info["split"] = "train" if number % settings.validation_every else "validation"
            frame.info["key"] = key
            taken.append(frame)
    return Selection(taken, dict(fates))


def _in_turn(candidates: Sequence[Atoms]) -> list[Atoms]:
    """Largest gain first, replicas in turn, so that one bad trajectory does not take all."""
    by_replica: dict[int, list[Atoms]] = {}
    for frame in candidates:
        by_replica.setdefault(frame.info["replica"], []).append(frame)
    queues = [
        sorted(frames, key=lambda f: (-f.info["cli_gain"], f.info["time"]))
        for _, frames in sorted(by_replica.items())
    ]
    rounds = [frame_rank for queue in queues for frame_rank in enumerate(queue)]
    return [
        frame for _, frame in sorted(rounds, key=lambda item: (item[0], -item[1].info["cli_gain"]))
    ]


class _Neighbours:
    """Frames that others must differ from, by composition in order."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        self.distances: dict[tuple[str, bytes], list[np.ndarray]] = {}
        for frame in frames:
            self.add(frame, frame.get_all_distances(mic=bool(frame.pbc.any())))

    def add(self, frame: Atoms, distances: np.ndarray) -> None:
        self.distances.setdefault(self._kind(frame), []).append(_upper(distances))

    def nearest(self, frame: Atoms, distances: np.ndarray) -> float:
        """Least root-mean-square difference of interatomic distances to any of them, Å."""
        others = self.distances.get(self._kind(frame))
        if not others:
            return np.inf
        differences = np.stack(others) - _upper(distances)
        return float(np.sqrt((differences**2).mean(axis=1)).min())

    @staticmethod
    def _kind(frame: Atoms) -> tuple[str, bytes]:
        return frame.info["structure"], frame.numbers.tobytes()


def _upper(distances: np.ndarray) -> np.ndarray:
    return distances[np.triu_indices(len(distances), k=1)]
