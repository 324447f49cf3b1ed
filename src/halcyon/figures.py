"""The page's figures, as Plotly reads them.

    figures(report)["survival"]  # {"data": [...], "layout": {...}}

Traces of one generation carry its number in `meta`: the page's legend shows and hides them by it.

Not for: where they stand on the page (`page` and its template).
"""

from html import escape
from typing import Any

import numpy as np
import pandas as pd

from halcyon import survival
from halcyon.report import SystemReport
from halcyon.stability import TIERS

MAX_POINTS = 20_000
"""Points drawn in one figure: thinned evenly beyond, so that the page stays small."""
COLOURS = (
    (59, 111, 212),
    (20, 150, 165),
    (78, 160, 70),
    (196, 138, 24),
    (212, 84, 56),
    (178, 70, 156),
)
"""Red, green, blue of the generations, from first to last; each reads on white and on black."""
PRETRAINING_COLOUR = "#8a8f98"
PRETRAINING = -1
"""Stands for pre-training where a generation's number is expected."""


def _colour(number: int, of: int) -> str:
    place = number / max(1, of - 1) * (len(COLOURS) - 1)
    red, green, blue = (
        round(np.interp(place, range(len(COLOURS)), channel))
        for channel in zip(*COLOURS, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def legend(report: SystemReport) -> dict[int, str]:
    """Colour of each generation and, under `PRETRAINING`, of pre-training."""
    of = len(report.generations)
    colours = {g.number: _colour(g.number, of) for g in report.generations}
    if report.pretraining is not None:
        colours[PRETRAINING] = PRETRAINING_COLOUR
    return colours


def figures(report: SystemReport) -> dict[str, Any]:
    """Plotly figures by the id of their place on the page."""
    others = other_signals(report)
    return {
        "cli-label": _cli_figure(report, "label"),
        "cli-guard": _cli_figure(report, "guard"),
        **{f"cli-{name}": _cli_figure(report, name, of=len(others)) for name in others},
        "survival": _survival_figure(report),
        "learning": _learning_figure(report),
        "training-forces": _training_figure(
            report, "forces_mae_meV_per_A", "Validation force MAE, meV/Å"
        ),
        "training-energy": _training_figure(
            report, "energy_mae_meV_per_atom", "Validation energy MAE, meV/atom"
        ),
    }


def _figure(
    data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any
) -> dict:
    axis = {
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "automargin": True,
        "exponentformat": "power",
    }
    return {
        "data": data,
        "layout": {
            "xaxis": axis | x,
            "yaxis": axis | y,
            "showlegend": False,
            "hovermode": "closest",
            "margin": {"l": 56, "r": 10, "t": 10, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        }
        | layout,
    }


def other_signals(report: SystemReport) -> list[str]:
    """Signals in the traces beside label and guard domain."""
    columns = [name for g in report.generations for name in g.traces.columns]
    rates = [name for name in dict.fromkeys(columns) if name.startswith("rate_")]
    return [name for rate in rates if (name := rate.removeprefix("rate_")) not in TIERS]


def _cli_figure(report: SystemReport, signal: str, *, of: int = 1) -> dict[str, Any]:
    """Λ(t) of every replica; a failure is a cross.

    Args:
        report: of the system.
        signal: `label`, `guard` or another in the traces of some generations.
        of: figures that share `MAX_POINTS`.
    """
    column = f"cli_{signal}"
    shown = [g for g in report.generations if column in g.traces]
    curves = sum(len(g.replicas) for g in shown)
    points = max(10, MAX_POINTS // of // max(1, curves))
    colours, data = legend(report), []
    for g in shown:
        x: list[float | None] = []
        y: list[float | None] = []
        number: list[int] = []
        ends: list[tuple[float | None, float | None, str]] = []
        for entry in g.replicas:
            mine = g.traces[g.traces["replica"] == entry["replica"]]
            kept = np.unique(np.linspace(0, len(mine) - 1, min(points, len(mine))).astype(int))
            times = [0.0, *_rounded(mine["time"].iloc[kept])]
            index = [0.0, *_rounded(mine[column].iloc[kept])]
            x += [*times, None]
            y += [*index, None]
            number += [entry["replica"]] * (len(times) + 1)
            if entry["failure"] is not None:
                told = (
                    f"generation {g.number}, replica {entry['replica']} "
                    f"({entry['structure']}, {entry['temperature_K']:g} K): {entry['failure']} "
                    f"at {entry['time_ps']:.4g} ps"
                )
                ends.append((times[-1], index[-1], escape(told)))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "meta": g.number,
                "x": x,
                "y": y,
                "customdata": number,
                "line": {"color": colours[g.number], "width": 1.4},
                "opacity": 0.85,
                "hovertemplate": f"generation {g.number}, replica %{{customdata}}<br>"
                "%{x:.4g} ps: Λ = %{y:.3g} ps<extra></extra>",
            }
        )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": g.number,
                "x": [end[0] for end in ends],
                "y": [end[1] for end in ends],
                "text": [end[2] for end in ends],
                "marker": {"symbol": "x", "size": 8, "color": colours[g.number]},
                "hovertemplate": "%{text}<br>Λ = %{y:.3g} ps<extra></extra>",
            }
        )
    asked = report.plan.settings.exploration.time_ps
    window = {"x0": report.late_begin_ps, "x1": asked, "y0": 0, "y1": 1}
    return _figure(
        data,
        {"title": {"text": "simulated time, ps"}, "range": [0, asked * 1.02]},
        {"title": {"text": "Λ, mean over atoms, ps"}, "rangemode": "tozero"},
        shapes=[
            window
            | {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "fillcolor": "rgba(128,128,128,0.13)",
                "line": {"width": 0},
                "layer": "below",
            }
        ],
        annotations=[
            {
                "text": "late window",
                "x": asked,
                "y": 1,
                "yref": "paper",
                "xanchor": "right",
                "yanchor": "top",
                "showarrow": False,
            }
        ],
    )


def _survival_figure(report: SystemReport) -> dict[str, Any]:
    """Kaplan–Meier: fraction running against time, with its band; ticks are replicas stopped."""
    colours, data = legend(report), []
    for g in report.generations:
        ends = g.run.endings("label")
        times = [end.time_ps for end in ends]
        curve = survival.kaplan_meier(
            times, [end.failed for end in ends], confidence=g.failures["confidence"]
        )
        x = [0.0, *_rounded(curve.at_ps)]
        running = [1.0, *_rounded(curve.survival)]
        low, high = [1.0, *_rounded(curve.low)], [1.0, *_rounded(curve.high)]
        stopped = sorted({end.time_ps for end in ends if not end.failed})
        heights = curve.survival[np.searchsorted(curve.at_ps, stopped)]
        line = {"color": colours[g.number], "shape": "hv"}
        shared = {"type": "scatter", "meta": g.number}
        edge = shared | {"mode": "lines", "x": x, "hoverinfo": "skip", "line": line | {"width": 0}}
        red, green, blue = (int(colours[g.number][i : i + 2], 16) for i in (1, 3, 5))
        data += [
            edge | {"y": low},
            edge | {"y": high, "fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},0.13)"},
            shared
            | {
                "mode": "lines",
                "x": x,
                "y": running,
                "customdata": list(
                    zip(low, high, [len(ends), *curve.at_risk.tolist()], strict=True)
                ),
                "line": line | {"width": 2},
                "hovertemplate": f"generation {g.number}, from %{{x:.4g}} ps on: %{{y:.0%}} run on"
                "<br>%{customdata[0]:.0%} to %{customdata[1]:.0%}; %{customdata[2]} ran until then"
                "<extra></extra>",
            },
            shared
            | {
                "mode": "markers",
                "x": _rounded(stopped),
                "y": _rounded(heights),
                "marker": {
                    "symbol": "line-ns-open",
                    "size": 9,
                    "color": colours[g.number],
                    "line": {"width": 1.6},
                },
                "hoverinfo": "skip",
            },
        ]
    longest = max(entry["time_ps"] for g in report.generations for entry in g.replicas)
    return _figure(
        data,
        {"title": {"text": "simulated time of a replica, ps"}, "range": [0, longest * 1.02]},
        {"title": {"text": "still running"}, "range": [0, 1.04], "tickformat": ".0%"},
    )


def _rounded(values: pd.Series | np.ndarray | list[float]) -> list[float | None]:
    """Four significant digits: less than a pixel, and half the page's size."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _learning_figure(report: SystemReport) -> dict[str, Any]:
    colours = legend(report)
    numbers = [g.number for g in report.generations]
    every = -(-len(numbers) // 10)
    return _figure(
        [
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": [g.learned["train"] for g in report.generations],
                "y": [float(f"{g.forces_mae:.4g}") for g in report.generations],
                "text": ["" if number % every else str(number) for number in numbers],
                "customdata": numbers,
                "textposition": "top center",
                "cliponaxis": False,
                "line": {"color": PRETRAINING_COLOUR, "width": 1.2},
                "marker": {"size": 9, "color": [colours[g.number] for g in report.generations]},
                "hovertemplate": "generation %{customdata}: %{x} training labels, %{y:.4g} meV/Å"
                "<extra></extra>",
            }
        ],
        {"title": {"text": "training labels"}, "rangemode": "tozero"},
        {"title": {"text": "Test force MAE, meV/Å"}, "rangemode": "tozero"},
    )


def _training_figure(report: SystemReport, quantity: str, title: str) -> dict[str, Any]:
    """Errors on the validation set, epoch by epoch; a dot marks the weights that were kept."""
    colours = legend(report)
    curves = [(g.number, g.curve, f"generation {g.number}") for g in report.generations]
    if report.pretraining is not None:
        curves.append((PRETRAINING, report.pretraining, "pre-training"))
    best = {g.number: g.best_epoch for g in report.generations}
    longest = max(entry["epoch"] for _, curve, _ in curves for entry in curve)
    values = [entry[quantity] for _, curve, _ in curves for entry in curve if entry[quantity] > 0]
    decades = np.log10(max(values) / min(values)) if values else 0.0
    data: list[dict[str, Any]] = []
    for number, curve, name in curves:
        sizes = [9 if entry["epoch"] == best.get(number) else 0 for entry in curve]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "meta": number,
                "x": [entry["epoch"] for entry in curve],
                "y": [float(f"{entry[quantity]:.4g}") for entry in curve],
                "line": {
                    "color": colours[number],
                    "width": 1.6,
                    "dash": "dot" if number == PRETRAINING else "solid",
                },
                "marker": {"size": sizes, "opacity": 1, "line": {"width": 0}},
                "hovertemplate": f"{name}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    return _figure(
        data,
        {"title": {"text": "epoch"}, "rangemode": "tozero"}
        | ({"dtick": 1} if longest <= 10 else {}),
        {"title": {"text": title}, "type": "log"}
        | ({"dtick": "D2", "tickformat": "~g"} if decades > 0.7 else {}),
    )
