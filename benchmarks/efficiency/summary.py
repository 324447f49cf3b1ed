"""What the cells of `label_efficiency` say together: labels until the exam is passed.

    summary = summarised(cells)
    summary["arms"]["ethanol"]["pretrained-index"]["median_labels"]

An arm that never passed has needed more labels than it had: such cells are censored, and medians
are those of Kaplan and Meier (J. Am. Stat. Assoc. 53, 457, 1958; scipy.stats.ecdf).

Not for: computing cells (see `trial`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

RESAMPLED = 2000
SEED = 20261129
GOALS = ("passed", "stable", "right")
"""The exam; its first part, no failure within the short run; and the error alone."""


def needed(cell: dict[str, Any], goal: str, goal_meV_per_A: float) -> tuple[int, bool]:
    """Labels until a goal was reached, and whether it was; else the most that it had.

    Stable, or right, counts from the first model on after which all are.
    """
    models = cell["models"]

    def reached(model: dict[str, Any]) -> bool:
        if goal == "passed":
            return bool(model["passed"])
        if goal == "stable":
            return model["short"]["failed"] == 0
        return bool(model["forces_mae_meV_per_A"]["all"] <= goal_meV_per_A)

    first = None
    for number in range(len(models) - 1, -1, -1):
        if not reached(models[number]):
            break
        first = number
    if first is None:
        return models[-1]["labels"], False
    return models[first]["labels"], True


def median_labels(ends: Sequence[tuple[int, bool]]) -> float | None:
    """Kaplan and Meier's median; None: less than half of the cells got there."""
    sample = stats.CensoredData.right_censored(
        [labels for labels, _ in ends], [not reached for _, reached in ends]
    )
    survival = stats.ecdf(sample).sf
    below = np.flatnonzero(survival.probabilities <= 0.5)
    return float(survival.quantiles[below[0]]) if len(below) else None


def summarised(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By system and arm labels until each goal; ratios of medians to the committee's; scans."""
    arms: dict[str, dict[str, Any]] = {}
    for cell in known:
        arms.setdefault(cell["system"], {}).setdefault(cell["arm"], []).append(cell)
    return {
        "arms": {
            system: {arm: _arm(of_arm) for arm, of_arm in by_arm.items()}
            for system, by_arm in arms.items()
        },
        "ratios_to_committee": {
            system: {
                arm: _ratio(of_arm, by_arm["scratch-committee"])
                for arm, of_arm in by_arm.items()
                if arm != "scratch-committee"
            }
            for system, by_arm in arms.items()
            if "scratch-committee" in by_arm
        },
        "preflight": preflight(known),
    }


def _arm(of_arm: Sequence[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": len(of_arm)}
    for goal in GOALS:
        ends = [needed(cell, goal, cell["effort"]["goal_meV_per_A"]) for cell in of_arm]
        row[goal] = {"median_labels": median_labels(ends), "labels": ends}
    row["processor_h"] = (
        float(np.mean([cell["models"][-1]["processor_s"] for cell in of_arm])) / 3600
    )
    ends_of = [cell["models"][-1].get("long") for cell in of_arm]
    row["tau_acc_ps"] = [end["tau_acc_ps"] for end in ends_of if end]
    row["rho"] = [end["rho"] for end in ends_of if end]
    return row


def _ratio(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]
) -> dict[str, float | None]:
    """Ratio of median labels until the exam is passed, with 95 % by resampling of cells.

    An end of the interval that is None is not bounded: too many of one side never passed.
    """
    sides = [
        [needed(cell, "passed", cell["effort"]["goal_meV_per_A"]) for cell in side]
        for side in (ours, theirs)
    ]
    random = np.random.default_rng(SEED)
    drawn = []
    for _ in range(RESAMPLED):
        medians = [
            median_labels([side[i] for i in random.integers(len(side), size=len(side))])
            for side in sides
        ]
        drawn.append(_divided(*medians))
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")
    value = _divided(*(median_labels(side) for side in sides))
    return {"value": _finite(value), "low": _finite(low), "high": _finite(high)}


def _divided(ours: float | None, theirs: float | None) -> float:
    """A ratio; unbounded where ours never passed, 0 where only theirs did not."""
    if ours is None:
        return float("inf")
    return 0.0 if theirs is None else ours / theirs


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def preflight(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Does a static scan foretell that a model's replicas fail? AUROC over all models of all cells.

    Returns:
        By measure `auroc`, `low` and `high` (95 %, cells resampled), where both kinds of models
        are there; and how many models there are, and how many of them failed.
    """
    rows = [
        (number, model["short"]["failed"] > 0, _measures(model))
        for number, cell in enumerate(known)
        for model in cell["models"]
    ]
    failed = np.array([row[1] for row in rows])
    found: dict[str, Any] = {"models": len(rows), "failed": int(failed.sum())}
    if not rows or failed.all() or not failed.any():
        return found
    cells = np.array([row[0] for row in rows])
    random = np.random.default_rng(SEED)
    for name in rows[0][2]:
        values = np.array([row[2][name] for row in rows])
        drawn = []
        for _ in range(RESAMPLED // 4):
            chosen = random.integers(len(known), size=len(known))
            picked = np.concatenate([np.flatnonzero(cells == number) for number in chosen])
            area = auroc(values[picked], failed[picked])
            if area is not None:
                drawn.append(area)
        low, high = np.quantile(drawn, [0.025, 0.975])
        found[name] = {"auroc": auroc(values, failed), "low": float(low), "high": float(high)}
    return found


def _measures(model: dict[str, Any]) -> dict[str, float]:
    """What might foretell a failure; more means worse. The error is what has to be beaten."""
    measures = {
        "error on the reference's frames": model["forces_mae_meV_per_A"]["all"],
        "number of labels": -model["labels"],
    }
    for kind, of_kind in model["scans"].items():
        barrier = of_kind["barrier_eV"]
        measures |= {
            f"{kind}: difference": of_kind["rms_eV"],
            f"{kind}: deficit": of_kind["deficit_eV"],
            f"{kind}: holes": of_kind["holes"],
            f"{kind}: barrier": -(np.inf if barrier is None else barrier),
        }
    return measures


def auroc(values: np.ndarray, bad: np.ndarray) -> float | None:
    """Probability that a bad one has the greater value; None without both kinds."""
    if bad.all() or not bad.any():
        return None
    ranks = stats.rankdata(np.clip(values, -1e9, 1e9))
    positive = int(bad.sum())
    area = ranks[bad].sum() - positive * (positive + 1) / 2
    return float(area / (positive * (len(bad) - positive)))


def tables(summary: dict[str, Any]) -> list[Table]:
    """For people."""
    first = Table(title="labels until …, median (cells that got there)")
    for heading in ("system", "arm", "exam passed", "stable", "right", "CPU h", "ratio (95 %)"):
        first.add_column(heading)
    for system, by_arm in summary["arms"].items():
        ratios = summary["ratios_to_committee"].get(system, {})
        for arm, row in by_arm.items():
            goals = [_shown(row[goal]) for goal in GOALS]
            first.add_row(
                system, arm, *goals, f"{row['processor_h']:.2f}", _interval(ratios.get(arm))
            )
    scans = summary["preflight"]
    second = Table(
        title=f"does a static scan foretell failures? {scans['failed']} of {scans['models']} "
        "models had some"
    )
    for heading in ("measure", "AUROC", "95 %"):
        second.add_column(heading)
    for name, row in scans.items():
        if isinstance(row, dict):
            second.add_row(name, f"{row['auroc']:.2f}", f"{row['low']:.2f}–{row['high']:.2f}")
    return [first, second]


def _shown(row: dict[str, Any]) -> str:
    reached = sum(there for _, there in row["labels"])
    median = row["median_labels"]
    return f"{'–' if median is None else f'{median:.0f}'} ({reached} of {len(row['labels'])})"


def _interval(ratio: dict[str, float | None] | None) -> str:
    if ratio is None:
        return ""
    value, low, high = (
        "∞" if ratio[k] is None else f"{ratio[k]:.2f}" for k in ("value", "low", "high")
    )
    return f"{value} ({low}–{high})"
