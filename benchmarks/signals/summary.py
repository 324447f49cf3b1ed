"""What the cells of `signal_truth` say together.

    summary = summarised(cells)
    summary["auroc"]["latent"]["ethanol 1000K scratch"]["0.5 eV/A"]["value"]

Not for: computing cells (see `judging`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table
from scipy import stats

CONFIDENCE = 0.95
THRESHOLDS = ("0.5 eV/A", "1 eV/A", "3 medians")
REACH = 0.90


def place_of(cell: dict[str, Any]) -> str:
    """System, place and kind of model of a cell, e.g. `ethanol 1000K scratch`."""
    return f"{cell['system']} {cell['where']} {cell['group']}"


def combined(estimates: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Mean over models, with a 95 % interval; None without any that was estimated.

    Models are the units. The standard error is the greater of two: what the models' own intervals
    give for their mean, and what the spread of the models gives. The interval is Student's with
    as many degrees of freedom as there are models but one; of one model it is that model's own.
    """
    known = [e for e in estimates if e.get("value") is not None]
    if not known:
        return None
    values = np.array([e["value"] for e in known])
    n, mean = len(known), float(values.mean())
    if n == 1:
        return {k: known[0][k] for k in ("value", "low", "high")} | {"models": 1}
    widths = np.array([e["high"] - e["low"] for e in known])
    within = float(np.sqrt((widths**2).sum())) / n / (2 * stats.norm.ppf(0.5 + CONFIDENCE / 2))
    across = float(values.std(ddof=1)) / np.sqrt(n)
    half = (
        float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) * within
        if within >= across
        else float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * across
    )
    return {
        "value": mean,
        "low": max(0.0, float(mean - half)),
        "high": min(1.0, float(mean + half)),
        "models": n,
    }


def summarised(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All numbers: by signal, then place, then what counts as wrong."""
    places = list(dict.fromkeys(place_of(cell) for cell in cells))
    names = list(dict.fromkeys(name for cell in cells for name in cell["signals"]))
    summary: dict[str, Any] = {"auroc": {}, "recall": {}, "cost_fraction": {}, "overall": {}}
    for name in names:
        for measure in ("auroc", "recall"):
            summary[measure][name] = {}
            for place in places:
                of_place = [c for c in cells if place_of(c) == place and name in c["signals"]]
                by_threshold = {
                    threshold: combined([c["signals"][name][threshold][measure] for c in of_place])
                    for threshold in THRESHOLDS
                }
                summary[measure][name][place] = by_threshold
        costs = {
            place: [
                c["signals"][name]["cost_fraction"]
                for c in cells
                if place_of(c) == place and name in c["signals"]
            ]
            for place in places
        }
        summary["cost_fraction"][name] = {
            place: {
                "value": float(np.median([c["value"] for c in of_place])),
                "low": min(c["low"] for c in of_place),
                "high": max(c["high"] for c in of_place),
            }
            for place, of_place in costs.items()
            if of_place
        }
        summary["overall"][name] = _overall(summary["auroc"][name])
    summary["places"] = {
        place: {
            "models": len(of_place := [c for c in cells if place_of(c) == place]),
            "atoms": sum(c["atoms"] for c in of_place),
            "bad_atoms": {t: sum(c["bad_atoms"][t] for c in of_place) for t in THRESHOLDS},
            "median_error_eV_per_A": float(
                np.mean([c["errors"]["median_eV_per_A"] for c in of_place])
            ),
        }
        for place in places
    }
    return summary


def _overall(by_place: dict[str, Any]) -> dict[str, Any]:
    """Least and median AUROC over places, by what counts as wrong."""
    overall = {}
    for threshold in THRESHOLDS:
        values = [p[threshold]["value"] for p in by_place.values() if p[threshold]]
        overall[threshold] = {
            "least": min(values, default=None),
            "median": float(np.median(values)) if values else None,
            "places": len(values),
            "reached": sum(value >= REACH for value in values),
        }
    return overall


def tables(summary: dict[str, Any]) -> list[Table]:
    """For the terminal: AUROC of each signal at each place, and over all."""
    shown = []
    for threshold in THRESHOLDS:
        table = Table(title=f"AUROC, force error above {threshold}")
        places = [
            p
            for p in summary["places"]
            if any(by[p][threshold] for by in summary["auroc"].values())
        ]
        for heading in ("signal", *places, "least", "median", "cost"):
            table.add_column(heading)
        for name, by_place in summary["auroc"].items():
            overall = summary["overall"][name][threshold]
            costs = [cost["value"] for cost in summary["cost_fraction"][name].values()]
            table.add_row(
                name,
                *(_shown(by_place[place][threshold]) for place in places),
                *(
                    f"{overall[k]:.2f}" if overall[k] is not None else ""
                    for k in ("least", "median")
                ),
                f"{np.median(costs):.1%}",
            )
        shown.append(table)
    return shown


def _shown(estimate: dict[str, Any] | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate['value']:.2f} ({estimate['low']:.2f}–{estimate['high']:.2f})"
