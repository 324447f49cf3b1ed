"""From candidates to the few frames worth a label; the fate of every candidate is counted.

1. Unphysical frames are dropped: those that an exploration would call failed, and those with a
   force above the cap.
2. Frames that have a record already are dropped, and of identical candidates all but one.
3. The remaining candidates are ranked by the atomic CLI gained around a frame, replicas in turn.
   From the top, a short list is made of frames that differ from labelled ones and from each other.
4. From the short list, farthest-point sampling takes those that differ most from labelled frames.

    from halcyon.config import ExplorationSettings, SelectionSettings
    from halcyon.exploration.selection import select

    selection = select(candidates, labelled, domain, SelectionSettings(), ExplorationSettings(),
                       system_kind="molecule", limit=80)
    selection.fates  # number of candidates by fate: "selected", "dropped: bond broken", …

Not for: proposing candidates (`explore`), or the sampling itself (`spread`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms

from halcyon.config import ExplorationSettings, SelectionSettings
from halcyon.domain.failures import FailureMonitor
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample
from halcyon.domain.signals import deciding_alone
from halcyon.exploration.spread import farthest, fingerprint
from halcyon.frames import structure_key
from halcyon.labels.pool import PublishedSet
from halcyon.systems.fingerprint import pair_distances, rms_difference

FRAMES_AT_ONCE = 16
"""Number of frames whose pairs of atoms are looked at together."""
CPU = torch.device("cpu")


@dataclass
class Selection:
    """Selected frames, and the fates of all candidates.

    Attributes:
        frames: to label.
        fates: number of candidates by what became of them.
    """

    frames: list[Atoms]
    fates: dict[str, int]

    @classmethod
    def of_none(cls, candidates: int, reason: str) -> "Selection":
        """No frame of so many candidates, for one reason."""
        return cls([], {f"left: {reason}": candidates})

    def replaced(self, published: PublishedSet, labelled: Sequence[Atoms]) -> "Selection":
        """The most similar frames of a published data set, in place of the selected ones.

        Args:
            published: the set. Selected frames that are far from all of it are left out, and
                counted.
            labelled: frames that have a record already, with `info["key"]`.

        Raises:
            InputError: the set has no frame of a structure at all.
        """
        frames = published.nearest(self.frames, labelled)
        fates = dict(self.fates)
        if missing := len(self.frames) - len(frames):
            fates |= {"selected": len(frames), "left: nothing like it in the data set": missing}
        return Selection(frames, fates)


@dataclass(frozen=True)
class _Candidate:
    """A physical candidate: the frame, its key, and the model's values for its N atoms."""

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
    system_kind: str,
    limit: int,
) -> Selection:
    """Choose frames for labelling. Neither the order of candidates nor that of labels matters.

    Args:
        candidates: with `info` keys replica, time, cli_gain, structure, charge, multiplicity.
        labelled: frames that have a record already, whatever its status.
        domain: of the model that predicted; its bonds and classes.
        settings: number, force cap, difference, length of the short list.
        exploration: limits that count as failures.
        system_kind: `molecule`, `liquid` or `reactive`, whose bonds may break.
        limit: number of labels that the budget still allows.

    Returns:
        At most `min(settings.frames, limit)` frames. Their `info` gains `split`, `key`,
        `force_max`, `fps_distance` and, where it was missing, `score`. Fates sum to the number
        of candidates.
    """
    fates: Counter[str] = Counter()
    number = max(0, min(settings.frames, limit))
    physical = _physical(
        candidates, domain, settings, exploration, system_kind=system_kind, fates=fates
    )
    fresh = _without_record(physical, labelled.frames, fates)
    shortlist = _Shortlist(labelled.frames, settings, number)
    fates.update(fate for fate in map(shortlist.offer, _in_turn(fresh)) if fate)
    taken = _spread(shortlist.listed, labelled, domain, number)
    fates["left: enough for this generation"] += len(shortlist.listed) - len(taken)
    fates["selected"] += len(taken)
    for count, candidate in enumerate(taken, start=1):
        info = candidate.frame.info
        info["key"] = candidate.key
        info["split"] = _split(count, settings)
        info.setdefault("score", _score(candidate, domain))
    return Selection([candidate.frame for candidate in taken], dict(+fates))


def select_diverse(
    reservoir: Sample,
    labelled: Sample,
    domain: Domain,
    settings: SelectionSettings,
    *,
    number: int,
) -> list[Atoms]:
    """Random frames that differ most from labelled ones and from each other.

    They are for a model that is calm but wrong: it sees no trouble, so that there are no
    candidates to learn from.

    Args:
        reservoir: random frames of the dynamics with `draw` in `info`.
        labelled: frames that have a record already, or will have one.
        domain: of the model that predicted; its classes.
        settings: how many join the validation set; least difference of frames; force cap.
        number: of frames to take.

    Returns:
        At most `number` frames. Their `info` gains `split`, `key`, `reason` and `fps_distance`.
    """
    physical = []
    for i, frame in enumerate(reservoir.frames):
        if np.linalg.norm(reservoir.forces[i], axis=1).max() <= settings.force_cap_eV_per_A:
            values = reservoir.descriptors[i], reservoir.node_energy[i]
            physical.append(_Candidate(frame, structure_key(frame), *values))
    different = _different(physical, labelled.frames, settings, Counter())
    return _as_chosen(_spread(different, labelled, domain, max(0, number)), "diverse", settings)


def select_random(
    reservoir: Sample,
    labelled: Sample,
    domain: Domain,
    settings: SelectionSettings,
    exploration: ExplorationSettings,
    *,
    system_kind: str,
    limit: int,
) -> Selection:
    """Choose physical frames at random: the control that selection by the index is held against.

    Args:
        reservoir: random frames of the dynamics with `draw` in `info`.
        labelled: frames that have a record already, or will have one.
        domain: of the model that predicted; its bonds.
        settings: number, force cap, difference.
        exploration: limits that count as failures.
        system_kind: `molecule`, `liquid` or `reactive`, whose bonds may break.
        limit: number of labels that the budget still allows.

    Returns:
        At most `min(settings.frames, limit)` frames, those with the least draws. Their `info`
        gains `split`, `key`, `reason` and `force_max`. Fates sum to the number of random frames.
    """
    fates: Counter[str] = Counter()
    physical = _physical(
        reservoir, domain, settings, exploration, system_kind=system_kind, fates=fates
    )
    different = _different(physical, labelled.frames, settings, fates)
    taken = different[: max(0, min(settings.frames, limit))]
    fates["left: enough for this generation"] += len(different) - len(taken)
    fates["selected"] += len(taken)
    return Selection(_as_chosen(taken, "random", settings), dict(+fates))


def _different(
    physical: Sequence[_Candidate],
    labelled: Sequence[Atoms],
    settings: SelectionSettings,
    fates: Counter[str],
) -> list[_Candidate]:
    """Random frames without a record that differ from labelled ones; the least draw first."""
    keys = {structure_key(frame) for frame in labelled}
    neighbours = _Neighbours(labelled)
    different = []
    for candidate in sorted(physical, key=lambda candidate: candidate.frame.info["draw"]):
        distance = neighbours.nearest(candidate.frame, pair_distances(candidate.frame))
        if candidate.key in keys:
            fates["dropped: labelled already"] += 1
        elif distance < settings.min_difference_A:
            fates["dropped: like a labelled frame"] += 1
        else:
            keys.add(candidate.key)
            different.append(candidate)
    return different


def _as_chosen(
    taken: Sequence[_Candidate], reason: str, settings: SelectionSettings
) -> list[Atoms]:
    """Random frames to label, each with its key, reason and set."""
    for count, candidate in enumerate(taken, start=1):
        split = _split(count, settings)
        candidate.frame.info |= {"key": candidate.key, "reason": reason, "split": split}
    return [candidate.frame for candidate in taken]


def _split(count: int, settings: SelectionSettings) -> str:
    """Set that a selected frame joins, by its number, counted from 1."""
    return "train" if count % settings.validation_every else "validation"


def _physical(
    candidates: Sample,
    domain: Domain,
    settings: SelectionSettings,
    exploration: ExplorationSettings,
    *,
    system_kind: str,
    fates: Counter[str],
) -> list[_Candidate]:
    """Candidates that are no failed replicas and whose forces are below the cap."""
    physical = []
    failures = _failures(candidates, domain, exploration, system_kind)
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
            physical.append(_Candidate(frame, structure_key(frame), *values))
    return physical


def _failures(
    candidates: Sample, domain: Domain, exploration: ExplorationSettings, system_kind: str
) -> Iterator[str | None]:
    """Why each candidate would be a failed replica; None where it would not."""
    for begin in range(0, len(candidates.frames), FRAMES_AT_ONCE):
        part = candidates[begin : begin + FRAMES_AT_ONCE]
        monitor = FailureMonitor(
            part.frames,
            domain.bonds,
            kind=system_kind,
            bond_stretch_A=exploration.bond_stretch_A,
            min_distance_A=exploration.min_distance_A,
            device=CPU,
        )
        reasons = monitor.check(
            torch.as_tensor(np.concatenate([frame.positions for frame in part.frames])),
            torch.tensor([float(energies.sum()) for energies in part.node_energy]),
            torch.as_tensor(np.concatenate(list(part.forces))),
        )
        yield from (reasons.get(number) for number in range(len(part.frames)))


def _without_record(
    physical: Sequence[_Candidate], labelled: Sequence[Atoms], fates: Counter[str]
) -> list[_Candidate]:
    """Candidates without a record, of identical ones the first; the largest gain first."""
    labelled_keys = {structure_key(frame) for frame in labelled}
    fresh: dict[str, _Candidate] = {}
    for candidate in sorted(physical, key=_rank):
        if candidate.key in labelled_keys:
            fates["dropped: labelled already"] += 1
        elif candidate.key in fresh:
            fates["dropped: twin of another candidate"] += 1
        else:
            fresh[candidate.key] = candidate
    return list(fresh.values())


def _rank(candidate: _Candidate) -> tuple:
    """Sorts by the largest gain; all else makes the order independent of that of the candidates."""
    info = candidate.frame.info
    # A frame may be the worst of its interval and also one before a failure: the former has a score
    # and comes first.
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

    The first `number` are those that ranking alone would choose. A replica may have on the list
    `settings.shortlist` times as many frames as it has among these, but at least
    `settings.shortlist`. So the frames of one bad trajectory, which may be the farthest, are not
    nearly all of the list.
    """

    def __init__(self, labelled: Sequence[Atoms], settings: SelectionSettings, number: int) -> None:
        self.listed: list[_Candidate] = []
        self._settings, self._number = settings, number
        self._labelled, self._others = _Neighbours(labelled), _Neighbours([])

    def offer(self, candidate: _Candidate) -> str | None:
        """Put the next candidate in rank on the list, or return its fate."""
        if self._number == 0:
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
        if len(self.listed) < self._number:
            return True
        if len(self.listed) >= self._settings.shortlist * self._number:
            return False
        places = sum(candidate.replica == replica for candidate in self.listed[: self._number])
        of_replica = sum(candidate.replica == replica for candidate in self.listed)
        return of_replica < self._settings.shortlist * max(places, 1)


def _spread(
    listed: Sequence[_Candidate], labelled: Sample, domain: Domain, number: int
) -> list[_Candidate]:
    """As many candidates of each structure as ranking alone would choose, but the farthest apart.

    Args:
        listed: the short list, in rank.
        labelled: frames that have a record already.
        domain: its classes of atoms.
        number: of candidates to take.
    """
    places = Counter(candidate.structure for candidate in listed[:number])
    taken = []
    for structure, number_of_structure in sorted(places.items()):
        candidates = [candidate for candidate in listed if candidate.structure == structure]
        classes = domain.classes[structure]
        points = [fingerprint(candidate.descriptors, classes) for candidate in candidates]
        # The model does not learn from test frames, so a candidate may well be near one.
        learned = [
            fingerprint(descriptors, classes)
            for frame, descriptors in labelled.described()
            if frame.info["structure"] == structure and frame.info.get("split") != "test"
        ]
        for i, distance in farthest(points, learned, number_of_structure):
            if distance is not None:
                candidates[i].frame.info["fps_distance"] = distance
            taken.append(candidates[i])
    return taken


def _score(candidate: _Candidate, domain: Domain) -> float:
    """Largest score of an atom by what decides."""
    score = deciding_alone(domain).for_batch([candidate.frame], CPU)
    output = {
        "node_energy": torch.as_tensor(candidate.node_energy),
        "descriptors": torch.as_tensor(candidate.descriptors),
    }
    return float(score(None, output).max())


class _Neighbours:
    """Frames that others must differ from, by structure."""

    def __init__(self, frames: Sequence[Atoms]) -> None:
        rows_of: dict[str, list[np.ndarray]] = {}
        for frame in frames:
            rows_of.setdefault(frame.info["structure"], []).append(pair_distances(frame))
        self.distances = {name: np.stack(rows) for name, rows in rows_of.items()}

    def add(self, frame: Atoms, distances: np.ndarray) -> None:
        before = self.distances.get(frame.info["structure"], np.empty((0, len(distances))))
        self.distances[frame.info["structure"]] = np.vstack([before, distances])

    def nearest(self, frame: Atoms, distances: np.ndarray) -> float:
        """Least root-mean-square difference of interatomic distances to any of them, Å."""
        others = self.distances.get(frame.info["structure"])
        if others is None:
            return np.inf
        return float(rms_difference(distances, others).min())
