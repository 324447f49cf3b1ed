"""What became of candidate frames and of label calculations.

Not for: what they cost (`costs`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from halcyon.report import SystemReport
from halcyon.report.page.axes import Figure, Trace, bar, categories, gradient, titled


def figures(report: SystemReport) -> list[Figure]:
    """How many candidates had which fate, and how many label calculations which outcome."""
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
            title="What became of the candidates",
            caption="Candidates are the frames that the exploration proposed for labelling: frames "
            f"{_proposed(report)}, or shortly before a failure.",
            alt="Candidates per generation by what became of them; the table below has the "
            "numbers.",
            data=_stacked(by_generation, fates),
            key=_colours(fates),
            x=titled("candidates"),
            y=categories(list(by_generation)),
            layout={"barmode": "stack"},
        ),
        Figure(
            id="outcomes",
            title="Outcome of label calculations",
            caption="How label calculations ended, by batch: the seed, then each generation's "
            "frames. Frames without a label count towards the budget and are never trained on.",
            alt="Label calculations per batch by status; "
            + "; ".join(
                f"{batch}: {', '.join(f'{n} {status}' for status, n in counts.items()) or 'none'}"
                for batch, counts in outcomes.items()
            )
            + ".",
            data=_stacked(outcomes, statuses),
            key=_colours(statuses),
            x=titled("calculations"),
            y=categories(list(outcomes)),
            layout={"barmode": "stack"},
        ),
    ]


def _proposed(report: SystemReport) -> str:
    if report.deciding == "error":
        return "on which the force of some atom is expected to be worse than the tolerance"
    return "outside the label domain"


def _stacked(counts: Mapping[str, Mapping[str, int]], outcomes: Sequence[str]) -> list[Trace]:
    """A bar for each outcome, one behind the other."""
    return [
        bar(name, list(counts), [each.get(name, 0) for each in counts.values()], colour, name)
        for name, colour in _colours(outcomes).items()
    ]


def _colours(outcomes: Sequence[str]) -> dict[str, str]:
    return {name: gradient(place, len(outcomes)) for place, name in enumerate(outcomes)}
