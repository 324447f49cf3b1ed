"""What failed and why, and what everything cost: two tables of a system, derived from its files.

    for entry in quarantine(campaign, "ethanol"): …     frames without a good label
    for entry in costs(campaign, "ethanol"): …          core-seconds by batch, stage and outcome

They are computed from the label files, the journals' void records, the checks and `stages.jsonl`
whenever they are asked for; `write` leaves them as Parquet beside the results, for other programs.
Neither is a second truth.

Not for: stopping at a budget (`budget`), or showing tables (`ledger_commands`, `page`).
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.frames import read_frames
from halcyon.labels import journal
from halcyon.labels.reference.base import Status

FOUND = "found"
"""Outcome of labels that were in the store: this campaign paid nothing for them."""
REPEATED = "repeated"
"""Outcome of calculations that a systemic failure made void."""
CHECK_STAGE = "check"
"""Stage of the calculations of `finite_difference`."""
BEFORE = "start"
"""Batch of the stages before the first generation; labels of that time are of the batch seed."""
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


def read_ledger(path: Path, system: str) -> list[dict[str, Any]]:
    """A system's entries in `stages.jsonl`; a line torn by a kill is passed over."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["system"] == system:
            entries.append(entry)
    return entries


def quarantine(campaign: Campaign, system: str, *, flagged: bool = False) -> list[BadFrame]:
    """Frames without a good label; `flagged`: instead, good ones that are worth a look."""
    found = []
    for batch, shard, frame in _labelled(campaign, system):
        info, good = frame.info, frame.info["status"] == Status.OK
        if good != flagged or (flagged and "flag" not in info):
            continue
        key = info.get("key", "")
        folder = paths.label_scratch(campaign, system, batch, shard) / (key or "unknown")
        found.append(
            BadFrame(
                system=system,
                batch=batch,
                generation=_generation(batch),
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
    return found


def costs(campaign: Campaign, system: str) -> list[Cost]:
    """What a system has cost so far, in the order of the loop; stages still running are not in."""
    sums: dict[tuple[str, str, str], list[float]] = defaultdict(lambda: [0, 0.0])

    def add(batch: str, stage: str, outcome: str, core_seconds: float, number: int = 1) -> None:
        entry = sums[batch, stage, outcome]
        entry[0] += number
        entry[1] += core_seconds

    for entry in read_ledger(paths.ledger(campaign.folder), system):
        if entry["stage"] != "label":  # labels are counted one by one
            number = entry["generation"]
            batch = BEFORE if number is None else f"gen{number:03d}"
            add(batch, entry["stage"], "done", entry["seconds"] * entry["cores"])
    for batch, _, frame in _labelled(campaign, system):
        info, paid = frame.info, _paid(frame, campaign)
        known = "core_seconds" in info and not paid and info["core_seconds"] > 0
        add(batch, "label", FOUND if known else info["status"], paid)
    for path in paths.check_files(campaign, system):
        for slope in files.read_json(path)["slopes"]:
            outcome = {True: "sound", False: "wrong", None: "without label"}[slope["passed"]]
            add(path.parents[1].name, CHECK_STAGE, outcome, slope["core_seconds"])
    for path in paths.void_records(campaign, system):
        for entry in journal.entries(path):
            batch = path.parent.name.rpartition("-")[0]
            add(batch, "label", REPEATED, entry["info"]["core_seconds"])
    return sorted(
        (
            Cost(
                system=system,
                batch=batch,
                generation=_generation(batch),
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
    """Core-hours of these stages, of all if none is named."""
    return sum(e.core_seconds for e in entries if not stages or e.stage in stages) / 3600


def write(campaign: Campaign, system: str) -> list[Path]:
    """Write both tables beside the system's results, atomically; units are in the columns."""
    tables: dict[str, tuple[type, Sequence[Any]]] = {
        "quarantine": (BadFrame, quarantine(campaign, system)),
        "cost": (Cost, costs(campaign, system)),
    }
    written = []
    for name, (kind, rows) in tables.items():
        path = campaign.folder / system / f"{name}.parquet"
        with files.replacing(path) as temporary:
            pq.write_table(_table(kind, rows), temporary, compression="zstd")
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
    """Core-seconds that the campaign paid; label files of earlier versions do not tell."""
    info = frame.info
    if "paid" in info:
        return float(info["paid"])
    mine = info.get("campaign") == campaign.settings.campaign
    return float(info.get("core_seconds", 0.0)) if mine else 0.0


def _generation(batch: str) -> int:
    return int(batch.removeprefix("gen")) if batch.startswith("gen") else -1


def _table(kind: type, rows: Sequence[Any]) -> pa.Table:
    types: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    schema = pa.schema(
        [
            pa.field(one.name, types[one.type], metadata={"unit": UNITS.get(one.name, "")})
            for one in fields(kind)
        ],
        metadata={"halcyon.ledger": str(SCHEMA_VERSION)},
    )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
