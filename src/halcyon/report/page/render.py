"""The page is put together: figures, tables and sentences go into the templates.

Not for: its content (the other modules here), or how it looks (`workflow/report/page`).
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml

from halcyon.final.certificate import Conclusion
from halcyon.report import (
    SystemReport,
    audit_words,
    calm_words,
    certificate_sentence,
    columns_of,
    coverage_sentence,
    label_costs,
    melting_words,
    next_step,
    reaction_words,
    survival_words,
    verdict_sentence,
)
from halcyon.report.page import (
    audit,
    certified,
    costs,
    fates,
    imported,
    instability,
    learning,
    lifetimes,
    molecules,
    tables,
    transfer,
    walls,
)
from halcyon.report.page.axes import Figure, colours_of
from halcyon.report.page.provenance import provenance
from halcyon.verdict.forms import Decision
from halcyon.verdict.words import rate_text

TEMPLATES = Path(__file__).parents[4] / "workflow/report/page"
MAX_MESSAGES = 200
"""Frames without a label that are listed one by one."""


def page_environment() -> jinja2.Environment:
    """The templates of pages, in which nothing is missing and no number is left out."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment


def render(report: SystemReport) -> str:
    """The page as HTML that needs no other file."""
    from plotly.offline import get_plotlyjs

    environment = page_environment()
    shown = _figures(report)
    tone = {Decision.SATURATED: "calm", Decision.CONTINUE: "open"}.get(
        report.last.decision, "restless"
    )
    if report.certificate and report.certificate.conclusion != Conclusion.STABLE:
        tone = "restless"
    return environment.get_template("page.html.jinja").render(
        report=report,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        verdict=verdict_sentence(report),
        coverage=coverage_sentence(report),
        next_step=next_step(report),
        certificate=certificate_sentence(report),
        tone=tone,
        shown=shown,
        figures={f.id: f.plotly() for group in shown.values() for f in group},
        colours=colours_of(report),
        molecules=molecules.scenes(report),
        tables=_tables(report),
        right=audit_words.audit_text(report),
        seeing=audit_words.signal_text(report),
        calm=calm_words.calm_text(report),
        reactions=reaction_words.reaction_text(report.last),
        order=melting_words.order_text(report.last),
        fraction=instability.fraction_words(report),
        quarantined=report.quarantined[:MAX_MESSAGES],
        provenance=provenance(report),
        level=yaml.safe_dump(report.level, sort_keys=False, allow_unicode=True),
        plotly=get_plotlyjs(),
        viewer=(TEMPLATES / "vendor/3Dmol-min.js").read_text(encoding="utf-8"),
        **_survival(report),
    )


def _figures(report: SystemReport) -> dict[str, list[Figure]]:
    """Figures by the section that shows them."""
    return {
        "audit": audit.figures(report),
        "instability": instability.figures(report),
        "signals": instability.other_figures(report),
        "survival": lifetimes.figures(report),
        "certificate": certified.figures(report),
        "learning": learning.learning_figures(report),
        "parity": learning.parity_figures(report),
        "training": learning.training_figures(report),
        "walls": walls.figures(report),
        "labels": fates.figures(report),
        "costs": costs.figures(report),
        "teacher": transfer.teacher_figures(report),
        "drift": transfer.drift_figures(report),
    }


def _tables(report: SystemReport) -> dict[str, list[list[str]]]:
    """Tables by their ids; those about survival are made by `_survival`."""
    columns = columns_of(report)
    return {
        "summary": [[c.heading for c in columns]]
        + [[c.cell(g) for c in columns] for g in report.generations],
        "audit-table": audit_words.audit_rows([report.last]),
        "audit-all": audit_words.audit_rows(report.generations),
        "signals-table": audit_words.signal_rows([report.last]),
        "signals-all": audit_words.signal_rows(report.generations),
        "calm-table": calm_words.calm_rows([report.last]),
        "calm-all": calm_words.calm_rows(report.generations),
        "products": reaction_words.product_rows(report.last),
        "order": melting_words.order_rows(report.last),
        "replicas": tables.replica_rows(report.last),
        "errors": tables.error_rows(report),
        "fates-table": tables.fate_rows(report.generations),
        "times": tables.time_rows(report.stages),
        "label-times": tables.cost_rows(label_costs(report.label_infos)),
        "teacher": tables.teacher_rows(report.teacher),
        "drift": tables.drift_rows(report.last),
        "walls-table": walls.scan_rows(report.last),
        "walls-all": walls.generation_rows(report),
        "certificate": certified.rows(report.certificate) if report.certificate else [],
        "margins": tables.margin_rows(report.generations),
        "expected": tables.expected_rows(report.last.domain),
        "classes": tables.class_rows(report.last.domain),
        **_imported(report),
    }


def _imported(report: SystemReport) -> dict[str, list[list[str]]]:
    """Tables about labels that it started from; none where there are none."""
    if report.imported is None:
        return {}
    rows = {"imported-frames": imported.frame_rows(report.imported)}
    if report.imported.agreement is not None:
        rows["imported-agreement"] = imported.agreement_rows(report.imported.agreement)
    return rows


def _survival(report: SystemReport) -> dict[str, Any]:
    last, runs = report.last, {g.number: g.run for g in report.generations}
    counted = {number: runs[number] for number in last.critical_cli.generations}
    tier = report.deciding if last.critical_cli.of(report.deciding) else "label"
    return {
        "failure_rate": rate_text(last.failures),
        "critical": survival_words.critical_text(
            last.critical_cli.of(tier) or last.critical_cli.label, tier
        ),
        "overlap": survival_words.overlap_text(
            [e for run in counted.values() for e in run.endings(tier)]
        ),
        "survival": survival_words.survival_rows(
            runs,
            {g.number: g.failures for g in report.generations},
            horizon_ps=report.longest_ps,
        ),
        "critical_rows": survival_words.critical_rows(counted, last.critical_cli),
    }
