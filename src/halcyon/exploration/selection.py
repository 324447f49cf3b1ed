"""From candidates to the few frames worth a label; the fate of every candidate is counted.

1. Unphysical frames are dropped: those that an exploration would call failed, and those with a
   force above the cap.
2. Frames that have a record already are dropped, and of identical candidates all but one.
3. The rest is ranked by the atomic CLI gained around a frame, replicas in turn. From the top, a
   short list is made of frames that differ from labelled ones and from each other.
4. From the short list, farthest-point sampling takes those that differ most from what is labelled.

    chosen = select(candidates, labelled, domain, settings, exploration, kind="molecule", limit=80)
    chosen.fates  # {"selected": 20, "dropped: bond broken": 3, …}

Not for: proposing candidates (`explore`), or the sampling itself (`spread`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from halcyon.config import ExplorationSettings, SelectionSettings
from halcyon.domain.calibration import Sample
from halcyon.domain.failures import FailureMonitor
from halcyon.domain.intervals import Domain
from halcyon.domain.signals import NodeEnergy
from halcyon.exploration.spread import farthest, fingerprint
from halcyon.frames import structure_key
from halcyon.systems.fingerprint import pair_distances, rms_difference

FRAMES_AT_ONCE = 16
"""Frames whose pairs of atoms are looked at together."""
CPU = torch.device("cpu")


@dataclass
class Selection:
    """Selected frames, and how many candidates met which fate."""

    frames: list[Atoms]
    fates: dict[str, int]


@dataclass(frozen=True)
class _Candidate:
    frame: Atoms
    key: str
    descriptors: np.ndarray  # (N, D)
    node_energy: np.ndarray  # (N,), eV

    @property
    def structure(self) -> str:
        return self.frame.info["structure"]

    @property
    def replica(self) -> int:
        return self.frame.info["replica"]


def select(
    candidates: Sample,
    labelled: Sample,
    domain: Domain,
    settings: SelectionSettings,
    exploration: ExplorationSettings,
    *,
    kind: str,
    limit: int,
) -> Selection:
    """Choose frames for labelling. Neither their order nor that of the labels matters.

    Args:
        candidates: with `info` keys replica, time, cli_gain, structure, charge, multiplicity.
        labelled: frames that have a record already, of whatever status.
        domain: of the model that predicted; its bonds and classes.
        settings: number, force cap, difference, length of the short list.
        exploration: what counts as failure.
        kind: of system, see `config.System`; the bonds of a `reactive` one may break.
        limit: labels that the budget still allows.

    Returns:
        At most `min(settings.frames, limit)` frames. Their `info` gains `split`, `key`,
        `force_max`, `fps_distance` and, where it was missing, `score`. Fates sum to the number
        of candidates.
    """
    fates: Counter[str] = Counter()
    wanted = max(0, min(settings.frames, limit))
    sound = _physical(candidates, domain, settings, exploration, kind=kind, fates=fates)
    fresh = _unknown(sound, labelled.frames, fates)
    shortlist = _Shortlist(labelled.frames, settings, wanted)
    fates.update(fate for fate in map(shortlist.offer, _in_turn(fresh)) if fate)
    taken = _spread(shortlist.listed, labelled, domain, wanted)
    fates["left: enough for this generation"] += len(shortlist.listed) - len(taken)
    fates["selected"] += len(taken)
    for number, candidate in enumerate(taken, start=1):
        info = candidate.frame.info
        info["key"] = candidate.key
        info["split"] = "train" if number % settings.validation_every else "validation"
        info.setdefault("score", _score(candidate, domain))
    return Selection([candidate.frame for candidate in taken], dict(+fates))


def _physical(
    candidates: Sample,
    domain: Domain,
    settings: SelectionSettings,
    exploration: ExplorationSettings,
    *,
    kind: str,
    fates: Counter[str],
) -> list[_Candidate]:
    """Candidates that a reference calculation would make sense of."""
    sound = []
    failures = _failures(candidates, domain, exploration, kind)
    for number, failure in enumerate(failures):
        frame = candidates.frames[number]
        force = float(np.linalg.norm(candidates.forces[number], axis=1).max())
        if failure:
            fates[f"dropped: {failure}"] += 1
        elif force > settings.force_cap_eV_per_A:
            fates["dropped: force above the cap"] += 1
        else:
            frame.info["force_max"] = force
            values = candidates.descriptors[number], candidates.node_energy[number]
            sound.append(_Candidate(frame, structure_key(frame), *values))
    return sound


def _failures(
    candidates: Sample, domain: Domain, exploration: ExplorationSettings, kind: str
) -> Iterator[str | None]:
    """Why each candidate would be a failed replica; None where it would not."""
    for begin in range(0, len(candidates.frames), FRAMES_AT_ONCE):
        part = candidates[begin : begin + FRAMES_AT_ONCE]
        monitor = FailureMonitor(
            part.frames,
            domain.bonds,
            kind=kind,
            bond_stretch_A=exploration.bond_stretch_A,
            min_distance_A=exploration.min_distance_A,
            device=CPU,
        )
        found = monitor.check(
            torch.as_tensor(np.concatenate([frame.positions for frame in part.frames])),
            torch.tensor([float(energies.sum()) for energies in part.node_energy]),
            torch.as_tensor(np.concatenate(list(part.forces))),
        )
        yield from (found.get(number) for number in range(len(part.frames)))


def _unknown(
    sound: Sequence[_Candidate], labelled: Sequence[Atoms], fates: Counter[str]
) -> list[_Candidate]:
    """Candidates without a record, each structure once; the largest gain first."""
    known = {structure_key(frame) for frame in labelled}
    fresh: dict[str, _Candidate] = {}
    for candidate in sorted(sound, key=_rank):
        if candidate.key in known:
            fates["dropped: labelled already"] += 1
        elif candidate.key in fresh:
            fates["dropped: twin of another candidate"] += 1
        else:
            fresh[candidate.key] = candidate
    return list(fresh.values())


def _rank(candidate: _Candidate) -> tuple:
    """Largest gain first; what follows only makes the order independent of the input's."""
    info = candidate.frame.info
    # A frame may be both the worst of its interval and one before a failure: the former says more.
    no_score = "score" not in info
    return -info["cli_gain"], candidate.replica, info["time"], candidate.key, no_score


def _in_turn(ranked: Sequence[_Candidate]) -> list[_Candidate]:
    """Every replica's best, then every replica's second, and so on; the larger gain first."""
    before: Counter[int] = Counter()
    rounds = []
    for candidate in ranked:
        rounds.append((before[candidate.replica], candidate))
        before[candidate.replica] += 1
    return [candidate for _, candidate in sorted(rounds, key=lambda entry: entry[0])]


class _Shortlist:
    """The best-ranked frames that differ from labelled ones and from each other.

    The first `wanted` are those that ranking alone would choose. A replica has at most
    `settings.shortlist` times as many on the list as among these, and as many if it has none:
    the frames of one bad trajectory may be the farthest, but they cannot be nearly all.
    """

    def __init__(self, labelled: Sequence[Atoms], settings: SelectionSettings, wanted: int) -> None:
        self.listed: list[_Candidate] = []
        self._settings, self._wanted = settings, wanted
        self._labelled, self._others = _Neighbours(labelled), _Neighbours([])

    def offer(self, candidate: _Candidate) -> str | None:
        """Put the next in rank on the list, or say why not."""
        if self._wanted == 0:
            return "left: the label budget is spent"
        if not self._has_room(candidate.replica):
            return "left: ranked too low"
        frame = candidate.frame
        distances = pair_distances(frame)
        if self._labelled.nearest(frame, distances) < self._settings.min_difference_A:
            return "dropped: like a labelled frame"
        if self._others.nearest(frame, distances) < self._settings.min_difference_A:
            return "dropped: like another candidate"
        self._others.add(frame, distances)
        self.listed.append(candidate)
        return None

    def _has_room(self, replica: int) -> bool:
        if len(self.listed) < self._wanted:
            return True
        if len(self.listed) >= self._settings.shortlist * self._wanted:
            return False
        places = sum(candidate.replica == replica for candidate in self.listed[: self._wanted])
        there = sum(candidate.replica == replica for candidate in self.listed)
        return there < self._settings.shortlist * max(places, 1)


def _spread(
    listed: Sequence[_Candidate], labelled: Sample, domain: Domain, wanted: int
) -> list[_Candidate]:
    """Of each structure as many as ranking alone would choose, but those farthest apart."""
    places = Counter(candidate.structure for candidate in listed[:wanted])
    taken = []
    for structure, number in sorted(places.items()):
        mine = [candidate for candidate in listed if candidate.structure == structure]
        classes = domain.classes[structure]
        points = [fingerprint(candidate.descriptors, classes) for candidate in mine]
        # Test frames teach nothing, so what is near them is not known for that.
        known = [
            fingerprint(descriptors, classes)
            for frame, descriptors in labelled.described()
            if frame.info["structure"] == structure and frame.info.get("split") != "test"
        ]
        for i, distance in farthest(points, known, number):
            if distance is not None:
                mine[i].frame.info["fps_distance"] = distance
            taken.append(mine[i])
    return taken


def _score(candidate: _Candidate, domain: Domain) -> float:
    """Largest distance of an atomic energy outside its interval, in widths of it."""
    score = NodeEnergy(domain, "label").for_batch([candidate.frame], CPU)
    said = {
        "node_energy": torch.as_tensor(candidate.node_energy),
        "descriptors": torch.as_tensor(candidate.descriptors),
    }
    return float(score(None, said).max())


class _Neighbours:
    """Frames that others must differ from, by structure."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        waiting: dict[str, list[np.ndarray]] = {}
        for frame in frames:
            waiting.setdefault(frame.info["structure"], []).append(pair_distances(frame))
        self.distances = {name: np.stack(rows) for name, rows in waiting.items()}

    def add(self, frame: Atoms, distances: np.ndarray) -> None:
        before = self.distances.get(frame.info["structure"], np.empty((0, len(distances))))
        self.distances[frame.info["structure"]] = np.vstack([before, distances])

    def nearest(self, frame: Atoms, distances: np.ndarray) -> float:
        """Least root-mean-square difference of interatomic distances to any of them, Å."""
        others = self.distances.get(frame.info["structure"])
        if others is None:
            return np.inf
        return float(rms_difference(distances, others).min())
