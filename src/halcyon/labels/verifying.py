"""Trust, but verify: some imported labels are computed again before all of them are believed.

    from pathlib import Path
    from halcyon.config import XtbReference
    from halcyon.config.learning import SeedSettings
    from halcyon.labels.reference import make_reference
    from halcyon.labels.verifying import drawn

    drawn(frames, number=5, seed=1)  # frames of each file and structure

Not for: comparing the labels (`agreement`), or sorting frames out (`imported`).
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

import numpy as np
from ase import Atoms

from halcyon.config import DatasetLayout
from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.frames import structure_only
from halcyon.labels.agreement import Agreement, compare, fault
from halcyon.labels.imported import SortedOut, in_words
from halcyon.labels.labelling import Labeller
from halcyon.labels.store import LabelStore
from halcyon.wording import count


def drawn(frames: Sequence[Atoms], *, number: int, seed: int) -> list[Atoms]:
    """Draw frames to compute again: in turn of each file and structure, of each at least one.

    Args:
        frames: from `imported.sort_out`.
        number: how many; more where there are more files and structures.
        seed: of the draw.
    """
    groups: dict[tuple[str, str], list[Atoms]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(frames)):
        info = frames[index].info
        groups[info["origin"], info["structure"]].append(frames[index])
    in_turn = chain.from_iterable(zip_longest(*(groups[name] for name in sorted(groups))))
    return [frame for frame in in_turn if frame is not None][: max(number, len(groups))]


def verify(
    sorted_out: SortedOut, labeller: Labeller, settings: SeedSettings, *, seed: int
) -> tuple[Agreement, list[Atoms]]:
    """Compute some labels again, and compare.

    Args:
        sorted_out: labels to verify.
        labeller: has a store of its own: a label that was imported earlier must not confirm itself.
        settings: number of frames and tolerances.
        seed: of the draw.

    Returns:
        How they compare, and the labels that were computed.

    Raises:
        InputError: they do not agree; the message has the numbers, and what they suggest.
        Interrupted: the job was asked to stop.
    """
    layout: DatasetLayout = settings.layout
    frames = drawn(sorted_out.frames, number=settings.verified_frames, seed=seed)
    computed = labeller.label([_bare(frame) for frame in frames])
    agreement = compare(frames, computed, settings)
    if words := fault(agreement, layout):
        raise InputError(
            f"seed_labels.from: {', '.join(map(str, settings.files))}: these labels are not those "
            f"of the reference. {words}. Nothing was stored. Set seed_labels.layout right, or "
            "say seed_labels.level: theirs, and the model is only pre-trained on them"
        )
    return agreement, [frame for frame in computed if "energy" in frame.info]


def _bare(frame: Atoms) -> Atoms:
    """The frame without its label."""
    bare = structure_only(frame)
    bare.info["origin"] = "computed again to verify an import"
    return bare


def keep(sorted_out: SortedOut, agreement: Agreement, store: LabelStore, campaign: str) -> None:
    """Keep verified labels in the label store; what is there already stays as it is.

    Args:
        sorted_out: verified labels.
        agreement: says how many were computed again.
        store: of the campaign's level.
        campaign: its name.
    """
    records = []
    for frame in sorted_out.frames:
        record = frame.copy()
        record.info = dict(frame.info)
        record.info["origin"] += f", verified on {count(agreement.frames, 'frame')}"
        record.info |= {"level": store.level, "campaign": campaign, "core_seconds": 0.0}
        records.append(record)
    store.add(records)


def refuse_unusable(sorted_out: SortedOut, files: Sequence[object]) -> None:
    """Refuse files of which no frame can be used.

    Raises:
        InputError: the message has the reasons.
    """
    if not sorted_out.frames:
        raise InputError(
            f"seed_labels.from: {', '.join(map(str, files))}: no frame of the campaign's "
            f"structures in {count(sorted_out.read, 'frame')}: {in_words(sorted_out.left_out)}. "
            "Expected frames with the composition, charge, multiplicity and bonds of a structure; "
            "of lengths in another unit, set seed_labels.layout.positions_unit"
        )
