"""What the cells of `cli_validity` say: numbers with intervals.

A cell is a dictionary, as `cells` reads it; nothing is computed here but statistics.

    summary = summarised(cells, models)
    summary["auroc"]["label"]  # {"value": 0.87, "low": 0.79, "high": 0.93, …}

Replicas are the independent units of AUROC and lead time; of correlations, models, and replicas
within cells: both are resampled. With four models an interval over models is wide, and is given so.

Not for: simulations (see `runs`), the estimators (see `halcyon.survival`), or tables (`figures`).
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from halcyon import survival
from halcyon.errors import InputError
from validity.cells import GROUPS, SEED, Model, Plan

CellDict = dict[str, Any]
Place = tuple[str, float]
"""Model and temperature."""

HORIZON_PS = 0.5
"""What "shortly before a failure" is, ps."""
HORIZONS_PS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Others, to see how early a warning can come."""
RATE_WINDOW_PS = 0.25
"""λ as a score is the mean over this last time, ps."""
FALSE_ALARM_RATE = 0.05
"""The same for all signals."""
LATE = 0.5
"""Λ has stopped growing if no prediction was outside in this last part of the run."""
MAIN_SCORE = "rate"
"""λ: Λ grows with time, and replicas that fail are watched for less of it. Chosen beforehand."""
TRIVIAL = ("clock", "thermometer", "recipe")
"""Time since the start, thermostat's temperature, and whether the model was made from scratch."""
SUM = ("label", "guard")
"""Signals whose λ are also added. Chosen after a look at the first cells: a hint, no test."""
STRATA = {"one temperature": ("temperature_K", "recipe"), "within cells": ("cell", "clock")}
"""Points are compared with those of equal temperature, or cell, only; the best trivial score."""


def cli_ps(cell: CellDict, row: CellDict, signal: str) -> np.ndarray:
    """Λ at the end of each interval of a replica's trace, ps."""
    steps = np.cumsum(np.asarray(row["outside"][signal], dtype=float))
    return steps * cell["timestep_fs"] / 1000 / cell["atoms"]


def mean_rate(cell: CellDict, row: CellDict, signal: str) -> float:
    """λ of a replica: mean over all whole intervals before its end."""
    whole = int(row["end_ps"] * 1000 / cell["trace_fs"] + 1e-6)
    cli = cli_ps(cell, row, signal)
    if not whole:  # it failed at once
        return float(cli[-1] / row["end_ps"])
    return float(cli[whole - 1] / (whole * cell["trace_fs"] / 1000))


def late_outside(cell: CellDict, row: CellDict, signal: str) -> int:
    """Steps outside, summed over atoms, in the late part of the time judged."""
    end = round(1000 * cell["judged_ps"] / cell["trace_fs"])
    return sum(row["outside"][signal][round(end * (1 - LATE)) : end])


def extension_temperature(plan: Plan, model: Model, cells: Iterable[CellDict]) -> float | None:
    """Temperature at which a model's replicas are run on; None before all its cells are there.

    Where the replicas that are through differ most in whether Λ stopped growing, of the label and
    the guard domain together; of equal ones the highest that at least half of them survive.
    """
    mine = [c for c in cells if c["kind"] == "dynamics" and c["model"] == model.name]
    if len(mine) < len(plan.temperatures_K):
        return None

    def rank(cell: CellDict) -> tuple[int, bool, float]:
        through = [row for row in cell["replicas"] if row["failure"] is None]
        mixed = 0
        for name in ("label", "guard"):
            calm = sum(late_outside(cell, row, name) == 0 for row in through)
            mixed += min(calm, len(through) - calm)
        return mixed, 2 * len(through) >= len(cell["replicas"]), cell["temperature_K"]

    return float(max(mine, key=rank)["temperature_K"])


# Does it foretell failures?


def collected(cells: Sequence[CellDict]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trace points of all replicas before their failure, a row each.

    Returns:
        What is known of each (time and end in ps, failed, numbers of replica and cell, …), and its
        scores: a column per signal and kind of score.
    """
    points, scores = [], []
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
    truth, usable = survival.fails_within(time_ps, end_ps, failed, horizon_ps=horizon_ps)
    if by:
        strata = points[by].to_numpy()
        mixed = points[usable].assign(truth=truth[usable]).groupby(by)["truth"].nunique() == 2
        usable &= np.isin(strata, mixed.index[mixed])

    def comparable(values: np.ndarray) -> np.ndarray:
        mine = values[usable]
        return placement(mine, truth[usable], strata[usable]) if by else mine

    options = {"false_alarm_rate": FALSE_ALARM_RATE, "seed": SEED, "resamples": resamples}
    against = comparable(scores[baseline, MAIN_SCORE].to_numpy())
    found: dict[str, Any] = {}
    for (signal, score), column in scores.items():
        values = column.to_numpy()
        seen = survival.detection(
            comparable(values), truth[usable], replica[usable], against=against, **options
        )
        entry = {"auroc": asdict(seen.auroc), "gain": asdict(seen.gain) | {"over": baseline}}
        if not by:
            lead = survival.lead_time(values, time_ps, replica, end_ps, failed, **options)
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


def in_fs(estimate: survival.Estimate) -> dict[str, Any]:
    """An estimate in ps as one in fs."""
    ends = ("value", "low", "high")
    content = asdict(estimate)
    return content | {n: 1000 * content[n] for n in ends if content[n] is not None}


# What does it follow?


class Grid:
    """Models × temperatures, and how they are resampled.

    A bootstrap sample draws models with replacement, and replicas with replacement within each
    cell. Row 0 of every array is the data themselves; B - 1 samples follow.
    """

    def __init__(
        self, places: Iterable[Place], random: np.random.Generator, *, resamples: int
    ) -> None:
        """Take the models that have a cell at every temperature that occurs, M × T of them."""
        known = set(places)
        self.temperatures_K = sorted({kelvin for _, kelvin in known})
        self.models = [
            model
            for model in sorted({model for model, _ in known})
            if all((model, kelvin) in known for kelvin in self.temperatures_K)
        ]
        number = len(self.models)
        self.random = random
        drawn = random.integers(max(number, 1), size=(resamples, number))
        self.picks = np.vstack([np.arange(number), drawn]).astype(int)

    def means(self, values: dict[Place, np.ndarray]) -> np.ndarray:
        """Means over the replicas of each cell → shape (B, M, T)."""
        table = np.empty((len(self.picks), len(self.models), len(self.temperatures_K)))
        for i, model in enumerate(self.models):
            for j, kelvin in enumerate(self.temperatures_K):
                mine = np.asarray(values[model, kelvin], dtype=float)
                n = len(mine)
                weights = self.random.multinomial(n, np.full(n, 1 / n), size=len(self.picks) - 1)
                table[:, i, j] = np.vstack([np.ones(n), weights]) @ mine / n
        return np.take_along_axis(table, self.picks[:, :, None], axis=1)

    def fixed(self, value: Callable[[str, float], float]) -> np.ndarray:
        """Numbers that do not come from replicas → shape (B, M, T)."""
        table = [[value(model, kelvin) for kelvin in self.temperatures_K] for model in self.models]
        return np.array(table).reshape(len(self.models), -1)[self.picks]


def rho(x: np.ndarray, y: np.ndarray, over: str) -> dict[str, Any]:
    """Spearman's ρ over a grid, with its bootstrap interval.

    Args:
        x: shape (B, M, T); row 0 is the estimate, the others make the interval.
        y: the signal, likewise. Where it never varies, ρ is taken for 0: it says nothing.
        over: `cells`: all points at once. `models`: over models at one temperature, mean over
            temperatures. `temperatures`: likewise for each model.

    Returns:
        outcome, value, low, high, confidence. `undefined` with fewer than three points, or where
        x does not vary.
    """
    if over == "cells":
        x, y = (values.reshape(len(values), 1, -1) for values in (x, y))
    elif over == "models":
        x, y = (values.swapaxes(1, 2) for values in (x, y))
    undefined = {"outcome": "undefined", "value": None, "low": None, "high": None}
    if x.shape[2] < 3 or not x.size:
        return undefined
    ranks = [stats.rankdata(values, axis=2) for values in (x, y)]
    silent_x, silent_y = (np.ptp(values, axis=2) == 0 for values in ranks)
    with warnings.catch_warnings(action="ignore"):  # samples in which x does not vary say nothing
        each = np.where(silent_y, 0.0, stats.pearsonr(*ranks, axis=2).statistic)
        values = np.nanmean(np.where(silent_x, np.nan, each), axis=1)
    if np.isnan(values[0]) or np.isnan(values[1:]).all():
        return undefined
    tail = (1 - survival.CONFIDENCE) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return {
        "outcome": "estimated",
        "value": float(values[0]),
        "low": float(low),
        "high": float(high),
        "confidence": survival.CONFIDENCE,
    }


def grid_rho(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """ρ over all cells; and at fixed temperature, which rules out that it alone makes the ρ."""
    return rho(x, y, "cells") | {"at_fixed_temperature": rho(x, y, "models")}


def correlations(
    cells: Sequence[CellDict], models: Sequence[CellDict], *, resamples: int
) -> dict[str, Any]:
    """All ρ, by signal. Points are cells; each is the mean λ over its replicas."""
    runs = {place(cell): cell for cell in cells if cell["kind"] == "dynamics"}
    drifts = {place(c): np.abs(d) for c in cells if c["kind"] == "nve" and len(d := drifts_of(c))}
    drifts = {where: drifts[where] for where in runs if where in drifts}
    random, drift_random = np.random.default_rng(SEED), np.random.default_rng(SEED)
    whole = Grid(runs, random, resamples=resamples)
    drifting = Grid(drifts, drift_random, resamples=resamples)
    groups = {name: [p for p, c in runs.items() if c["group"] == name] for name in GROUPS}
    error = {entry["model"]: entry["force_mae_meV_per_A"] for entry in models}
    coldest = f"{whole.temperatures_K[0]:g}"
    temperature = whole.fixed(lambda _, kelvin: kelvin)
    error_there = whole.fixed(lambda model, kelvin: error[model][f"{kelvin:g}"])
    error_coldest = whole.fixed(lambda model, _: error[model][coldest])
    failed = {
        p: np.array([r["failure"] is not None for r in c["replicas"]]) for p, c in runs.items()
    }
    keys = ("rho_temperature", "rho_quality", "rho_error", "rho_failure", "rho_drift")
    found: dict[str, Any] = {key: {} for key in keys}
    for signal in signals_of(list(runs.values())):
        rates = {
            where: np.array([mean_rate(cell, row, signal) for row in cell["replicas"]])
            for where, cell in runs.items()
        }
        y = whole.means(rates)
        found["rho_temperature"][signal] = rho(temperature, y, "temperatures")
        found["rho_quality"][signal] = rho(error_coldest, y, "models")
        found["rho_error"][signal] = grid_rho(error_there, y)
        found["rho_failure"][signal] = grid_rho(whole.means(failed), y)
        for name, places in groups.items():
            part = Grid([p for p in places if p[0] in whole.models], random, resamples=resamples)
            among = rho(part.means(failed), part.means(rates), "cells")
            found["rho_failure"][signal][name] = among
        if drifting.models:
            found["rho_drift"][signal] = grid_rho(drifting.means(drifts), drifting.means(rates))
    return found


def place(cell: CellDict) -> Place:
    """Where in the grid a cell is."""
    return cell["model"], float(cell["temperature_K"])


def signals_of(cells: Sequence[CellDict]) -> list[str]:
    """Signals that were watched."""
    return list(cells[0]["replicas"][0]["outside"]) if cells else []


def drifts_of(cell: CellDict) -> np.ndarray:
    """Drifts of the replicas of an `nve` cell that held together, meV/atom/ps."""
    drifts = [row["drift_meV_per_atom_ps"] for row in cell["replicas"]]
    return np.array([value for value in drifts if value is not None], dtype=float)


# Who survives, and at what Λ?


def fraction(flags: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Which part is true, with its exact 95 % (Clopper-Pearson) interval."""
    true, of = int(np.sum(flags)), len(flags)
    if not of:
        return {"value": None, "low": None, "high": None, "successes": 0, "of": 0}
    interval = stats.binomtest(true, of).proportion_ci(survival.CONFIDENCE)
    ends = {"low": float(interval.low), "high": float(interval.high)}
    return {"value": true / of} | ends | {"successes": true, "of": of}


def extension_test(cells: Sequence[CellDict], *, resamples: int) -> dict[str, Any]:
    """Of the replicas alive after the first part of a long run: who survives the rest?

    Returns:
        By signal: fraction (with its exact interval) of those whose Λ had stopped growing that
        survive to the end; `not_saturated`: of the others; `auroc` of λ in the late part of the
        first for a failure in the rest, which needs no threshold; `times_as_long`.
    """
    runs = [cell for cell in cells if cell["kind"] == "extension"]
    found: dict[str, Any] = {}
    for signal in signals_of(runs):
        alive = [
            (late_outside(cell, row, signal) / cell["atoms"], row["failure"] is None)
            for cell in runs
            for row in cell["replicas"]
            if row["end_ps"] >= cell["judged_ps"] - 1e-9
        ]
        late = np.array([outside for outside, _ in alive])
        survived = np.array([through for _, through in alive], dtype=bool)
        options = {"false_alarm_rate": FALSE_ALARM_RATE, "seed": SEED, "resamples": resamples}
        seen = survival.detection(late, ~survived, np.arange(len(late)), **options)
        found[signal] = fraction(survived[late == 0]) | {
            "not_saturated": fraction(survived[late > 0]),
            "auroc": asdict(seen.auroc),
            "times_as_long": runs[0]["time_ps"] / runs[0]["judged_ps"],
            "cells": [f"{cell['model']} {cell['temperature_K']:g} K" for cell in runs],
        }
    return found


def critical(cells: Sequence[CellDict]) -> dict[str, Any]:
    """Critical CLI of each signal, by group of models."""
    found: dict[str, Any] = {}
    for group in ("all", *GROUPS):
        mine = [cell for cell in cells if group in ("all", cell["group"])]
        for signal in signals_of(mine):
            ends = [
                survival.Ending(
                    time_ps=row["end_ps"],
                    cli_ps=float(np.append(0.0, cli_ps(cell, row, signal))[-1]),
                    failed=row["failure"] is not None,
                )
                for cell in mine
                for row in cell["replicas"]
            ]
            found.setdefault(signal, {})[group] = asdict(survival.critical_cli(ends))
    return found


def cell_rows(cells: Sequence[CellDict]) -> list[dict[str, Any]]:
    """Per model and temperature: failures, mean time without one, mean λ, drift."""
    drifts = {place(cell): drifts_of(cell) for cell in cells if cell["kind"] == "nve"}
    rows = []
    for cell in (cell for cell in cells if cell["kind"] == "dynamics"):
        ends = np.array([row["end_ps"] for row in cell["replicas"]])
        failed = np.array([row["failure"] is not None for row in cell["replicas"]])
        mine = drifts.get(place(cell), np.empty(0))
        lived = survival.restricted_mean_ps(ends, failed, horizon_ps=float(ends.max()), seed=SEED)
        rows.append(
            {name: cell[name] for name in ("model", "group", "temperature_K")}
            | {
                "failed": fraction(failed),
                "mean_time_ps": asdict(lived),
                "rate": {
                    signal: float(np.mean([mean_rate(cell, r, signal) for r in cell["replicas"]]))
                    for signal in signals_of([cell])
                },
                "drift_meV_per_atom_ps": float(np.abs(mine).mean()) if len(mine) else None,
            }
        )
    return rows


def summarised(
    cells: Sequence[CellDict], models: Sequence[CellDict], *, resamples: int = 1000
) -> dict[str, Any]:
    """All numbers that the cells give.

    Args:
        cells: of all kinds, as `read_all` returns them.
        models: descriptions of their models.
        resamples: bootstrap samples of each interval.

    Raises:
        InputError: no `dynamics` cell.
    """
    runs = [cell for cell in cells if cell["kind"] == "dynamics"]
    if not runs:
        raise InputError("no cell of dynamics yet: nothing to summarise")
    points, scores = collected(runs)
    groups = {"all": foretelling(points, scores, resamples=resamples)}
    for name in GROUPS:
        if (mine := points["group"] == name).any():
            groups[name] = foretelling(points[mine], scores[mine], resamples=resamples)
    for name, (by, baseline) in STRATA.items():
        groups[name] = foretelling(points, scores, resamples=resamples, by=by, baseline=baseline)
    rates = scores.loc[:, (slice(None), MAIN_SCORE)]
    horizons = {"by": "cell", "baseline": "clock", "resamples": resamples}
    main = {signal: kinds[MAIN_SCORE] for signal, kinds in groups["all"].items()}
    replicas = [row for cell in runs for row in cell["replicas"]]
    return {
        "auroc": {signal: entry["auroc"] for signal, entry in main.items()},
        "lead_time_fs": {
            signal: entry["lead_time_fs"] | {"warned": entry["warned"]}
            for signal, entry in main.items()
        },
        **correlations(cells, models, resamples=resamples),
        "saturated_survival": extension_test(cells, resamples=resamples),
        "critical_cli_ps": critical(runs),
        "foretelling": groups,
        "horizons_ps": {
            f"{horizon:g}": foretelling(points, rates, horizon_ps=horizon, **horizons)
            for horizon in HORIZONS_PS
        },
        "cells": cell_rows(cells),
        "models": list(models),
        "settings": {
            "score": MAIN_SCORE,
            "horizon_ps": HORIZON_PS,
            "rate_window_ps": RATE_WINDOW_PS,
            "false_alarm_rate": FALSE_ALARM_RATE,
            "late_part": LATE,
            "resamples": resamples,
            "confidence": survival.CONFIDENCE,
            "simulated_ps": float(sum(row["end_ps"] for row in replicas)),
            "failed_replicas": sum(row["failure"] is not None for row in replicas),
            "replicas": len(replicas),
        },
    }
