"""Λ of every replica, λ against temperature, and what the verdict rests on.

Not for: whether replicas survive (`lifetimes`), or whether the model is right (`audit`).
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from halcyon.report import Generation, SystemReport
from halcyon.report.page import events
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
from halcyon.report.survival_words import NAMES
from halcyon.verdict.runs import TIERS
from halcyon.wording import number_text, per_cent

MEANING = {
    "error": "Time that atoms have spent on forces that are expected to be wrong by more than the "
    "tolerance. Such frames are candidates for labels, and the verdict counts by this index.",
    "label": "Time that atoms have spent outside the label domain: the atomic energies of the "
    "labelled training frames, widened by a margin. Predictions there are unreliable, and such "
    "frames are candidates for labels.",
    "guard": "Time that atoms have spent outside the guard domain, which includes the force "
    "field's frames. It is meant to foretell failures; this has not been validated.",
}
SAME = "The guard domain is the label domain here, because the model was not pre-trained."
PUBLISHED = (
    "The published idea: time that atoms have spent outside the label domain, the interval of "
    "their energies in the labelled training frames, widened by a margin. The verdict does not "
    "depend on it."
)
CURVES = (
    " A curve for each replica; × marks a failure. A thick line is the mean over the replicas that "
    "reached the end, in the late window (grey); the flatter, the better."
)


def other_signals(report: SystemReport) -> list[str]:
    """Signals in the traces that do not decide; those of node energies first."""
    columns = [name for g in report.generations for name in g.traces.columns]
    rates = [name for name in dict.fromkeys(columns) if name.startswith("rate_")]
    decisive = _decisive(report)
    names = [name for rate in rates if (name := rate.removeprefix("rate_")) not in decisive]
    return sorted(names, key=lambda name: name not in TIERS)


def _decisive(report: SystemReport) -> list[str]:
    """Indices that are drawn first: that by which the last generation was judged."""
    return ["error"] if report.deciding == "error" else ["label", "guard"]


def figures(report: SystemReport) -> list[Figure]:
    """Λ of the deciding index, λ against temperature, and what the verdict rests on."""
    return [
        *(_cli(report, name) for name in _decisive(report)),
        _by_temperature(report),
        *(events.figures(report) or [_excursion_rates(report)]),
    ]


def other_figures(report: SystemReport) -> list[Figure]:
    """Λ of the signals that do not decide."""
    others = other_signals(report)
    return [_cli(report, name, of=len(others)) for name in others]


def fraction_words(report: SystemReport) -> str:
    """What λ is a fraction of, as the deciding index counts it."""
    if report.deciding == "error":
        return (
            "the fraction of forces that are expected to be wrong by more than "
            f"{report.tolerance_eV_per_A:g} eV/Å"
        )
    return "the fraction of atomic predictions outside the label domain"


def _cli(report: SystemReport, signal: str, *, of: int = 1) -> Figure:
    """Λ(t) of every replica; a failure is a cross, a thick line the mean in the late window.

    Args:
        report: of the system.
        signal: `error`, `label`, `guard` or another signal in the traces of some generations.
        of: number of figures that share `MAX_POINTS`.
    """
    column = f"cli_{signal}"
    shown = [g for g in report.generations if column in g.traces]
    most = max(10, MAX_POINTS // of // max(1, sum(len(g.replicas) for g in shown)))
    colours, data, points, drawn = colours_of(report), [], 0, 0
    for g in shown:
        traces, points_of_g, drawn_of_g = _replicas(g, column, colours[g.number], most)
        data += [*traces, _plateau(g, column, colours[g.number])]
        points, drawn = points + points_of_g, drawn + drawn_of_g
    late = {"shapes": [_late_window(report)], "annotations": [_late_words(report)]}
    ends = "; ".join(
        f"generation {g.number}: mean at the end {number_text(g.final(column).mean())} ps, "
        f"{sum(entry.failure is not None for entry in g.replicas)} of {len(g.replicas)} failed"
        for g in shown
    )
    title = f"Λ of the signal {signal.replace('_', ' ')}"
    caption = f"Time that atoms have spent beyond the threshold of the signal {signal}."
    if signal in TIERS:
        title = f"Λ of the {NAMES[signal]}"
        caption = SAME if signal == "guard" and report.pretraining is None else MEANING[signal]
        if signal == "label" and report.deciding != "label":
            caption = PUBLISHED
    return Figure(
        id=f"cli-{signal}",
        title=title,
        caption=caption + CURVES,
        alt=f"Λ in ps against simulated time, a curve per replica; {ends}.",
        data=data,
        x=titled("simulated time, ps", range=[0, report.longest_ps * 1.02]),
        y=titled("Λ, mean over atoms, ps", rangemode="tozero"),
        layout=late,
        thinned=(points, drawn),
    )


def _replicas(g: Generation, column: str, colour: str, most: int) -> tuple[list[Trace], int, int]:
    """Curves of a generation and its failures, number of points, and number of points drawn."""
    x: list[float | None] = []
    y: list[float | None] = []
    number: list[int] = []
    ends: list[tuple[float | None, float | None, str]] = []
    by_replica = dict(list(g.traces.groupby("replica")[["time", column]]))
    none = pd.DataFrame({"time": [], column: []})
    points = drawn = 0
    for entry in g.replicas:
        time, index = by_replica.get(entry.replica, none).to_numpy(dtype=float).T
        kept = curve_points(time, index, most)
        points, drawn = points + len(time), drawn + len(kept)
        times, values = [0.0, *rounded(time[kept])], [0.0, *rounded(index[kept])]
        x += [*times, None]
        y += [*values, None]
        number += [entry.replica] * (len(times) + 1)
        if entry.failure is not None:
            description = (
                f"generation {g.number}, replica {entry.replica} "
                f"({entry.structure}, {entry.temperature_K:g} K): {entry.failure} "
                f"at {entry.time_ps:.4g} ps"
            )
            ends.append((times[-1], values[-1], escape(description)))
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
    return [lines, crosses], points, drawn


def _plateau(g: Generation, column: str, colour: str) -> Trace:
    """Mean Λ of the replicas that did not fail, at both ends of the late window."""
    begin_ps = g.late_begin_ps
    survivors = [entry.replica for entry in g.replicas if entry.failure is None]
    traces = g.traces[g.traces["replica"].isin(survivors)]
    first = traces[traces["time"] <= begin_ps].groupby("replica")[column].last()
    last = traces.groupby("replica")[column].last()
    end_ps = traces.groupby("replica")["time"].last()
    reached = last.index[end_ps > begin_ps]  # a late replacement may end before
    x: list[float | None] = []
    y: list[float | None] = []
    if len(reached):
        x = rounded([begin_ps, float(end_ps[reached].max())])
        y = rounded([float(first.reindex(reached).fillna(0.0).mean()), float(last[reached].mean())])
    return {
        "type": "scatter",
        "mode": "lines",
        "meta": g.number,
        "name": f"generation {g.number}, mean in the late window",
        "x": x,
        "y": y,
        "line": {"color": colour, "width": 4},
        "hovertemplate": f"generation {g.number}: mean of {len(reached)} replicas that did not fail"
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
    """Mean and its 95 % interval by Student's t; the ends are NaN for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return mean, mean - half, mean + half


def _by_temperature(report: SystemReport) -> Figure:
    """Late λ of each replica against its thermostat's temperature, and the means."""
    colours, data, summary = colours_of(report), [], []
    kelvin = sorted({end.temperature_K for g in report.generations for end in g.replicas})
    gap = min(np.diff(kelvin), default=100.0) * 0.6 / len(report.generations)
    for place, g in enumerate(report.generations):
        shift = (place - (len(report.generations) - 1) / 2) * gap
        means = _mean_rates(g, kelvin)
        summary += [
            f"generation {g.number} at {mean[0]:g} K: {number_text(mean[2])}" for mean in means
        ]
        data += [
            _rate_dots(g, shift, colours[g.number]),
            _mean_diamonds(g, means, shift, colours[g.number]),
        ]
    room = max(gap * len(report.generations), 50.0)
    return Figure(
        id="rate-temperature",
        title="λ by temperature",
        caption=f"λ, {fraction_words(report)}, in the late window. A dot is a replica that "
        "reached the end, a diamond the mean of these replicas with its 95 % interval (Student's "
        "t). Generations stand side by side at each temperature.",
        alt=f"λ against temperature; mean of {'; '.join(summary) or 'no replica: all failed'}.",
        data=data,
        x=titled(
            "temperature of the thermostat, K",
            range=[kelvin[0] - room, kelvin[-1] + room],
            tickvals=kelvin,
            ticktext=[f"{each:g}" for each in kelvin],
        ),
        y=titled("λ in the late window", rangemode="tozero"),
    )


def _mean_rates(
    g: Generation, kelvin: Sequence[float]
) -> list[tuple[float, int, float, float, float]]:
    """Temperature, number of replicas, mean of their late λ, and the ends of its interval."""
    temperatures = {end.replica: end.temperature_K for end in g.replicas}
    means = []
    for temperature in kelvin:
        rates = [rate for r, rate in g.late_rates().items() if temperatures[r] == temperature]
        if rates:
            means.append((temperature, len(rates), *mean_interval(np.array(rates))))
    return means


def _rate_dots(g: Generation, shift: float, colour: str) -> Trace:
    rates = g.late_rates()
    temperatures = {end.replica: end.temperature_K for end in g.replicas}
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": g.number,
        "name": f"generation {g.number}, replicas",
        "x": rounded(temperatures[replica] + shift for replica in rates),
        "y": rounded(rates.values()),
        "customdata": [[replica, temperatures[replica]] for replica in rates],
        "marker": {"size": 5, "color": colour, "opacity": 0.5},
        "hovertemplate": f"generation {g.number}, replica %{{customdata[0]}}, "
        "%{customdata[1]:.4g} K<br>λ = %{y:.3g}<extra></extra>",
    }


def _mean_diamonds(
    g: Generation,
    means: Sequence[tuple[float, int, float, float, float]],
    shift: float,
    colour: str,
) -> Trace:
    """Diamonds with their intervals; λ is a fraction, so that no interval goes below zero."""
    lows = [max(0.0, low) for _, _, _, low, _ in means]
    return {
        "type": "scatter",
        "mode": "markers",
        "meta": g.number,
        "name": f"generation {g.number}, mean",
        "x": rounded(temperature + shift for temperature, *_ in means),
        "y": rounded(mean for _, _, mean, _, _ in means),
        "customdata": [
            [temperature, replicas, number_text(low), number_text(high)]
            for (temperature, replicas, _, _, high), low in zip(means, lows, strict=True)
        ],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": rounded(high - mean for _, _, mean, _, high in means),
            "arrayminus": rounded(
                mean - low for (_, _, mean, _, _), low in zip(means, lows, strict=True)
            ),
            "color": colour,
        },
        "marker": {"size": 11, "symbol": "diamond", "color": colour},
        "hovertemplate": f"generation {g.number}, %{{customdata[0]:.4g}} K: mean of "
        "%{customdata[1]} replicas<br>λ = %{y:.3g} (95 %: %{customdata[2]} to "
        "%{customdata[3]})<extra></extra>",
    }


def _excursion_rates(report: SystemReport) -> Figure:
    """The rate that the verdict rests on, its bound, and the limit."""
    colours, summary, data = colours_of(report), [], []
    level = per_cent(report.last.saturation.confidence)
    limit = report.last.saturation.rate_limit_per_atom_ps
    for g in report.generations:
        rate, bound = g.saturation.rate_per_atom_ps, g.saturation.rate_bound_per_atom_ps
        summary.append(f"generation {g.number}: {number_text(rate)}, bound {number_text(bound)}")
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
        caption=f"Excursions out of the label domain per atom and ps, in the late window. The bar "
        f"ends at their exact one-sided {level} bound. A generation is saturated if no replica "
        f"failed and the bound is below the dashed line, {limit:g}/ps. Nothing is drawn for a "
        "generation whose replicas all failed.",
        alt=f"Excursion rate per generation against the limit {limit:g}/ps; {'; '.join(summary)}.",
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
