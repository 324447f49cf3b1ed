"""The frames of a generation that are labelled: random ones, trouble, and diverse ones.

1. The audit's frames come first: random frames of the dynamics, neither filtered nor ranked, whose
   labels measure how wrong the model is. They have the first claim on the label budget.
2. Candidates, where the index saw trouble (see `selection.select`). A calm generation labels none.
3. Where the last audit missed its goals, though: diverse random frames in the places that
   candidates leave empty, in a calm generation too.

What the model that visited the frames predicts for them, and what its domain says of them, is
written down now, before any model learns from their labels.

    from halcyon.exploration.generation import Visited, frames_to_label

    visited = Visited(candidates=[], reservoir=reservoir)
    chosen = frames_to_label(visited, labelled, watched, settings, audit_frames_each=5, calm=True)
    chosen.random["audit"]  # number of the audit's frames

Not for: how random frames are drawn (`reservoir`), or which candidates are worth a label
(`selection`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from ase import Atoms

from halcyon.config import Settings
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample
from halcyon.domain.scoring import scores_of
from halcyon.domain.signals import Model
from halcyon.exploration.reservoir import audit_frames
from halcyon.exploration.selection import Selection, select, select_diverse, select_random
from halcyon.frames import structure_key
from halcyon.labels.imported import is_imported
from halcyon.labels.labelling import NOT_COMPUTED
from halcyon.labels.pool import PublishedSet
from halcyon.models import mace
from halcyon.verdict.audit import PUBLISHED
from halcyon.verdict.forms import Foretold

COMPONENT = 0.5
"""Mean absolute component of a vector of length 1 whose direction is random."""


@dataclass(frozen=True, kw_only=True)
class Visited:
    """Frames that an exploration left: candidates, and random frames with their draws."""

    candidates: Sequence[Atoms]
    reservoir: Sequence[Atoms]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The model that explored.

    Attributes:
        model: as `mace.load` returns it.
        domain: its domain.
        system_kind: `molecule`, `liquid` or `reactive`, whose bonds may break.
        committee: the other models of the signal `committee`.
    """

    model: torch.nn.Module
    domain: Domain
    system_kind: str
    committee: Sequence[Model] = ()

    def sample(self, frames: Sequence[Atoms]) -> Sample:
        """Frames with what the model predicts for them."""
        return Sample.of(frames, mace.evaluate(self.model, frames))


@dataclass
class Chosen:
    """Frames to label.

    Attributes:
        frames: the audit's, selected candidates, diverse ones; `role` in `info` says which.
        fates: number of candidates by what became of them.
        random: number of random frames by what became of them.
        foretold: the force errors that the index expects of the random frames.
    """

    frames: list[Atoms]
    fates: dict[str, int]
    random: dict[str, int] = field(default_factory=dict)
    foretold: list[Foretold] = field(default_factory=list)

    def describe(self) -> str:
        """The numbers in a line, for people."""
        parts = [f"{number} {what}" for what, number in (self.random | self.fates).items()]
        return ", ".join(parts)


def frames_to_label(
    visited: Visited,
    labelled: Sequence[Atoms],
    watched: Watched,
    settings: Settings,
    *,
    audit_frames_each: int,
    calm: bool,
    missed: bool = False,
    published: PublishedSet | None = None,
) -> Chosen:
    """Choose the frames of a generation.

    Args:
        visited: what the exploration left.
        labelled: frames that have a record already, or were to have one.
        watched: the model that explored, and its domain.
        settings: of the system.
        audit_frames_each: audit frames of each structure and temperature.
        calm: whether the index has saturated.
        missed: whether the last generation's audit missed its goals.
        published: set whose frames take the place of the chosen ones, in retrospect.

    Returns:
        At most as many frames as the label budget allows, with what the model predicts: `info` has
        `role`, `key`, `split`, `model_energy`, `model_stress` (where periodic) and `force_max`,
        `arrays` have `model_forces`,
        `distance_<signal>` and `expected_error`.
    """
    spent = sum(
        frame.info["status"] != NOT_COMPUTED and not is_imported(frame) for frame in labelled
    )
    left = max(0, settings.limits.label_budget - spent)
    counts: Counter[str] = Counter()
    drawn = audit_frames(visited.reservoir, audit_frames_each, limit=left)
    audit = _audit(drawn, labelled, published, counts)
    left -= len(audit)
    selected: list[Atoms] = []
    diverse: list[Atoms] = []
    if calm and not missed:
        selection = Selection.of_none(len(visited.candidates), "the index has saturated")
    else:
        known = watched.sample([*labelled, *audit])
        others = _not_in(visited.reservoir, audit)
        by_index = settings.selection.by == "index"
        selection = (select if by_index else select_random)(
            watched.sample(visited.candidates if by_index else others),
            known,
            watched.domain,
            settings.selection,
            settings.exploration,
            system_kind=watched.system_kind,
            limit=left,
        )
        if selection.frames and published:
            selection = selection.replaced(published, known.frames)
        selected = selection.frames
        places = min(settings.selection.frames, left) - len(selected)
        if missed and places > 0:
            chosen = {frame.info["draw"] for frame in selected if "draw" in frame.info}
            diverse = select_diverse(
                watched.sample([f for f in others if f.info["draw"] not in chosen]),
                watched.sample([*known.frames, *selected]),
                watched.domain,
                settings.selection,
                number=places,
            )
            if published:
                diverse = published.nearest(diverse, [*known.frames, *selected])
            counts["diverse"] += len(diverse)
    for role, frames in (("selected", selected), ("diverse", diverse)):
        for frame in frames:
            frame.info["role"] = role
    frames = [*audit, *selected, *diverse]
    _predict(frames, watched)
    # Published neighbours are no random frames: what is expected of these says nothing of them.
    by_expected = settings.audit.second_opinion == "index" and not published
    foretold = foretell(visited.reservoir, watched) if by_expected else []
    return Chosen(frames, selection.fates, dict(+counts), foretold)


def foretell(reservoir: Sequence[Atoms], watched: Watched) -> list[Foretold]:
    """The force errors that the index expects of random frames.

    Args:
        reservoir: random frames with structure, temperature, replica and draw in `info`.
        watched: the model that explored, and its domain; a domain without expected errors
            foretells nothing.
    """
    if not reservoir or watched.domain.expected is None:
        return []
    scores = scores_of(watched.sample(reservoir), watched.domain, watched.committee)
    foretold = []
    for frame, values in zip(reservoir, scores, strict=True):
        error = COMPONENT * float(np.mean(values["expected_error"]))
        foretold.append(
            Foretold(
                structure=frame.info["structure"],
                temperature_K=frame.info["temperature"],
                replica=frame.info["replica"],
                draw=frame.info["draw"],
                forces_mae_eV_per_A=error if np.isfinite(error) else None,
            )
        )
    return foretold


def _audit(
    drawn: Sequence[Atoms],
    labelled: Sequence[Atoms],
    published: PublishedSet | None,
    counts: Counter[str],
) -> list[Atoms]:
    """The audit's frames, or their neighbours in a published set."""
    frames = list(drawn)
    if published:
        frames = published.nearest(frames, labelled, again=True)
        for frame in frames:
            frame.info["reason"] = f"{PUBLISHED}: {frame.info['reason']}"
        counts["audit: nothing like it in the data set"] += len(drawn) - len(frames)
    splits = {frame.info["key"]: frame.info["split"] for frame in labelled if "key" in frame.info}
    for frame in frames:
        key = structure_key(frame)
        # No geometry is in two sets.
        if key in splits:
            frame.info["split"] = splits[key]
            counts["audit: labelled already"] += 1
        splits[key] = frame.info["split"]
        frame.info["key"] = key
    counts["audit"] += len(frames)
    return frames


def _not_in(reservoir: Sequence[Atoms], audit: Sequence[Atoms]) -> list[Atoms]:
    """Copies of the random frames that the audit did not take."""
    taken = {frame.info["draw"] for frame in audit}
    others = []
    for frame in reservoir:
        if frame.info["draw"] not in taken:
            copy = frame.copy()
            copy.info = dict(frame.info)
            others.append(copy)
    return others


def _predict(frames: Sequence[Atoms], watched: Watched) -> None:
    """Write down what the model predicts for frames, and what its domain says of them."""
    if not frames:
        return
    predictions = mace.evaluate(watched.model, frames)
    scores = scores_of(Sample.of(frames, predictions), watched.domain, watched.committee)
    for frame, energy, stress, forces, values in zip(
        frames,
        predictions.energy,
        predictions.stress,
        predictions.forces,
        scores,
        strict=True,
    ):
        frame.info["model_energy"] = float(energy)
        if stress is not None:
            frame.info["model_stress"] = stress
        frame.info["force_max"] = float(np.linalg.norm(forces, axis=1).max())
        frame.arrays["model_forces"] = np.asarray(forces, dtype=float)
        for name, of_atoms in values.items():
            frame.arrays[name] = np.asarray(of_atoms)
