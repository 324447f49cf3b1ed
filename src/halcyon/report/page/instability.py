"""Λ of every replica, λ against temperature, and the rate that decides.

Not for: whether replicas survive (`lifetimes`).
"""

from html import escape
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from halcyon.report import Generation, SystemReport, number_text
from halcyon.report.page.axes import (
    CONFIDENCE,
    MAX_POINTS,
    NEUTRAL,
    Figure,
    Trace,
    colours_of,
    curve_points,
    rounded,
    titled,
)
from halcyon.verdict.runs import TIERS

MEANING = {
    "label": "Leaving it: inaccurate, a frame worth a label. It decides about saturation.",
    "guard": "Leaving it: beyond the force field's frames, too. Meant to foretell failures; not "
    "yet validated.",
}
SAME = "The same as the label domain: there was no pre-training."


def other_signals(report: SystemReport) -> list[str]:
    """Signals in the traces beside label and guard domain."""
    columns = [name for g in report.generations for name in g.traces.columns]
    rates = [name for name in dict.fromkeys(columns) if name.startswith("rate_")]
    return [name for rate in rates if (name := rate.removeprefix("rate_")) not in TIERS]


def figures(report: SystemReport) -> list[Figure]:
    """Λ against label and guard domain, λ against temperature, excursion rates."""
    return [
        _cli(report, "label"),
        _cli(report, "guard"),
        _by_temperature(report),
        _excursion_rates(report),
    ]


def other_figures(report: SystemReport) -> list[Figure]:
    """Λ of the other signals."""
    others = other_signals(report)
    return [_cli(report, name, of=len(others)) for name in others]


def _cli(report: SystemReport, signal: str, *, of: int = 1) -> Figure:
    """Λ(t) of every replica; a failure is a cross, a thick line the mean in the late window.

    Args:
        report: of the system.
        signal: `label`, `guard` or another in the traces of some generations.
        of: figures that share `MAX_POINTS`.
    """
    column = f"cli_{signal}"
    shown = [g for g in report.generations if column in g.traces]
    most = max(10, MAX_POINTS // of // max(1, sum(len(g.replicas) for g in shown)))
    colours, data, there, drawn = colours_of(report), [], 0, 0
    for g in shown:
        traces, points, kept = _replicas(g, column, colours[g.number], most)
        data += [*traces, _plateau(g, column, colours[g.number])]
        there, drawn = there + points, drawn + kept
    late = {"shapes": [_late_window(report)], "annotations": [_late_words(report)]}
    told = "; ".join(
        f"generation {g.number}: mean at the end {number_text(g.final(column).mean())} ps, "
        f"{sum(entry.failure is not None for entry in g.replicas)} of {len(g.replicas)} failed"
        for g in shown
    )
    title, caption = f"{signal.replace('_', ' ').capitalize()}", f"Λ of the signal {signal}."
    if signal in TIERS:
        title = f"{signal.capitalize()} domain"
        caption = SAME if signal == "guard" and report.pretraining is None else MEANING[signal]
    return Figure(
        id=f"cli-{signal}",
        title=title,
        caption=caption,
        alt=f"Λ in ps against simulated time, a curve per replica; {told}.",
        data=data,
        x=titled("simulated time, ps", range=[0, report.longest_ps * 1.02]),
        y=titled("Λ, mean over atoms, ps", rangemode="tozero"),
        layout=late,
        thinned=(there, drawn),
    )


def _replicas(g: Generation, column: str, colour: str, most: int) -> tuple[list[Trace], int, int]:
    """Curves of a generation and its failures; points there are, and points drawn."""
    x: list[float | None] = []
    y: list[float | None] = []
    number: list[int] = []
    ends: list[tuple[float | None, float | None, str]] = []
    by_replica = dict(list(g.traces.groupby("replica")[["time", column]]))
    none = pd.DataFrame({"time": [], column: []})
    there = drawn = 0
    for entry in g.replicas:
        time, index = by_replica.get(entry.replica, none).to_numpy(dtype=float).T
        kept = curve_points(time, index, most)
        there, drawn = there + len(time), drawn + len(kept)
        times, values = [0.0, *rounded(time[kept])], [0.0, *rounded(index[kept])]
        x += [*times, None]
        y += [*values, None]
        number += [entry.replica] * (len(times) + 1)
        if entry.failure is not None:
            told = (
                f"generation {g.number}, replica {entry.replica} "
                f"({entry.structure}, {entry.temperature_K:g} K): {entry.failure} "
                f"at {entry.time_ps:.4g} ps"
            )
            ends.append((times[-1], values[-1], escape(told)))
    lines = {
        "type": "scatter",
        "mode": "lines",
        "meta": g.number,
        "name": f"generation {g.number}",
        "x": x,
        "y": y,
        "customdata": number,
        "line": {"color": colour, "width": 1.3},
        "opacity": 0.8,
        "hovertemplate": f"generation {g.number}, replica %{{customdata}}<br>"
        "%{x:.4g} ps: Λ = %{y:.3g} ps<extra></extra>",
    }
    crosses = {
        "type": "scatter",
        "mode": "markers",
        "meta": g.number,
        "name": f"generation {g.number}, failures",
        "x": [end[0] for end in ends],
        "y": [end[1] for end in ends],
        "text": [end[2] for end in ends],
        "marker": {"symbol": "x", "size": 8, "color": colour},
        "hovertemplate": "%{text}<br>Λ = %{y:.3g} ps<extra></extra>",
    }
    return [lines, crosses], there, drawn


def _plateau(g: Generation, column: str, colour: str) -> Trace:
    """Mean Λ of the replicas that lasted, where the late window begins and where it ends."""
    begin_ps = g.late_begin_ps
    lasted = [entry.replica for entry in g.replicas if entry.failure is None]
    traces = g.traces[g.traces["replica"].isin(lasted)]
    first = traces[traces["time"] <= begin_ps].groupby("replica")[column].last()
    last = traces.groupby("replica")[column].last()
    whole = traces.groupby("replica")["time"].last()
    reached = last.index[whole > begin_ps]  # a late replacement may end before
    x: list[float | None] = []
    y: list[float | None] = []
    if len(reached):
        x = rounded([begin_ps, float(whole[reached].max())])
        y = rounded([float(first.reindex(reached).fillna(0.0).mean()), float(last[reached].mean())])
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": g.number,
        "name": f"generation {g.number}, mean in the late window",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 4},
        "hovertemplate": f"generation {g.number}: mean of {len(reached)} replicas that lasted"
        "<br>%{x:.4g} ps: Λ = %{y:.3g} ps<extra></extra>",
    }


def _late_window(report: SystemReport) -> dict[str, Any]:
    return {
        "type": "rect",
        "xref": "x",
        "yref": "paper",
        "x0": report.last.late_begin_ps,
        "x1": report.last.explored_ps,
        "y0": 0,
        "y1": 1,
        "fillcolor": "rgba(128,128,128,0.13)",
        "line": {"width": 0},
        "layer": "below",
    }


def _late_words(report: SystemReport) -> dict[str, Any]:
    return {
        "text": "late window",
        "x": report.last.explored_ps,
        "y": 1,
        "yref": "paper",
        "xanchor": "right",
        "yanchor": "top",
        "showarrow": False,
    }


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; the interval is not finite for one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def _by_temperature(report: SystemReport) -> Figure:
    """Late λ of each replica against its thermostat's temperature, and the means."""
    colours, data, told = colours_of(report), [], []
    kelvin = sorted({e.temperature_K for g in report.generations for e in g.replicas})
    gap = min(np.diff(kelvin), default=100.0) * 0.6 / len(report.generations)
    for place, g in enumerate(report.generations):
        shift = (place - (len(report.generations) - 1) / 2) * gap
        of = {entry.replica: entry.temperature_K for entry in g.replicas}
        rates = g.late_rates()
        x = [of[replica] + shift for replica in rates]
        means = []
        for temperature in kelvin:
            mine = np.array([rate for r, rate in rates.items() if of[r] == temperature])
            if len(mine):
                means.append((temperature, len(mine), *mean_interval(mine)))
                told.append(
                    f"generation {g.number} at {temperature:g} K: {number_text(means[-1][2])}"
                )
        shared = {"type": "scatter", "mode": "markers", "meta": g.number}
        data += [
            shared
            | {
                "name": f"generation {g.number}, replicas",
                "x": rounded(x),
                "y": rounded(rates.values()),
                "customdata": [[replica, of[replica]] for replica in rates],
                "marker": {"size": 5, "color": colours[g.number], "opacity": 0.5},
                "hovertemplate": f"generation {g.number}, replica %{{customdata[0]}}, "
                "%{customdata[1]:.4g} K<br>λ = %{y:.3g}<extra></extra>",
            },
            shared
            | {
                "name": f"generation {g.number}, mean",
                "x": rounded(m[0] + shift for m in means),
                "y": rounded(m[2] for m in means),
                "customdata": [
                    [m[0], m[1], number_text(max(0.0, m[3])), number_text(m[4])] for m in means
                ],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    # λ is a fraction: its interval cannot go below nought.
                    "array": rounded(m[4] - m[2] for m in means),
                    "arrayminus": rounded(m[2] - max(0.0, m[3]) for m in means),
                    "color": colours[g.number],
                },
                "marker": {"size": 11, "symbol": "diamond", "color": colours[g.number]},
                "hovertemplate": f"generation {g.number}, %{{customdata[0]:.4g}} K: mean of "
                "%{customdata[1]} replicas<br>λ = %{y:.3g} (95 %: %{customdata[2]} to "
                "%{customdata[3]})<extra></extra>",
            },
        ]
    room = max(gap * len(report.generations), 50.0)
    return Figure(
        id="rate-temperature",
        title="λ by temperature",
        caption="Fraction of atomic predictions outside the label domain in the late window: a dot "
        "per replica that reached the end, a diamond for their mean with its 95 % interval "
        "(Student's t over replicas). Generations stand side by side at each temperature.",
        alt=f"λ against temperature; mean of {'; '.join(told) or 'no replica that lasted'}.",
        data=data,
        x=titled(
            "thermostat, K",
            range=[kelvin[0] - room, kelvin[-1] + room],
            tickvals=kelvin,
            ticktext=[f"{each:g}" for each in kelvin],
        ),
        y=titled("λ, late window", rangemode="tozero"),
    )


def _excursion_rates(report: SystemReport) -> Figure:
    """The rate that the verdict rests on, its bound, and the limit."""
    colours, told, data = colours_of(report), [], []
    level = f"{report.last.saturation.confidence * 100:g} %"
    limit = report.last.saturation.rate_limit_per_atom_ps
    for g in report.generations:
        rate, bound = g.saturation.rate_per_atom_ps, g.saturation.rate_bound_per_atom_ps
        told.append(f"generation {g.number}: {number_text(rate)}, bound {number_text(bound)}")
        if bound is None:
            continue
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": g.number,
                "name": f"generation {g.number}",
                "x": [g.number],
                "y": rounded([rate or 0.0]),
                "customdata": [[number_text(bound), g.saturation.excursions]],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded([bound - (rate or 0.0)]),
                    "arrayminus": [0],
                    "color": colours[g.number],
                    "thickness": 2,
                },
                "marker": {"size": 10, "color": colours[g.number]},
                "hovertemplate": f"generation {g.number}: %{{y:.3g}} per atom and ps"
                f"<br>{level} bound %{{customdata[0]}}; %{{customdata[1]}} excursions"
                "<extra></extra>",
            }
        )
    line = {"color": NEUTRAL, "dash": "dash", "width": 1.5}
    return Figure(
        id="excursions",
        title="What the verdict rests on",
        caption=f"Excursions per atom and ps in the late window; the bar ends at their exact "
        f"one-sided {level} bound. Below the dashed line, {limit:g}/ps, a generation without "
        "failure is saturated. None is drawn where every replica failed.",
        alt=f"Excursion rate per generation against the limit {limit:g}/ps; {'; '.join(told)}.",
        data=data,
        x=titled("generation", dtick=1, range=[-0.6, report.last.number + 0.6]),
        y=titled("excursions per atom, 1/ps", rangemode="tozero"),
        layout={
            "shapes": [
                {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": limit, "y1": limit}
                | {"line": line}
            ]
        },
    )
