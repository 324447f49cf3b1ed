"""What stages and labels have cost, from the campaign's own books.

Not for: what they will cost.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What one stage has cost so far, repetitions included."""

    stage: str
    runs: int
    seconds: float
    core_seconds: float


@dataclass(frozen=True, kw_only=True)
class LabelCost:
    """What the label calculations of a batch have cost; those that the store knew cost nothing now.

    Attributes:
        batch: `seed` or a generation's folder.
        labels: calculations with a label.
        without: calculations without one.
        core_seconds: of all of them, whoever paid.
    """

    batch: str
    labels: int
    without: int
    core_seconds: float


def stage_times(ledger: Sequence[Mapping[str, Any]]) -> list[StageTime]:
    """Times by stage, in the order in which they first finished.

    Args:
        ledger: entries of `stages.jsonl`.
    """
    by_stage: dict[str, list[Mapping[str, Any]]] = {}
    for entry in ledger:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [
        StageTime(
            stage=stage,
            runs=len(entries),
            seconds=sum(entry["seconds"] for entry in entries),
            core_seconds=sum(entry["seconds"] * entry["cores"] for entry in entries),
        )
        for stage, entries in by_stage.items()
    ]


def label_costs(batches: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[LabelCost]:
    """Costs of labels by batch.

    Args:
        batches: what the label files say about each frame, by batch.
    """
    return [
        LabelCost(
            batch=batch,
            labels=sum(info["status"] == "ok" for info in infos),
            without=sum(info["status"] != "ok" for info in infos),
            core_seconds=sum(info.get("core_seconds") or 0.0 for info in infos),
        )
        for batch, infos in batches.items()
    ]
