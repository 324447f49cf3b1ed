"""Labels of a reference in the lowest of several spins, outside a campaign's own jobs.

    records = labelled(campaign.reference(), frames, plan.structures, work)

Not for: labels that are kept (see `halcyon.labels.spin`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ase import Atoms

from halcyon.config import StructureSettings
from halcyon.labels.reference.base import Record, Reference, Status
from halcyon.labels.spin import states


def labelled(
    reference: Reference,
    frames: Sequence[Atoms],
    structures: Mapping[str, StructureSettings],
    work: Path,
) -> Iterator[Record]:
    """A record per frame: of its spin of lowest energy, with the cost of all that were tried.

    Where one of them has no label, which might be the lowest, the frame has none.

    Args:
        reference: what labels.
        frames: with `info["structure"]`, charge and multiplicity.
        structures: settings by name, with the multiplicities of each.
        work: folder for scratch files.
    """
    for of_frame in states(frames, structures):
        records = list(reference.label(of_frame, work, 1))
        bad = [record for record in records if record.status is not Status.OK]
        best = bad[0] if bad else min(records, key=lambda record: record.energy or 0.0)
        yield replace(
            best,
            seconds=sum(record.seconds for record in records),
            core_seconds=sum(record.core_seconds for record in records),
        )
