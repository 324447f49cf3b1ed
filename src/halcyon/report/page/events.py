"""Events of the late window on the page: their rate and the unreliable fraction, with their bounds.

Not for: Λ of replicas (`instability`), or the sentences and tables about events
(`report.calm_words`).
"""

from html import escape

import numpy as np

from halcyon.report import SystemReport
from halcyon.report.page.axes import Figure, colours_of, goal_line, room, rounded, titled
from halcyon.wording import number_text, per_cent

QUANTITIES = {
    "events": ("events_per_ns", "events_bound_per_ns", "events_limit_per_ns", 1.0),
    "unreliable": ("unreliable_fraction", "unreliable_bound", "unreliable_limit", 100.0),
}
"""Keys of value, bound and limit in the verdict, and the factor to the unit that is drawn."""


def figures(report: SystemReport) -> list[Figure]:
    """Rate of events and unreliable fraction; empty where no generation counted events."""
    if not any(g.saturation.parts for g in report.generations):
        return []
    level = per_cent(report.last.saturation.confidence)
    tolerance = f"{report.tolerance_eV_per_A:g} eV/Å"
    return [
        _figure(
            report,
            "events",
            title="Events: what the verdict rests on",
            caption="An event is a time during which the force on some atom of a replica is "
            f"expected to be wrong by more than {tolerance}; what soon follows belongs to it.",
            axis=f"events per ns and {report.last.saturation.per}",
            level=level,
        ),
        _figure(
            report,
            "unreliable",
            title="Unreliable predictions",
            caption="Share of the forces in the late window that are expected to be wrong by more "
            f"than {tolerance}.",
            axis="unreliable predictions, %",
            level=level,
        ),
    ]


def _figure(
    report: SystemReport, name: str, *, title: str, caption: str, axis: str, level: str
) -> Figure:
    """A point for each structure and temperature, by generation, up to its bound; and the limit."""
    value_key, bound_key, limit_key, factor = QUANTITIES[name]
    colours, data, summary, highs = colours_of(report), [], [], []
    limit = getattr(report.last.saturation, limit_key)
    unit = "%" if name == "unreliable" else axis
    for g in report.generations:
        parts = [p for p in g.saturation.parts if getattr(p, bound_key) is not None]
        if not parts:
            continue
        values = [factor * (getattr(part, value_key) or 0.0) for part in parts]
        bounds = [factor * getattr(part, bound_key) for part in parts]
        highs += bounds
        summary += [
            f"generation {g.number}, {part.structure} at {part.temperature_K:g} K: "
            f"{number_text(value)}, bound {number_text(bound)}"
            for part, value, bound in zip(parts, values, bounds, strict=True)
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": g.number,
                "name": f"generation {g.number}",
                "x": rounded(g.number + np.linspace(-1, 1, len(parts) + 2)[1:-1] * 0.4),
                "y": rounded(values),
                "text": [
                    escape(
                        f"generation {g.number}, {part.structure} at {part.temperature_K:g} K, "
                        f"{part.events} events in {part.window_ps:.4g} ps"
                    )
                    for part in parts
                ],
                "customdata": [number_text(bound) for bound in bounds],
                "error_y": {
                    "type": "data",
                    "symmetric": False,
                    "array": rounded(max(0.0, b - v) for v, b in zip(values, bounds, strict=True)),
                    "arrayminus": [0] * len(parts),
                    "color": colours[g.number],
                    "thickness": 2,
                },
                "marker": {"size": 10, "color": colours[g.number]},
                "cliponaxis": False,
                "hovertemplate": "%{text}<br>%{y:.3g}, bound %{customdata}<extra></extra>",
            }
        )
    ends = (
        f" Bars end at the one-sided bound ({level} over the whole campaign); the dashed line is "
        f"the limit, {factor * limit:g} {unit}. A point for each structure and temperature: the "
        "worst decides."
    )
    return Figure(
        id=name,
        title=title,
        caption=caption + ends,
        alt=f"{axis} by generation against the limit {factor * limit:g}; {'; '.join(summary)}.",
        data=data,
        x=titled("generation", dtick=1, range=[-0.6, report.last.number + 0.6]),
        y=titled(axis, **room([*highs, factor * limit])),
        layout={"shapes": [goal_line(factor * limit)]},
    )
