"""What the cells of `cli_validity` say: numbers with intervals.

A cell is a dictionary, as `cells` reads it; nothing is computed here but statistics.

    summary = summarised(cells, models)
    summary["auroc"]["label"]  # {"value": 0.87, "low": 0.79, "high": 0.93, …}

For correlations, models, and replicas within cells, are the independent units: both are resampled.
With four models an interval over models is wide, and is given so.

Not for: simulations (see `runs`), the estimators (see `halcyon.verdict.survival`), or tables
(`figures`).
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from halcyon.errors import InputError
from halcyon.verdict import survival
from halcyon.verdict.estimates import CONFIDENCE
from validity import detection
from validity.cells import GROUPS, SEED
from validity.foretelling import (
    FALSE_ALARM_RATE,
    HORIZON_PS,
    HORIZONS_PS,
    MAIN_SCORE,
    RATE_WINDOW_PS,
    STRATA,
    collected,
    foretelling,
)
from validity.replicas import (
    LATE,
    CellDict,
    Place,
    by_place,
    nve_drifts,
    replica_table,
    signals_of,
)

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
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values[1:], [tail, 1 - tail])
    return {
        "outcome": "estimated",
        "value": float(values[0]),
        "low": float(low),
        "high": float(high),
        "confidence": CONFIDENCE,
    }


def grid_rho(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """ρ over all cells; and at fixed temperature, which rules out that it alone makes the ρ."""
    return rho(x, y, "cells") | {"at_fixed_temperature": rho(x, y, "models")}


def correlations(
    runs: pd.DataFrame,
    drifts: dict[Place, np.ndarray],
    models: Sequence[CellDict],
    *,
    resamples: int,
) -> dict[str, Any]:
    """All ρ, by signal. Points are cells; each is the mean λ over its replicas."""
    failed = by_place(runs, "failed")
    drifts = {place: np.abs(drifts[place]) for place in failed if len(drifts.get(place, ()))}
    random, drift_random = np.random.default_rng(SEED), np.random.default_rng(SEED)
    whole = Grid(failed, random, resamples=resamples)
    drifting = Grid(drifts, drift_random, resamples=resamples)
    error = {entry["model"]: entry["force_mae_meV_per_A"] for entry in models}
    coldest = f"{whole.temperatures_K[0]:g}"
    temperature = whole.fixed(lambda _, kelvin: kelvin)
    error_there = whole.fixed(lambda model, kelvin: error[model][f"{kelvin:g}"])
    error_coldest = whole.fixed(lambda model, _: error[model][coldest])
    keys = ("rho_temperature", "rho_quality", "rho_error", "rho_failure", "rho_drift")
    found: dict[str, Any] = {key: {} for key in keys}
    for signal in signals_of(runs):
        rates = by_place(runs, f"rate {signal}")
        y = whole.means(rates)
        found["rho_temperature"][signal] = rho(temperature, y, "temperatures")
        found["rho_quality"][signal] = rho(error_coldest, y, "models")
        found["rho_error"][signal] = grid_rho(error_there, y)
        found["rho_failure"][signal] = grid_rho(whole.means(failed), y)
        for name in GROUPS:
            mine = runs[(runs["group"] == name) & runs["model"].isin(whole.models)]
            part = Grid(by_place(mine, "failed"), random, resamples=resamples)
            among = rho(part.means(failed), part.means(rates), "cells")
            found["rho_failure"][signal][name] = among
        if drifting.models:
            found["rho_drift"][signal] = grid_rho(drifting.means(drifts), drifting.means(rates))
    return found


# Who survives, and at what Λ?


def fraction(flags: Sequence[bool] | np.ndarray) -> dict[str, Any]:
    """Which part is true, with its exact 95 % (Clopper-Pearson) interval."""
    true, of = int(np.sum(flags)), len(flags)
    if not of:
        return {"value": None, "low": None, "high": None, "successes": 0, "of": 0}
    interval = stats.binomtest(true, of).proportion_ci(CONFIDENCE)
    ends = {"low": float(interval.low), "high": float(interval.high)}
    return {"value": true / of} | ends | {"successes": true, "of": of}


def extension_test(
    cells: Sequence[CellDict], replicas: pd.DataFrame, *, resamples: int
) -> dict[str, Any]:
    """Of the replicas alive after the first part of a long run: who survives the rest?

    Returns:
        By signal: fraction (with its exact interval) of those whose Λ had stopped growing that
        survive to the end; `not_saturated`: of the others; `auroc` of λ in the late part of the
        first for a failure in the rest, which needs no threshold; `times_as_long`.
    """
    runs = [cell for cell in cells if cell["kind"] == "extension"]
    through = replicas[(replicas["kind"] == "extension") & replicas["judged"]]
    survived = ~through["failed"].to_numpy(dtype=bool)
    options: dict[str, Any] = {
        "false_alarm_rate": FALSE_ALARM_RATE,
        "seed": SEED,
        "resamples": resamples,
    }
    found: dict[str, Any] = {}
    for signal in signals_of(replicas) if runs else []:
        late = through[f"late {signal}"].to_numpy()
        seen = detection.detection(late, ~survived, np.arange(len(late)), **options)
        found[signal] = fraction(survived[late == 0]) | {
            "not_saturated": fraction(survived[late > 0]),
            "auroc": asdict(seen.auroc),
            "times_as_long": runs[0]["time_ps"] / runs[0]["judged_ps"],
            "cells": [f"{cell['model']} {cell['temperature_K']:g} K" for cell in runs],
        }
    return found


def critical(runs: pd.DataFrame) -> dict[str, Any]:
    """Critical CLI of each signal, by group of models."""
    found: dict[str, Any] = {}
    for signal in signals_of(runs):
        for group in ("all", *(name for name in GROUPS if name in set(runs["group"]))):
            mine = runs[runs["group"].isin(GROUPS if group == "all" else [group])]
            columns = (mine[name].tolist() for name in ("end_ps", f"cli {signal}", "failed"))
            ends = [
                survival.Ending(time_ps=time_ps, cli_ps=cli, failed=failed)
                for time_ps, cli, failed in zip(*columns, strict=True)
            ]
            found.setdefault(signal, {})[group] = survival.critical_cli(ends).model_dump()
    return found


def cell_rows(runs: pd.DataFrame, drifts: dict[Place, np.ndarray]) -> list[dict[str, Any]]:
    """Per model and temperature: failures, mean time without one, mean λ, drift."""
    rows = []
    for (model, group, kelvin), mine in runs.groupby(["model", "group", "temperature_K"]):
        ends, failed = mine["end_ps"].to_numpy(), mine["failed"].to_numpy(dtype=bool)
        lived = survival.restricted_mean_ps(ends, failed, horizon_ps=float(ends.max()), seed=SEED)
        drift = np.abs(drifts.get((model, kelvin), np.empty(0)))
        rows.append(
            {
                "model": model,
                "group": group,
                "temperature_K": kelvin,
                "failed": fraction(failed),
                "mean_time_ps": asdict(lived),
                "rate": {
                    signal: float(mine[f"rate {signal}"].mean()) for signal in signals_of(runs)
                },
                "drift_meV_per_atom_ps": float(drift.mean()) if len(drift) else None,
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
    replicas, drifts = replica_table(cells), nve_drifts(cells)
    alone = replicas[replicas["kind"] == "dynamics"]
    points, scores = collected(runs)
    groups = {"all": foretelling(points, scores, resamples=resamples)}
    for name in GROUPS:
        if (mine := points["group"] == name).any():
            groups[name] = foretelling(points[mine], scores[mine], resamples=resamples)
    for name, (by, baseline) in STRATA.items():
        groups[name] = foretelling(points, scores, resamples=resamples, by=by, baseline=baseline)
    rates = scores.loc[:, (slice(None), MAIN_SCORE)]
    horizons: dict[str, Any] = {"by": "cell", "baseline": "clock", "resamples": resamples}
    main = {signal: kinds[MAIN_SCORE] for signal, kinds in groups["all"].items()}
    return {
        "auroc": {signal: entry["auroc"] for signal, entry in main.items()},
        "lead_time_fs": {
            signal: entry["lead_time_fs"] | {"warned": entry["warned"]}
            for signal, entry in main.items()
        },
        **correlations(alone, drifts, models, resamples=resamples),
        "saturated_survival": extension_test(cells, replicas, resamples=resamples),
        "critical_cli_ps": critical(alone),
        "foretelling": groups,
        "horizons_ps": {
            f"{horizon:g}": foretelling(points, rates, horizon_ps=horizon, **horizons)
            for horizon in HORIZONS_PS
        },
        "cells": cell_rows(alone, drifts),
        "models": list(models),
        "settings": {
            "score": MAIN_SCORE,
            "horizon_ps": HORIZON_PS,
            "rate_window_ps": RATE_WINDOW_PS,
            "false_alarm_rate": FALSE_ALARM_RATE,
            "late_part": LATE,
            "resamples": resamples,
            "confidence": CONFIDENCE,
            "simulated_ps": float(alone["end_ps"].sum()),
            "failed_replicas": int(alone["failed"].sum()),
            "replicas": len(alone),
        },
    }
