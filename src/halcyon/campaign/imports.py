"""Labels that a campaign starts from, taken over from files.

    from pathlib import Path
    from halcyon.campaign.imports import check_files

    check_files(campaign.systems["ethanol"], [], "config.yaml")  # no files, nothing to check

Not for: sorting frames out (`labels.imported`), or comparing labels (`labels.agreement`).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from halcyon.campaign.budget import Spent
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.paths import IMPORTED, label_scratch
from halcyon.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from halcyon.labels.imported import ImportedLabels, SortedOut
    from halcyon.labels.reference.base import Reference
    from halcyon.labels.store import LabelStore

FIRST_FRAMES = 200
"""Frames of each file that are looked at before the first job."""


def check_files(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse files whose first frames cannot be read, or that have no frame of use at all.

    Args:
        plan: the system; its `seed_labels.from` names the files.
        starts: its start structures.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the file and the key.
    """
    from halcyon.labels.imported import sort_out
    from halcyon.labels.verifying import refuse_unusable

    seed = plan.settings.seed_labels
    if not seed.files:
        return
    labelled = [start for start in starts if start.info["structure"] in plan.labelled]
    bonds = {structure: plan.lasting_bonds(structure) for structure in plan.labelled}
    for path in seed.files:
        try:
            first = sort_out([path], seed.layout, labelled, bonds=bonds, first=FIRST_FRAMES)
        except InputError as error:
            raise InputError(
                f"{source}: seed_labels.from: {error}; see seed_labels.layout"
            ) from None
        if first.read < FIRST_FRAMES:  # else frames of use may come later
            refuse_unusable(first, [path])


def check_reference(plan: SystemPlan, pool: "Sequence[Atoms] | None", source: str) -> None:
    """Refuse to verify labels by a set of others' labels: it can compute none of them again.

    Args:
        plan: a system.
        pool: see `Reference.pool`.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the reference is such a set.
    """
    if pool is not None and plan.settings.seed_labels.imports_labels:
        raise InputError(
            f"{source}: seed_labels.from: system {plan.system.name}: the reference is a data set, "
            "which cannot compute these labels again; expected them among reference.files, or "
            "seed_labels.level: theirs"
        )


def summary_of(plan: SystemPlan, folder: Path) -> "ImportedLabels | None":
    """What became of the labels that a system started from; None where there are none, or not yet.

    Args:
        plan: the system.
        folder: folder of its results.

    Raises:
        InputError: the file is damaged.
    """
    from halcyon.labels.imported import ImportedLabels

    path = folder / "imported" / IMPORTED[1]
    return ImportedLabels.read(path) if plan.settings.seed_labels.files and path.exists() else None


def take_over(
    campaign: Campaign,
    system: str,
    reference: "Reference",
    store: "LabelStore",
    *,
    cores: int,
    seed: int,
    stop: Callable[[], bool],
) -> "tuple[list[Atoms], ImportedLabels]":
    """Sort out the labels of files, verify some of them, and keep them in the label store.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        reference: computes some labels again.
        store: of its level.
        cores: number of cores for the reference.
        seed: draws the frames that are computed again.
        stop: true: stop in good order.

    Returns:
        The frames in use with their labels, and what became of all.

    Raises:
        InputError: no frame is of use, or labels do not agree with the reference's.
        Interrupted: `stop` became true.
    """
    from halcyon.labels.imported import ImportedLabels
    from halcyon.labels.labelling import Labeller
    from halcyon.labels.store import LabelStore
    from halcyon.labels.verifying import keep, refuse_unusable, verify

    plan = campaign.systems[system]
    settings = plan.settings.seed_labels
    sorted_out = _sorted_out(plan)
    refuse_unusable(sorted_out, settings.files)
    agreement, before = None, 0
    if settings.imports_labels:
        work = label_scratch(campaign, system, "imported", 0)
        labeller = Labeller(
            reference=reference,
            # A label that was imported before must not confirm itself.
            store=LabelStore(work / "labels", reference.level),
            work=work,
            cores=cores,
            provenance={"campaign": campaign.settings.campaign, "system": system},
            may_start=Spent(campaign, plan.settings.limits).may_start,
            stop=stop,
        )
        agreement, computed = verify(sorted_out, labeller, settings, seed=seed)
        before = len(store.known([frame.info["key"] for frame in sorted_out.frames]))
        store.add([_without_payment(frame) for frame in computed])
        keep(sorted_out, agreement, store, campaign.settings.campaign)
    return sorted_out.frames, ImportedLabels(
        schema=ImportedLabels.SCHEMA,
        files=[str(path) for path in settings.files],
        frames=sorted_out.read,
        used=dict(Counter(frame.info["structure"] for frame in sorted_out.frames)),
        left_out=dict(sorted_out.left_out),
        stored_before=before,
        level=settings.level,
        agreement=agreement,
    )


def _without_payment(frame: "Atoms") -> "Atoms":
    """A computed label as the store keeps it."""
    record = frame.copy()
    record.info = {k: v for k, v in frame.info.items() if k != "paid"}
    return record


def _sorted_out(plan: SystemPlan) -> "SortedOut":
    """Frames of the files that the campaign can use; labels beyond all reason are left out."""
    from halcyon.campaign.label_jobs import hottest
    from halcyon.labels import sanity
    from halcyon.labels.imported import sort_out
    from halcyon.labels.reference.base import Status

    settings = plan.settings
    sorted_out = sort_out(
        settings.seed_labels.files,
        settings.seed_labels.layout,
        [plan.start(structure) for structure in plan.labelled],
        bonds={structure: plan.lasting_bonds(structure) for structure in plan.labelled},
    )
    judged = sanity.judge(
        sorted_out.frames,
        settings.sanity,
        temperature_K=hottest(settings),
        reactive=plan.system.kind == "reactive",
    )
    good = [
        f for f, j in zip(sorted_out.frames, judged, strict=True) if j.info["status"] == Status.OK
    ]
    # Where most are beyond reason, the files were read wrongly: the comparison will tell how.
    if 2 * len(good) > len(judged):
        sorted_out.left_out["unphysical (sanity)"] += len(judged) - len(good)
        sorted_out.left_out += Counter()  # drops a zero
        sorted_out.frames = good
    return sorted_out
