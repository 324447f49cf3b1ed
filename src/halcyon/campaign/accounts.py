"""What everything cost, and which frames got no label: the account of a campaign.

    from halcyon.campaign.accounts import costs, quarantine, total

    total(costs(campaign, "ethanol"), "label")  # core-hours that this campaign paid for labels
    quarantine(campaign, "ethanol")  # frames without a good label, and why

Everything is computed, whenever it is asked for, from the files that the jobs left: the ledger
(`stages.jsonl`), label files, void records beside the journals, and checks of forces. `write`
leaves two tables as Parquet beside the results, for other programs; nothing reads them back.

Not for: stopping at a budget (`budget`), or showing tables (`commands.accounts`, `report.page`).
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files, jsonl
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames
from halcyon.labels.finite_difference import CheckedForces
from halcyon.labels.reference.base import Status

FOUND = "found"
"""Outcome of labels that the store had: this campaign paid nothing for them."""
REPEATED = "repeated"
"""Outcome of calculations that a systemic failure made void; they were done again."""
CHECK_STAGE = "check"
"""Stage of the calculations that hold forces against energies (`finite_difference`)."""
BEFORE = "start"
"""Batch of the stages before the first generation; labels before it are of the batch `seed`."""
SCHEMA_VERSION = 1
UNITS = {"core_seconds": "s", "paid": "s"}


@dataclass(frozen=True, kw_only=True)
class BadFrame:
    """A frame without a good label, or, where `status` is ok, one that is worth a look.

    Attributes:
        system: name.
        batch: `seed`, or the generation's folder.
        generation: -1 for the seed.
        shard: of the batch.
        structure: name of its start structure.
        key: of the structure, as in the label store.
        status: how it ended; `not computed`: the budget was spent; `ok`: only flagged.
        reason: the program's own message, or why the label was rejected or flagged.
        rung: rung of the rescue ladder that was reached.
        core_seconds: of the calculation, whoever paid for it.
        paid: what this campaign paid for it, core-seconds.
        files: folder with what the program wrote; empty where there is none.
    """

    system: str
    batch: str
    generation: int
    shard: int
    structure: str
    key: str
    status: str
    reason: str
    rung: int
    core_seconds: float
    paid: float
    files: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What calculations of one kind cost.

    Attributes:
        system: name.
        batch: `start`, `seed`, or the generation's folder.
        generation: -1 for the seed and all before it.
        stage: `label`, `check` (forces against energies), or another stage.
        outcome: of labels: a status, `found` or `repeated`; of other stages: `done`.
        number: frames; of checks, checked frames; of other stages, runs.
        core_seconds: paid by this campaign.
    """

    system: str
    batch: str
    generation: int
    stage: str
    outcome: str
    number: int
    core_seconds: float


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What one stage has taken so far, repeated jobs included.

    Attributes:
        stage: its name.
        runs: jobs that were done.
        seconds: wall time of all of them.
        core_seconds: wall time times cores.
    """

    stage: str
    runs: int
    seconds: float
    core_seconds: float


@dataclass(frozen=True, kw_only=True)
class LabelCost:
    """What the label calculations of a batch have taken, whoever has paid for them.

    What this campaign has paid is in `Cost`: labels that the store had cost it nothing.

    Attributes:
        batch: `seed` or a generation's folder.
        labels: frames with a label.
        without: frames without one.
        core_seconds: of all their calculations.
    """

    batch: str
    labels: int
    without: int
    core_seconds: float


def read_ledger(path: Path, system: str) -> list[dict[str, Any]]:
    """A system's entries in the ledger, in order of time; see `stage.Job.done`.

    Args:
        path: of the ledger, see `paths.ledger`; it need not exist.
        system: its name.
    """
    return [entry for entry in jsonl.read(path) if entry.get("system") == system]


def stage_times(entries: Sequence[Mapping[str, Any]]) -> list[StageTime]:
    """Times by stage, in the order in which they first finished.

    Args:
        entries: of one system, see `read_ledger`.
    """
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [
        StageTime(
            stage=stage,
            runs=len(jobs),
            seconds=sum(job["seconds"] for job in jobs),
            core_seconds=sum(job["seconds"] * job["cores"] for job in jobs),
        )
        for stage, jobs in by_stage.items()
    ]


def label_costs(batches: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[LabelCost]:
    """What the label calculations of each batch have taken.

    Args:
        batches: what the label files say about each frame (`info`), by batch.
    """
    return [
        LabelCost(
            batch=batch,
            labels=sum(info["status"] == Status.OK for info in infos),
            without=sum(info["status"] != Status.OK for info in infos),
            core_seconds=sum(info.get("core_seconds") or 0.0 for info in infos),
        )
        for batch, infos in batches.items()
    ]


def quarantine(campaign: Campaign, system: str, *, flagged: bool = False) -> list[BadFrame]:
    """Frames without a good label.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        flagged: instead, frames with a good label that are worth a look.
    """
    entries = []
    for batch, shard, frame in _labelled(campaign, system):
        info, good = frame.info, frame.info["status"] == Status.OK
        if good != flagged or (flagged and "flag" not in info):
            continue
        key = info.get("key", "")
        folder = paths.label_scratch(campaign, system, batch, shard) / (key or "unknown")
        entries.append(
            BadFrame(
                system=system,
                batch=batch,
                generation=paths.batch_number(batch),
                shard=shard,
                structure=info["structure"],
                key=key,
                status=info["status"],
                reason=info.get("flag" if flagged else "message", ""),
                rung=info.get("rung", 0),
                core_seconds=info.get("core_seconds", 0.0),
                paid=_paid(frame, campaign),
                files=str(folder) if folder.is_dir() else "",
            )
        )
    return entries


def costs(campaign: Campaign, system: str) -> list[Cost]:
    """What a system has cost so far, in the order of the loop, without jobs that still run."""
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])

    def add(batch: str, stage: str, outcome: str, core_seconds: float, number: int = 1) -> None:
        entry = sums[batch, stage, outcome]
        entry[0] += number
        entry[1] += core_seconds

    for entry in read_ledger(paths.ledger(campaign.folder), system):
        if entry["stage"] != "label":  # labels are counted one by one
            generation = entry["generation"]
            batch = BEFORE if generation is None else paths.batch_name(generation)
            add(batch, entry["stage"], "done", entry["seconds"] * entry["cores"])
    for batch, _, frame in _labelled(campaign, system):
        info, paid = frame.info, _paid(frame, campaign)
        from_store = "core_seconds" in info and not paid and info["core_seconds"] > 0
        add(batch, "label", FOUND if from_store else info["status"], paid)
    for path in paths.check_files(campaign, system):
        for slope in CheckedForces.read(path).checks:
            outcome = {True: "sound", False: "wrong", None: "without label"}[slope.passed]
            add(path.parents[1].name, CHECK_STAGE, outcome, slope.core_seconds)
    for path in paths.void_records(campaign, system):
        batch = path.parent.name.rpartition("-")[0]
        for entry in jsonl.read(path):
            add(batch, "label", REPEATED, entry["info"]["core_seconds"])
    return sorted(
        (
            Cost(
                system=system,
                batch=batch,
                generation=paths.batch_number(batch),
                stage=stage,
                outcome=outcome,
                number=int(number),
                core_seconds=seconds,
            )
            for (batch, stage, outcome), (number, seconds) in sums.items()
        ),
        key=lambda cost: (cost.generation, cost.batch != BEFORE),
    )


def total(entries: Sequence[Cost], *stages: str) -> float:
    """Core-hours of these stages, of all stages if none is named."""
    return sum(e.core_seconds for e in entries if not stages or e.stage in stages) / 3600


def write(campaign: Campaign, system: str) -> list[Path]:
    """Write both tables beside the system's results, atomically; columns know their units."""
    tables: dict[str, tuple[type, Sequence[Any]]] = {
        "quarantine": (BadFrame, quarantine(campaign, system)),
        "cost": (Cost, costs(campaign, system)),
    }
    written = []
    for name, (form, rows) in tables.items():
        path = campaign.folder / system / f"{name}.parquet"
        with files.replacing(path) as temporary:
            pq.write_table(_table(form, rows), temporary, compression="zstd")
        written.append(path)
    return written


def _labelled(campaign: Campaign, system: str) -> list[tuple[str, int, Atoms]]:
    """Every frame of every label file, with its batch and shard."""
    return [
        (path.parents[1].name, int(path.stem), frame)
        for path in paths.label_files(campaign, system)
        for frame in read_frames(path)
    ]


def _paid(frame: Atoms, campaign: Campaign) -> float:
    """Core-seconds that the campaign paid; label files of earlier versions do not say it."""
    info = frame.info
    if "paid" in info:
        return float(info["paid"])
    computed_here = info.get("campaign") == campaign.settings.campaign
    return float(info.get("core_seconds", 0.0)) if computed_here else 0.0


def _table(form: type, rows: Sequence[Any]) -> pa.Table:
    types: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema(
        [
            pa.field(field.name, types[field.type], metadata={"unit": UNITS.get(field.name, "")})
            for field in fields(form)
        ],
        metadata={"halcyon.ledger": str(SCHEMA_VERSION)},
    )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
