"""Results of an exam as tables of words.

    from exams.tables import show

    show(summarised(exam, cells, of=len(grid(exam))), Console())

Not for: the numbers (see `results`).
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def text_of(interval: Mapping[str, Any] | None) -> str:
    """E.g. `12.3 (11.8–12.9)`; without an interval `12.3 (one replica)`."""
    if interval is None or interval["value"] is None:
        return "–"
    if interval["low"] is None:
        return f"{interval['value']:.3g} (no interval)"
    return f"{interval['value']:.3g} ({interval['low']:.3g} to {interval['high']:.3g})"


def table_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of results, its headings first."""
    rows = [["quantity", "unit", "of", "value (95 %)", "minus the reference's (95 %)", "replicas"]]
    for line in found["table"]:
        for number, (arm, interval) in enumerate(line["arms"].items()):
            rows.append(
                [
                    "" if number else line["quantity"],
                    "" if number else line["unit"],
                    arm,
                    text_of(interval),
                    text_of(line["minus_reference"].get(arm)),
                    str(interval["parts"]),
                ]
            )
    return rows


def run_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """What was simulated, what failed, and what it cost, headings first."""
    rows = [["dynamics of", "replicas", "ps", "of ps asked", "failed", "failures per ns, at most"]]
    rows[0] += ["unphysical molecules", "core-hours", "single points of the reference"]
    for run in found["dynamics"]:
        bound = run["failures_per_ns_bound"]
        rows.append(
            [
                f"{run['arm']}: {run['structure']}, {run['ensemble']}",
                f"{run['replicas']} of {run['asked_replicas']}",
                f"{run['ps']:.4g}",
                f"{run['asked_ps']:.4g}",
                str(len(run["failures"])),
                "–" if bound is None else f"{bound:.3g}",
                ", ".join(f"{n} {formula}" for formula, n in run["unphysical"].items()) or "none",
                f"{run['core_hours']:.3g}",
                "–" if run["evaluations"] is None else str(run["evaluations"]),
            ]
        )
    return rows


def campaign_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """How campaigns ended, and what they cost, headings first."""
    headings = ["campaign", "decision", "generations", "labels", "core-hours: labels", "all"]
    return [[*headings, "certificate"]] + [
        [
            cell["variant"] or "whole",
            str(cell["decision"]),
            str(cell["generations"]),
            str(cell["labels"]),
            f"{cell['core_hours']['labels']:.3g}",
            f"{cell['core_hours']['all']:.3g}",
            cell["certificate"]["sentence"] if cell["certificate"] else "none",
        ]
        for cell in found["campaigns"]
    ]


def show(found: Mapping[str, Any], console: Console) -> None:
    """Print all tables."""
    console.print(f"{found['exam']}: {found['cells']['done']} of {found['cells']['all']} cells")
    for rows in (campaign_rows(found), run_rows(found), table_rows(found)):
        if len(rows) > 1:
            printed = Table()
            for heading in rows[0]:
                printed.add_column(heading)
            for row in rows[1:]:
                printed.add_row(*row)
            console.print(printed)
