"""How long replicas run before they fail, per generation, as Kaplan–Meier curves.

Not for: the estimators (`halcyon.verdict.survival`), or their tables (`halcyon.verdict.runs`).
"""

import numpy as np

from halcyon.report import Generation, SystemReport
from halcyon.report.page.axes import Figure, Trace, colours_of, faint, rounded, titled
from halcyon.verdict import survival
from halcyon.wording import per_cent


def figures(report: SystemReport) -> list[Figure]:
    """Fraction of replicas that have not failed against time, with its band."""
    colours, data = colours_of(report), []
    for g in report.generations:
        data += _curve(g, colours[g.number])
    longest = max(entry.time_ps for g in report.generations for entry in g.replicas)
    summary = "; ".join(
        f"generation {g.number}: {sum(e.failure is None for e in g.replicas)} of "
        f"{len(g.replicas)} replicas reached the end"
        for g in report.generations
    )
    return [
        Figure(
            id="survival",
            title="Fraction of replicas that have not failed",
            caption="Kaplan–Meier estimate for each generation, with its pointwise "
            f"{per_cent(report.last.failures.confidence)} band; a tick is a replica that ended "
            "without failing. Where no replica has failed, the band has no width, which does not "
            "mean certainty: see the bound of the failure rate in the text.",
            alt=f"Fraction of replicas that have not failed against simulated time; {summary}.",
            data=data,
            x=titled("simulated time of a replica, ps", range=[0, longest * 1.02]),
            y=titled("replicas that have not failed", range=[0, 1.04], tickformat=".0%"),
        )
    ]


def _curve(g: Generation, colour: str) -> list[Trace]:
    ends = g.run.endings(g.deciding)
    times = [end.time_ps for end in ends]
    curve = survival.kaplan_meier(
        times, [end.failed for end in ends], confidence=g.failures.confidence
    )
    x = [0.0, *rounded(curve.at_ps)]
    running = [1.0, *rounded(curve.survival)]
    low, high = [1.0, *rounded(curve.low)], [1.0, *rounded(curve.high)]
    stopped = sorted({end.time_ps for end in ends if not end.failed})
    heights = curve.survival[np.searchsorted(curve.at_ps, stopped)]
    line = {"color": colour, "shape": "hv"}
    shared = {"type": "scatter", "meta": g.number, "name": f"generation {g.number}"}
    edge = shared | {"mode": "lines", "x": x, "hoverinfo": "skip", "line": line | {"width": 0}}
    return [
        edge | {"name": f"generation {g.number}, low", "y": low},
        edge
        | {
            "name": f"generation {g.number}, high",
            "y": high,
            "fill": "tonexty",
            "fillcolor": faint(colour, 0.13),
        },
        shared
        | {
            "mode": "lines",
            "x": x,
            "y": running,
            "customdata": list(zip(low, high, [len(ends), *curve.at_risk.tolist()], strict=True)),
            "line": line | {"width": 2},
            "hovertemplate": f"generation {g.number}, from %{{x:.4g}} ps on: %{{y:.0%}} have not "
            "failed<br>%{customdata[0]:.0%} to %{customdata[1]:.0%}; %{customdata[2]} replicas ran "
            "until then<extra></extra>",
        },
        shared
        | {
            "name": f"generation {g.number}, stopped",
            "mode": "markers",
            "x": rounded(stopped),
            "y": rounded(heights),
            "marker": {
                "symbol": "line-ns-open",
                "size": 9,
                "color": colour,
                "line": {"width": 1.6},
            },
            "hoverinfo": "skip",
        },
    ]
