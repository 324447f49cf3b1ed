"""The campaign as a table, a row per generation: in the terminal, and at the top of the page.

    from rich.console import Console
    from halcyon.report import collect, summary_table

    Console().print(summary_table(collect(campaign, "ethanol", verdicts)))

Not for: the page's other tables (`halcyon.report.page.tables`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from rich import box
from rich.table import Table

from halcyon.report.contents import Generation, SystemReport
from halcyon.wording import number_text, per_cent


@dataclass(frozen=True)
class Column:
    """A column of the summary: heading in the terminal and on the page, and a cell's text."""

    short: str
    heading: str
    cell: Callable[[Generation], str]


def columns_of(report: SystemReport) -> list[Column]:
    """The summary's columns."""
    audited = any(g.audit for g in report.generations)
    return [
        Column("gen", "Generation", lambda g: str(g.number)),
        Column(
            "labels\nt/v/test",
            "Labels learned: training / validation / test",
            lambda g: "/".join(str(g.learned[name]) for name in ("train", "validation", "test")),
        ),
        Column("spent", "Labels spent / budget", lambda g: f"{g.spent}/{g.budget}"),
        Column(
            "no\nlabel",
            "Frames without label",
            lambda g: ", ".join(f"{n}\xa0{status}" for status, n in g.unlabelled.items()) or "0",
        ),
        Column("F test\nmeV/Å", "Test force MAE, meV/Å", lambda g: f"{g.forces_mae:.1f}"),
        Column("E test\nmeV/at", "Test energy MAE, meV/atom", lambda g: f"{g.energy_mae:.2f}"),
        *(
            [Column("F audit\nmeV/Å", "Audit force MAE (interval), meV/Å", _audit_error)]
            if audited
            else []
        ),
        Column(
            "failed",
            "Replicas failed / all",
            lambda g: f"{g.saturation.failed}/{g.saturation.replicas}",
        ),
        Column(
            "Λ\nps",
            "Mean Λ at the end, ps",
            lambda g: number_text(g.final(f"cli_{g.deciding}").mean()),
        ),
        *(
            []  # the table has no room for more
            if audited
            else [
                Column(
                    "max Λ\nps",
                    "Largest atomic Λ, ps",
                    lambda g: number_text(g.final(f"cli_{g.deciding}_max").max()),
                )
            ]
        ),
        Column(
            "late\nλ",
            "λ, late window",
            lambda g: number_text(g.late_rate(), digits=2),
        ),
        *_rate_columns(report),
        Column("decision", "Decision", lambda g: g.decision.replace("_", " ")),
    ]


def _audit_error(g: Generation) -> str:
    """Mean error and its interval, of the structure and temperature whose upper end is greatest."""
    measured = g.audit.worst("judged_forces_mae") if g.audit else None
    if measured is None:
        return "–"
    _, error = measured
    return f"{error.value:.3g} ({error.low:.3g}–{error.high:.3g})"


def _rate_columns(report: SystemReport) -> list[Column]:
    """What the verdict rests on: events, or excursions in campaigns of early releases."""
    confidence = per_cent(report.last.saturation.confidence)
    if not any(g.saturation.parts for g in report.generations):
        return [
            Column(
                "rate\n1/ps",
                "Excursions per atom, 1/ps",
                lambda g: number_text(g.saturation.rate_per_atom_ps),
            ),
            Column(
                "bound\n1/ps",
                f"{confidence} bound of excursions per atom, 1/ps",
                lambda g: number_text(g.saturation.rate_bound_per_atom_ps),
            ),
        ]
    return [
        Column(
            "events\n1/ns",
            f"Events per ns and {report.last.saturation.per}",
            lambda g: number_text(g.saturation.greatest("events_per_ns")),
        ),
        Column(
            "bound\n1/ns",
            f"{confidence} bound of events per ns and {report.last.saturation.per}",
            lambda g: number_text(g.saturation.greatest("events_bound_per_ns")),
        ),
    ]


def summary_table(report: SystemReport) -> Table:
    """The summary for a terminal of 100 columns, one row per generation."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, min_width=96)
    columns = columns_of(report)
    if any(g.audit for g in report.generations):  # else the table is too wide
        columns = [column for column in columns if not column.short.startswith("E test")]
    for column in columns:
        is_text = column.short in ("gen", "decision")
        table.add_column(column.short, justify="left" if is_text else "right", no_wrap=True)
    for generation in report.generations:
        cells = {column.short: column.cell(generation) for column in columns}
        cells["no\nlabel"] = str(sum(generation.unlabelled.values()))
        cells["decision"] = cells["decision"].replace("generations", "gen.")
        table.add_row(*cells.values())
    return table
