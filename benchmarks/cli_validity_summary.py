"""What the cells of `cli_validity` say: numbers with intervals, tables and figures.

A cell is a dictionary, as `cli_validity` writes it; nothing is computed here but statistics.

    summary = summarised(cells, models)
    summary["auroc"]["label"]  # {"value": 0.87, "low": 0.79, "high": 0.93, …}

Replicas are the independent units of AUROC and lead time; of correlations, models, and replicas
within cells: both are resampled. With four models an interval over models is wide, and is given so.

Not for: simulations (see `cli_validity`), or the estimators (see `halcyon.survival`).
"""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

from halcyon import survival
from halcyon.errors import InputError

SEED = 20261121
GROUPS = ("scratch", "pre-trained")
"""Of models."""
HORIZON_PS = 0.5
"""What "shortly before a failure" is, ps."""
RATE_WINDOW_PS = 0.25
"""λ as a score is the mean over this last time, ps."""
FALSE_ALARM_RATE = 0.05
"""The same for all signals."""
LATE = 0.5
"""Λ has stopped growing if no prediction was outside in this last part of the run."""
MAIN_SCORE = "rate"
"""λ: Λ grows with time, and replicas that fail are watched for less of it. Chosen beforehand."""
SCORES = {"rate": "λ", "cli": "Λ", "cli_max": "max Λ_i"}
TRIVIAL = ("clock", "thermometer")


@dataclass
class Points:
    """Trace points of all replicas before their failure: P points.

    Attributes:
        time_ps: shape (P,), like all.
        end_ps: when the point's replica ended, ps.
        failed: whether it failed.
        replica: number of the replica, over all cells.
        cell: number of the cell.
        group: number of the model's group in `GROUPS`.
        scores: by signal and score.
    """

    time_ps: np.ndarray
    end_ps: np.ndarray
    failed: np.ndarray
    replica: np.ndarray
    cell: np.ndarray
    group: np.ndarray
    scores: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def of(self, mask: np.ndarray) -> "Points":
        """Some of the points."""
        scores = {
            name: {score: values[mask] for score, values in kinds.items()}
            for name, kinds in self.scores.items()
        }
        arrays = {k: v[mask] for k, v in vars(self).items() if k != "scores"}
        return replace(self, **arrays, scores=scores)


def cli_ps(cell: dict[str, Any], row: dict[str, Any], signal: str) -> np.ndarray:
    """Λ at the end of each interval of a replica's trace, ps."""
    steps = np.cumsum(np.asarray(row["outside"][signal], dtype=float))
    return steps * cell["timestep_fs"] / 1000 / cell["atoms"]


def mean_rate(cell: dict[str, Any], row: dict[str, Any], signal: str) -> float:
    """λ of a replica: mean over all whole intervals before its end."""
    whole = int(row["end_ps"] * 1000 / cell["trace_fs"] + 1e-6)
    cli = cli_ps(cell, row, signal)
    if not whole:  # it failed at once
        return float(cli[-1] / row["end_ps"])
    return float(cli[whole - 1] / (whole * cell["trace_fs"] / 1000))


def late_outside(cell: dict[str, Any], row: dict[str, Any], signal: str) -> int:
    """Steps outside, summed over atoms, in the late part of the time judged."""
    end = round(1000 * cell["judged_ps"] / cell["trace_fs"])
    return sum(row["outside"][signal][round(end * (1 - LATE)) : end])


def collected(cells: Sequence[dict[str, Any]]) -> Points:
    """All trace points before failures, with all scores."""
    parts: list[dict[str, Any]] = []
    replica = 0
    for number, cell in enumerate(cells):
        interval = cell["trace_fs"] / 1000
        recent = max(1, round(RATE_WINDOW_PS / interval))
        for row in cell["replicas"]:
            failed = row["failure"] is not None
            whole = int(row["end_ps"] / interval + 1e-6)
            time_ps = interval * np.arange(1, whole + 1)
            time_ps = time_ps[time_ps < row["end_ps"] - 1e-9] if failed else time_ps
            points = len(time_ps)
            scores: dict[str, dict[str, np.ndarray]] = {}
            for signal in row["outside"]:
                cli = cli_ps(cell, row, signal)[:points]
                before = np.concatenate([np.zeros(min(recent, points)), cli])[:points]
                worst = np.cumsum(row["worst_atom"][signal])[:points] * cell["timestep_fs"] / 1000
                scores[signal] = {
                    "rate": (cli - before) / (interval * np.minimum(np.arange(points) + 1, recent)),
                    "cli": cli,
                    "cli_max": worst.astype(float),
                }
            scores["clock"] = {MAIN_SCORE: time_ps}
            scores["thermometer"] = {MAIN_SCORE: np.full(points, float(cell["temperature_K"]))}
            parts.append(
                {
                    "time_ps": time_ps,
                    "end_ps": np.full(points, row["end_ps"]),
                    "failed": np.full(points, failed),
                    "replica": np.full(points, replica),
                    "cell": np.full(points, number),
                    "group": np.full(points, GROUPS.index(cell["group"])),
                    "scores": scores,
                }
            )
            replica += 1
    names = [name for name in parts[0] if name != "scores"]
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in names}
    scores = {
        signal: {
            score: np.concatenate([part["scores"][signal][score] for part in parts])
            for score in kinds
        }
        for signal, kinds in parts[0]["scores"].items()
    }
    return Points(**arrays, scores=scores)


def foretelling(points: Points, *, resamples: int, within: bool) -> dict[str, Any]:
    """How well each signal's scores foretell failures.

    Args:
        points: of one group of cells.
        resamples: bootstrap samples, of whole replicas.
        within: compare points of one cell only; there is then no common threshold, nor a lead time.

    Returns:
        By signal and score: auroc, hit_rate; and lead_time_fs and warned, the fraction of failed
        replicas with any warning.
    """
    truth, known = survival.fails_within(
        points.time_ps, points.end_ps, points.failed, horizon_ps=HORIZON_PS
    )
    settled, truth = points.of(known), truth[known]
    options = {"false_alarm_rate": FALSE_ALARM_RATE, "seed": SEED}
    found: dict[str, Any] = {}
    for signal, kinds in points.scores.items():
        found[signal] = {}
        for score, values in kinds.items():
            mine, labels, owner = settled.scores[signal][score], truth, settled.replica
            if within:
                mine, usable = placement(mine, truth, settled.cell)
                mine, labels, owner = mine[usable], truth[usable], owner[usable]
            seen = survival.detection(mine, labels, owner, **options, resamples=resamples)
            entry = {"auroc": asdict(seen.auroc)}
            if not within:
                lead = survival.lead_time(
                    values,
                    points.time_ps,
                    points.replica,
                    points.end_ps,
                    points.failed,
                    **options,
                    resamples=resamples,
                )
                entry |= {
                    "hit_rate": asdict(seen.hit_rate),
                    "lead_time_fs": in_fs(lead.median_ps),
                    "warned": asdict(lead.warned),
                    "threshold": lead.threshold,
                }
            found[signal][score] = entry
    return found


def placement(
    score: np.ndarray, truth: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores as the fraction of the calm points of their own cell that score less.

    With them, the ROC curve is that adjusted for the cell (H. Janes, M. S. Pepe, Biometrika 96,
    371, 2009): what model and temperature alone foretell does not count.

    Returns:
        New scores, and where there are any: in cells with both kinds of points.
    """
    placed, usable = np.zeros(len(score)), np.zeros(len(score), dtype=bool)
    for number in np.unique(cell):
        mine = cell == number
        calm = np.sort(score[mine & ~truth])
        if not len(calm) or not truth[mine].any():
            continue
        below = np.searchsorted(calm, score[mine], side="left")
        up_to = np.searchsorted(calm, score[mine], side="right")
        placed[mine], usable[mine] = (below + up_to) / 2 / len(calm), True
    return placed, usable


def in_fs(estimate: survival.Estimate) -> dict[str, Any]:
    """An estimate in ps as one in fs."""
    content = asdict(estimate)
    for name in ("value", "low", "high"):
        if content[name] is not None:
            content[name] *= 1000
    return content


def fraction(successes: int, of: int) -> dict[str, Any]:
    """A fraction with its exact 95 % (Clopper-Pearson) interval."""
    if not of:
        return {"value": None, "low": None, "high": None, "successes": 0, "of": 0}
    interval = stats.binomtest(successes, of).proportion_ci(survival.CONFIDENCE)
    return {
        "value": successes / of,
        "low": float(interval.low),
        "high": float(interval.high),
        "successes": successes,
        "of": of,
    }


@dataclass(frozen=True)
class Grid:
    """Models × temperatures, and how they are resampled.

    A bootstrap sample draws models with replacement, and replicas with replacement within each
    cell. Row 0 of every array is the data themselves; B - 1 samples follow.

    Attributes:
        models: names, M of them; those that have all temperatures.
        groups: of each model.
        temperatures_K: T of them.
        picks: models of each sample, shape (B, M).
        random: of the replicas.
    """

    models: list[str]
    groups: list[str]
    temperatures_K: list[float]
    picks: np.ndarray
    random: np.random.Generator

    @classmethod
    def of(cls, cells: Sequence[dict[str, Any]], *, resamples: int, seed: int = SEED) -> "Grid":
        """Grid of the models that have a cell at every temperature that occurs."""
        temperatures = sorted({float(cell["temperature_K"]) for cell in cells})
        names = {cell["model"]: cell["group"] for cell in cells}
        whole = [
            m for m in sorted(names) if sum(c["model"] == m for c in cells) == len(temperatures)
        ]
        random = np.random.default_rng(seed)
        drawn = random.integers(max(len(whole), 1), size=(resamples, len(whole)))
        picks = np.vstack([np.arange(len(whole)), drawn]).astype(int)
        groups = [names[name] for name in whole]
        return cls(whole, groups, temperatures, picks, random)

    def only(self, group: str) -> "Grid":
        """The models of one group."""
        kept = [i for i, name in enumerate(self.groups) if name == group]
        drawn = self.random.integers(max(len(kept), 1), size=(len(self.picks) - 1, len(kept)))
        picks = np.vstack([np.arange(len(kept)), drawn]).astype(int)
        names = [self.models[i] for i in kept]
        return replace(self, models=names, groups=[group] * len(kept), picks=picks)

    def means(self, values: dict[tuple[str, float], np.ndarray]) -> np.ndarray:
        """Means over replicas, by model name and temperature → shape (B, M, T)."""
        table = np.empty((len(self.picks), len(self.models), len(self.temperatures_K)))
        for i, model in enumerate(self.models):
            for j, kelvin in enumerate(self.temperatures_K):
                mine = np.asarray(values[model, kelvin], dtype=float)
                n = len(mine)
                weights = self.random.multinomial(n, np.full(n, 1 / n), size=len(self.picks) - 1)
                table[:, i, j] = np.vstack([np.ones(n), weights]) @ mine / n
        return np.take_along_axis(table, self.picks[:, :, None], axis=1)

    def fixed(self, values: np.ndarray) -> np.ndarray:
        """Numbers that do not come from replicas, shape (M, T) or alike → shape (B, M, T)."""
        return np.broadcast_to(values, (len(self.models), len(self.temperatures_K)))[self.picks]


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
    if x.shape[2] < 3:
        return undefined
    centred = [stats.rankdata(values, axis=2) for values in (x, y)]
    centred = [ranks - ranks.mean(axis=2, keepdims=True) for ranks in centred]
    size_x, size_y = (np.sqrt((ranks**2).sum(axis=2)) for ranks in centred)
    product = (centred[0] * centred[1]).sum(axis=2)
    silent = np.where(size_y == 0, 1.0, size_y)
    each = np.where(size_x == 0, np.nan, product / np.where(size_x == 0, 1.0, size_x) / silent)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        values = np.nanmean(each, axis=1)  # samples in which x does not vary say nothing
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


def correlations(
    cells: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]], *, resamples: int
) -> dict[str, Any]:
    """All ρ, by signal. Points are cells; each is the mean λ over its replicas."""
    runs = [cell for cell in cells if cell["kind"] == "dynamics"]
    signals = list(runs[0]["replicas"][0]["outside"])
    grid = Grid.of(runs, resamples=resamples)
    entries = {entry["model"]: entry for entry in models}
    found: dict[str, Any] = {
        key: {} for key in ("rho_temperature", "rho_quality", "rho_error", "rho_failure")
    }
    by_place = {(cell["model"], float(cell["temperature_K"])): cell for cell in runs}
    failed = {
        place: np.array([row["failure"] is not None for row in cell["replicas"]])
        for place, cell in by_place.items()
    }
    error = np.array(
        [
            [entries[name]["force_mae_meV_per_A"][f"{kelvin:g}"] for kelvin in grid.temperatures_K]
            for name in grid.models
        ]
    ).reshape(len(grid.models), -1)
    for signal in signals:
        rates = {
            place: np.array([mean_rate(cell, row, signal) for row in cell["replicas"]])
            for place, cell in by_place.items()
        }
        y = grid.means(rates)
        temperature = grid.fixed(np.array(grid.temperatures_K)[None, :])
        found["rho_temperature"][signal] = rho(temperature, y, "temperatures")
        found["rho_quality"][signal] = rho(grid.fixed(error[:, :1]), y, "models")
        found["rho_error"][signal] = grid_rho(grid.fixed(error), y)
        found["rho_failure"][signal] = grid_rho(grid.means(failed), y) | {
            group: rho(part.means(failed), part.means(rates), "cells")
            for group in GROUPS
            for part in [grid.only(group)]
        }
    return found | {"rho_drift": drift_correlations(cells, resamples=resamples)}


def drift_correlations(cells: Sequence[dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """ρ of the absolute NVE drift with λ, by signal; empty without such cells."""
    runs = [cell for cell in cells if cell["kind"] == "dynamics"]
    drifts = {
        (cell["model"], float(cell["temperature_K"])): np.abs(values)
        for cell in cells
        if cell["kind"] == "nve"
        if len(values := known_drifts(cell))
    }
    paired = [cell for cell in runs if (cell["model"], float(cell["temperature_K"])) in drifts]
    grid = Grid.of(paired, resamples=resamples)
    if not grid.models:
        return {}
    found = {}
    for signal in paired[0]["replicas"][0]["outside"]:
        rates = {
            (cell["model"], float(cell["temperature_K"])): np.array(
                [mean_rate(cell, row, signal) for row in cell["replicas"]]
            )
            for cell in paired
        }
        found[signal] = grid_rho(grid.means(drifts), grid.means(rates))
    return found


def known_drifts(cell: dict[str, Any]) -> np.ndarray:
    """Drifts of the replicas of an `nve` cell that held together, meV/atom/ps."""
    drifts = [row["drift_meV_per_atom_ps"] for row in cell["replicas"]]
    return np.array([value for value in drifts if value is not None], dtype=float)


def grid_rho(x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """ρ over all cells; and at fixed temperature, which rules out that it alone makes the ρ."""
    return rho(x, y, "cells") | {"at_fixed_temperature": rho(x, y, "models")}


def extension_test(cells: Sequence[dict[str, Any]], *, resamples: int) -> dict[str, Any]:
    """Of the replicas alive after the first part of a long run: who survives the rest?

    Returns:
        By signal: fraction (with its exact interval) of those whose Λ had stopped growing that
        survive to the end; `not_saturated`: of the others; `auroc` of λ in the late part of the
        first for a failure in the rest, which needs no threshold; `times_as_long`.
    """
    runs = [cell for cell in cells if cell["kind"] == "extension"]
    found: dict[str, Any] = {}
    for signal in runs[0]["replicas"][0]["outside"] if runs else []:
        alive = [
            (late_outside(cell, row, signal) / cell["atoms"], row["failure"] is not None)
            for cell in runs
            for row in cell["replicas"]
            if row["end_ps"] >= cell["judged_ps"] - 1e-9
        ]
        late, failed = np.array(alive, dtype=float).reshape(-1, 2).T
        calm, survived = late == 0, failed == 0
        seen = survival.detection(
            late,
            ~survived,
            np.arange(len(late)),
            false_alarm_rate=FALSE_ALARM_RATE,
            seed=SEED,
            resamples=resamples,
        )
        found[signal] = fraction(int((calm & survived).sum()), int(calm.sum())) | {
            "not_saturated": fraction(int((~calm & survived).sum()), int((~calm).sum())),
            "auroc": asdict(seen.auroc),
            "times_as_long": runs[0]["time_ps"] / runs[0]["judged_ps"],
            "cells": [f"{cell['model']} {cell['temperature_K']:g} K" for cell in runs],
        }
    return found


def critical(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Critical CLI of each signal, by group of models."""
    found: dict[str, Any] = {}
    for group in ("all", *GROUPS):
        mine = [cell for cell in cells if group in ("all", cell["group"])]
        for signal in mine[0]["replicas"][0]["outside"] if mine else []:
            ends = [
                survival.Ending(
                    time_ps=row["end_ps"],
                    cli_ps=float(cli_ps(cell, row, signal)[-1]) if row["outside"][signal] else 0.0,
                    failed=row["failure"] is not None,
                )
                for cell in mine
                for row in cell["replicas"]
            ]
            found.setdefault(signal, {})[group] = asdict(survival.critical_cli(ends))
    return found


def cell_rows(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per model and temperature: failures, mean time without one, mean λ, drift."""
    drifts = {
        (c["model"], c["temperature_K"]): known_drifts(c) for c in cells if c["kind"] == "nve"
    }
    rows = []
    for cell in cells:
        if cell["kind"] != "dynamics":
            continue
        ends = np.array([row["end_ps"] for row in cell["replicas"]])
        failed = np.array([row["failure"] is not None for row in cell["replicas"]])
        mine = drifts.get((cell["model"], cell["temperature_K"]), np.empty(0))
        rows.append(
            {
                "model": cell["model"],
                "group": cell["group"],
                "temperature_K": cell["temperature_K"],
                "failed": fraction(int(failed.sum()), len(failed)),
                "mean_time_ps": asdict(
                    survival.restricted_mean_ps(
                        ends, failed, horizon_ps=float(ends.max()), seed=SEED
                    )
                ),
                "rate": {
                    signal: float(np.mean([mean_rate(cell, r, signal) for r in cell["replicas"]]))
                    for signal in cell["replicas"][0]["outside"]
                },
                "drift_meV_per_atom_ps": float(np.abs(mine).mean()) if len(mine) else None,
            }
        )
    return rows


def summarised(
    cells: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]], *, resamples: int = 1000
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
    points = collected(runs)
    groups = {"all": foretelling(points, resamples=resamples, within=False)}
    for number, name in enumerate(GROUPS):
        if (mine := points.group == number).any():
            groups[name] = foretelling(points.of(mine), resamples=resamples, within=False)
    groups["within cells"] = foretelling(points, resamples=resamples, within=True)
    main = {signal: kinds[MAIN_SCORE] for signal, kinds in groups["all"].items()}
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
            "resampled": {
                "auroc, lead_time_fs": "replicas",
                "rho_*": f"models ({len({c['model'] for c in runs})}), and replicas in each cell; "
                "with so few models the interval of rho_quality is wide",
                "saturated_survival": "none: exact binomial over replicas",
            },
            "simulated_ps": float(sum(r["end_ps"] for c in runs for r in c["replicas"])),
            "failed_replicas": sum(r["failure"] is not None for c in runs for r in c["replicas"]),
            "replicas": sum(len(c["replicas"]) for c in runs),
        },
    }


# What is printed and drawn


def shown(entry: dict[str, Any] | None, digits: int = 2) -> str:
    """`0.83 (0.71–0.90)`, or why there is no number."""
    if entry is None:
        return "–"
    if entry["value"] is None:
        return str(entry.get("outcome", "–"))
    low, high = (
        "" if entry[name] is None else f"{entry[name]:.{digits}f}" for name in ("low", "high")
    )
    return f"{entry['value']:.{digits}f} ({low}–{high})".replace("-", "−")


def tables(summary: dict[str, Any]) -> list[Table]:
    """All that `summarised` found, for people."""
    foretold = [foretelling_table(summary, score) for score in SCORES]
    return [*foretold, rho_table(summary), cell_table(summary)]


def footnote(summary: dict[str, Any]) -> str:
    """How much was simulated, and where the intervals come from."""
    known = summary["settings"]
    return (
        f"{known['failed_replicas']} of {known['replicas']} replicas failed in "
        f"{known['simulated_ps']:.0f} ps. Intervals: of AUROC and lead time, by resampling whole "
        f"replicas; of ρ, {known['resampled']['rho_*']}; of survivors, exact binomial."
    )


def foretelling_table(summary: dict[str, Any], score: str) -> Table:
    """AUROC and lead time of each signal, by group of models."""
    groups = summary["foretelling"]
    settings = summary["settings"]
    table = Table(
        title=f"{SCORES[score]} foretells a failure within {settings['horizon_ps']:g} ps: AUROC "
        f"(95 %); warning at {settings['false_alarm_rate']:.0%} false alarms",
        title_justify="left",
    )
    table.add_column("signal")
    for name in (*groups, "lead time, fs", "warned"):
        table.add_column(name, justify="right")
    for signal, kinds in groups["all"].items():
        if score not in kinds:
            continue
        entry = kinds[score]
        table.add_row(
            signal,
            *(shown(group[signal][score]["auroc"]) for group in groups.values()),
            shown(entry["lead_time_fs"], 0),
            shown(entry["warned"]),
        )
    return table


def rho_table(summary: dict[str, Any]) -> Table:
    """Correlations and the extension test."""
    table = Table(
        title="Spearman's ρ of λ over models × temperatures (95 %), and who survives on",
        title_justify="left",
    )
    for name in ("signal", "temperature", "error, coldest", "error there", "failed"):
        table.add_column(name, justify="left" if name == "signal" else "right")
    for name in (
        *(f"failed, {group}" for group in GROUPS),
        "drift",
        "calm survive",
        "others",
        "AUROC",
    ):
        table.add_column(name, justify="right")
    for signal in summary["rho_temperature"]:
        failure = summary["rho_failure"][signal]
        calm = summary["saturated_survival"].get(signal)
        table.add_row(
            signal,
            *(
                shown(summary[key][signal])
                for key in ("rho_temperature", "rho_quality", "rho_error", "rho_failure")
            ),
            *(shown(failure[group]) for group in GROUPS),
            shown(summary["rho_drift"].get(signal)),
            shown(calm),
            shown(calm["not_saturated"] if calm else None),
            shown(calm["auroc"] if calm else None),
        )
    return table


def cell_table(summary: dict[str, Any]) -> Table:
    """Failures and mean λ of each cell."""
    table = Table(title="Cells: failed replicas and mean λ", title_justify="left")
    signals = list(summary["rho_temperature"])
    for name in ("model", "K", "failed", "error, meV/Å", *signals, "drift, meV/atom/ps"):
        table.add_column(name, justify="left" if name == "model" else "right")
    errors = {entry["model"]: entry["force_mae_meV_per_A"] for entry in summary["models"]}
    for row in summary["cells"]:
        kelvin, drifted = f"{row['temperature_K']:g}", row["drift_meV_per_atom_ps"]
        table.add_row(
            row["model"],
            kelvin,
            f"{row['failed']['successes']} of {row['failed']['of']}",
            f"{errors[row['model']][kelvin]:.0f}",
            *(f"{row['rate'][signal]:.2g}" for signal in signals),
            "–" if drifted is None else f"{drifted:.2g}",
        )
    return table


def draw(summary: dict[str, Any], cells: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Figures for the documentation, as PNG files in a folder."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    style = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.dpi": 150,
        "figure.constrained_layout.use": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    runs = [cell for cell in cells if cell["kind"] == "dynamics"]
    drawn = []
    with plt.rc_context(style):
        for name, figure in (
            ("cli_traces", traces_figure(runs, "label")),
            ("cli_traces_guard", traces_figure(runs, "guard")),
            ("cli_auroc", auroc_figure(summary)),
            ("cli_failures", scatter_figure(summary, "failed")),
            ("cli_drift", scatter_figure(summary, "drift")),
        ):
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1])
            plt.close(figure)
    return drawn


COLOURS = {"scratch": "#c2571a", "pre-trained": "#1f6fb4"}


def traces_figure(runs: Sequence[dict[str, Any]], signal: str) -> Any:
    """Λ of every replica over time: models in rows, temperatures in columns."""
    from matplotlib import pyplot as plt

    models = list(dict.fromkeys(cell["model"] for cell in runs))
    temperatures = sorted({cell["temperature_K"] for cell in runs})
    figure, axes = plt.subplots(
        len(models),
        len(temperatures),
        figsize=(2.2 * len(temperatures) + 0.6, 1.6 * len(models) + 0.6),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for cell in runs:
        axis = axes[models.index(cell["model"])][temperatures.index(cell["temperature_K"])]
        for row in cell["replicas"]:
            cli = cli_ps(cell, row, signal)
            at = np.minimum(cell["trace_fs"] / 1000 * np.arange(1, len(cli) + 1), row["end_ps"])
            axis.plot(at, cli, color=COLOURS[cell["group"]], lw=0.7, alpha=0.7)
            if row["failure"] is not None and len(cli):
                axis.plot(at[-1], cli[-1], "kx", ms=5)
    for axis, kelvin in zip(axes[0], temperatures, strict=True):
        axis.set_title(f"{kelvin:g} K", fontsize=9)
    for row_axes, model in zip(axes, models, strict=True):
        row_axes[0].set_ylabel(f"{model}\nΛ, ps")
    for axis in axes[-1]:
        axis.set_xlabel("time, ps")
    figure.suptitle(f"CLI against {signal}; × failure", fontsize=10)
    return figure


def auroc_figure(summary: dict[str, Any]) -> Any:
    """AUROC of λ of each signal with its interval, one panel per group."""
    from matplotlib import pyplot as plt

    groups = summary["foretelling"]
    signals = list(groups["all"])
    figure, axes = plt.subplots(
        1, len(groups), figsize=(2.2 * len(groups) + 1, 0.3 * len(signals) + 1), sharey=True
    )
    for axis, (name, found) in zip(np.atleast_1d(axes), groups.items(), strict=True):
        axis.axvline(0.5, color="0.7", lw=0.8)
        for place, signal in enumerate(signals):
            entry = found[signal][MAIN_SCORE]["auroc"]
            if entry["value"] is None:
                continue
            colour = "0.5" if signal in TRIVIAL else COLOURS.get(name, "0.1")
            axis.plot([entry["low"], entry["high"]], [place, place], color=colour, lw=1.5)
            axis.plot(entry["value"], place, "o", color=colour, ms=4)
        axis.set_xlim(0, 1)
        axis.set_yticks(range(len(signals)), signals)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("AUROC of λ")
    np.atleast_1d(axes)[0].invert_yaxis()  # shared: as in the tables
    return figure


def scatter_figure(summary: dict[str, Any], what: str) -> Any:
    """Failed fraction, or drift, of each cell over its λ: one panel per signal."""
    from matplotlib import pyplot as plt

    signals = list(summary["rho_temperature"])
    figure, axes = plt.subplots(
        1, len(signals), figsize=(2.0 * len(signals) + 0.6, 2.3), sharey=True, squeeze=False
    )
    for axis, signal in zip(axes[0], signals, strict=True):
        for group, colour in COLOURS.items():
            mine = [row for row in summary["cells"] if row["group"] == group]
            if what == "drift":
                mine = [row for row in mine if row["drift_meV_per_atom_ps"] is not None]
                y = [row["drift_meV_per_atom_ps"] for row in mine]
            else:
                y = [row["failed"]["value"] for row in mine]
            x = [row["rate"][signal] for row in mine]
            axis.plot(x, y, "o", color=colour, ms=4, label=group)
        axis.set_xscale("symlog", linthresh=1e-4)
        axis.set_xticks([0, 1e-4, 1e-2, 1])
        axis.set_xlim(-5e-5, 1.5)
        axis.set_xlabel("mean λ")
        axis.set_title(signal, fontsize=9)
    if what == "drift":
        axes[0][0].set_yscale("log")
    label = "drift, meV/atom/ps" if what == "drift" else "failed fraction"
    axes[0][0].set_ylabel(label)
    axes[0][0].legend(fontsize=7)
    return figure
