"""What became of candidates and labels, and what it all cost.

Not for: keeping the books (`halcyon.campaign.accounts`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from halcyon.report import SystemReport, label_costs
from halcyon.report.page.axes import NEUTRAL, Figure, Trace, gradient, rounded, titled


def figures(report: SystemReport) -> list[Figure]:
    """Fates of candidates, and outcomes of label calculations."""
    fates = list(dict.fromkeys(["selected", *(f for g in report.generations for f in g.fates)]))
    by_generation = {f"gen{g.number:03d}": g.fates for g in report.generations}
    outcomes = {
        batch: Counter(info["status"] for info in infos)
        for batch, infos in report.label_infos.items()
    }
    statuses = list(dict.fromkeys(["ok", *(s for counts in outcomes.values() for s in counts)]))
    return [
        Figure(
            id="fates",
            title="Fate of the candidates",
            caption="Candidates are frames outside the label domain, or shortly before a failure.",
            alt="Candidates per generation by what became of them; the numbers stand in the table "
            "below.",
            data=_stacked(by_generation, fates),
            key=_colours(fates),
            x=titled("candidates"),
            y=_batches(list(by_generation)),
            layout={"barmode": "stack"},
        ),
        Figure(
            id="outcomes",
            title="Outcome of label calculations",
            caption="Frames without a label count towards the budget and are never trained on.",
            alt="Label calculations per batch by status; "
            + "; ".join(
                f"{batch}: {', '.join(f'{n} {status}' for status, n in counts.items()) or 'none'}"
                for batch, counts in outcomes.items()
            )
            + ".",
            data=_stacked(outcomes, statuses),
            key=_colours(statuses),
            x=titled("calculations"),
            y=_batches(list(outcomes)),
            layout={"barmode": "stack"},
        ),
    ]


def cost_figures(report: SystemReport) -> list[Figure]:
    """Core time by stage, and of label calculations by batch."""
    minutes = [stage.core_seconds / 60 for stage in report.stages]
    costs = label_costs(report.label_infos)
    return [
        Figure(
            id="stages",
            title="Core time by stage",
            caption="Wall time times cores, repeated jobs included.",
            alt="Core time in minutes: "
            + "; ".join(
                f"{stage.stage} {spent:.3g}"
                for stage, spent in zip(report.stages, minutes, strict=True)
            )
            + ".",
            data=[
                _bar(
                    "core time", [s.stage for s in report.stages], rounded(minutes), NEUTRAL, "min"
                )
            ],
            x=titled("core time, min"),
            y=_batches([s.stage for s in report.stages]),
        ),
        Figure(
            id="label-costs",
            title="Core time of label calculations",
            caption="By batch, whoever paid: a label that the store knew already is counted with "
            "what it cost then.",
            alt="Core time of label calculations in minutes: "
            + "; ".join(f"{c.batch} {c.core_seconds / 60:.3g}" for c in costs)
            + ".",
            data=[
                _bar(
                    "core time",
                    [c.batch for c in costs],
                    rounded(c.core_seconds / 60 for c in costs),
                    NEUTRAL,
                    "min",
                )
            ],
            x=titled("core time, min"),
            y=_batches([c.batch for c in costs]),
        ),
    ]


def _stacked(counts: Mapping[str, Mapping[str, int]], kinds: Sequence[str]) -> list[Trace]:
    return [
        _bar(kind, list(counts), [each.get(kind, 0) for each in counts.values()], colour, kind)
        for kind, colour in _colours(kinds).items()
    ]


def _colours(kinds: Sequence[str]) -> dict[str, str]:
    return {kind: gradient(place, len(kinds)) for place, kind in enumerate(kinds)}


def _bar(name: str, y: list[str], x: Sequence[float | None], colour: str, unit: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": y,
        "x": list(x),
        "marker": {"color": colour},
        "hovertemplate": f"%{{y}}: %{{x:.4g}} {unit}<extra></extra>",
    }


def _batches(names: list[str]) -> dict[str, object]:
    """A category axis, from top to bottom."""
    return {"type": "category", "categoryorder": "array", "categoryarray": names[::-1]}
