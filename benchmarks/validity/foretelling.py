"""Do scores foretell failures? Points of the replicas' traces, AUROC and lead time.

    points, scores = collected(runs)
    foretelling(points, scores, resamples=1000)["label"]["rate"]["auroc"]

Replicas are the independent units: they are resampled, not points.

Not for: the estimators (see `detection`).
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from halcyon.verdict.estimates import Estimate
from validity import detection
from validity.cells import SEED
from validity.replicas import CellDict, cli_ps

HORIZON_PS = 0.5
"""What "shortly before a failure" is, ps."""
HORIZONS_PS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Others, to see how early a warning can come."""
RATE_WINDOW_PS = 0.25
"""λ as a score is the mean over this last time, ps."""
FALSE_ALARM_RATE = 0.05
"""The same for all signals."""
MAIN_SCORE = "rate"
"""λ: Λ grows with time, and replicas that fail are watched for less of it. Chosen beforehand."""
TRIVIAL = ("clock", "thermometer", "recipe")
"""Time since the start, thermostat's temperature, and whether the model was made from scratch."""
SUM = ("label", "guard")
"""Signals whose λ are also added. Chosen after a look at the first cells: a hint, no test."""
STRATA = {"one temperature": ("temperature_K", "recipe"), "within cells": ("cell", "clock")}
"""Points are compared with those of equal temperature, or cell, only; the best trivial score."""


def collected(cells: Sequence[CellDict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trace points of all replicas before their failure, a row each.

    Returns:
        What is known of each (time and end in ps, failed, numbers of replica and cell, …), and its
        scores: a column per signal and kind of score.
    """
    points: list[dict[str, Any]] = []
    scores: list[dict[tuple[str, str], float]] = []
    for number, cell in enumerate(cells):
        interval = cell["trace_fs"] / 1000
        recent = max(1, round(RATE_WINDOW_PS / interval))
        for row in cell["replicas"]:
            failed = row["failure"] is not None
            time_ps = interval * np.arange(1, int(row["end_ps"] / interval + 1e-6) + 1)
            time_ps = time_ps[time_ps < row["end_ps"] - 1e-9] if failed else time_ps
            n = len(time_ps)
            mine: dict[tuple[str, str], Any] = {}
            for signal in row["outside"]:
                cli = cli_ps(cell, row, signal)[:n]
                gained = cli - np.concatenate([np.zeros(recent), cli])[:n]
                worst = np.cumsum(row["worst_atom"][signal])[:n] * cell["timestep_fs"] / 1000
                elapsed = interval * np.minimum(np.arange(n) + 1, recent)
                mine[signal, "rate"] = gained / elapsed
                mine[signal, "cli"] = cli
                mine[signal, "cli_max"] = worst.astype(float)
            if set(SUM) <= set(row["outside"]):
                mine[" + ".join(SUM), MAIN_SCORE] = sum(mine[name, MAIN_SCORE] for name in SUM)
            trivial = time_ps, cell["temperature_K"], cell["group"] == "scratch"
            for name, values in zip(TRIVIAL, trivial, strict=True):
                mine[name, MAIN_SCORE] = np.broadcast_to(values, n).astype(float)
            scores.append(pd.DataFrame(mine))
            known = {name: cell[name] for name in ("group", "temperature_K")}
            known |= {"end_ps": row["end_ps"], "failed": failed}
            known |= {"replica": len(points), "cell": number}
            points.append(pd.DataFrame({"time_ps": time_ps, **known}))
    return pd.concat(points, ignore_index=True), pd.concat(scores, ignore_index=True)


def foretelling(
    points: pd.DataFrame,
    scores: pd.DataFrame,
    *,
    resamples: int,
    by: str | None = None,
    baseline: str = "thermometer",
    horizon_ps: float = HORIZON_PS,
) -> dict[str, Any]:
    """How well each signal's scores foretell failures.

    Args:
        points: as `collected` returns them, like the next.
        scores: see there.
        resamples: bootstrap samples, of whole replicas.
        by: compare only points for which this column is equal; there is then no common threshold,
            and no lead time.
        baseline: trivial signal whose AUROC is taken off for `gain`.
        horizon_ps: what shortly before a failure is, ps.

    Returns:
        By signal and score: auroc, gain; and hit_rate, lead_time_fs and warned, the fraction of
        failed replicas with any warning.
    """
    columns = ("time_ps", "end_ps", "failed", "replica")
    time_ps, end_ps, failed, replica = (points[name].to_numpy() for name in columns)
    truth, usable = detection.fails_within(time_ps, end_ps, failed, horizon_ps=horizon_ps)
    if by:
        strata = points[by].to_numpy()
        mixed = points[usable].assign(truth=truth[usable]).groupby(by)["truth"].nunique() == 2
        usable &= np.isin(strata, mixed.index[mixed])

    def comparable(values: np.ndarray) -> np.ndarray:
        mine = values[usable]
        return placement(mine, truth[usable], strata[usable]) if by else mine

    options: dict[str, Any] = {
        "false_alarm_rate": FALSE_ALARM_RATE,
        "seed": SEED,
        "resamples": resamples,
    }
    against = comparable(scores[baseline, MAIN_SCORE].to_numpy())
    found: dict[str, Any] = {}
    for (signal, score), column in scores.items():
        values = column.to_numpy()
        seen = detection.detection(
            comparable(values), truth[usable], replica[usable], against=against, **options
        )
        entry: dict[str, Any] = {
            "auroc": asdict(seen.auroc),
            "gain": asdict(seen.gain) | {"over": baseline},
        }
        if not by:
            lead = detection.lead_time(values, time_ps, replica, end_ps, failed, **options)
            entry |= {
                "hit_rate": asdict(seen.hit_rate),
                "lead_time_fs": in_fs(lead.median_ps),
                "warned": asdict(lead.warned),
                "threshold": lead.threshold,
            }
        found.setdefault(signal, {})[score] = entry
    return found


def placement(score: np.ndarray, truth: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Scores as the fraction of the calm points of their own stratum that score less.

    With them, the ROC curve is that adjusted for the stratum (H. Janes, M. S. Pepe, Biometrika 96,
    371, 2009): what it alone foretells does not count. Every stratum has both kinds of points.
    """
    placed = np.zeros(len(score))
    for stratum in np.unique(strata):
        mine = strata == stratum
        calm = np.sort(score[mine & ~truth])
        below = np.searchsorted(calm, score[mine], side="left")
        up_to = np.searchsorted(calm, score[mine], side="right")
        placed[mine] = (below + up_to) / 2 / len(calm)
    return placed


def in_fs(estimate: Estimate) -> dict[str, Any]:
    """An estimate in ps as one in fs."""
    ends = ("value", "low", "high")
    content = asdict(estimate)
    return content | {n: 1000 * content[n] for n in ends if content[n] is not None}
