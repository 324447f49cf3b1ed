"""The page a person looks at: one self-contained HTML file per system.

    files.write_text("report.html", render(collect(campaign, "ethanol", verdicts)))

It loads nothing, and a content security policy in it forbids to.

Not for: finding the numbers (`report`).
"""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import yaml

import halcyon
from halcyon import config, stability
from halcyon.domain import Domain
from halcyon.figures import figures, legend, other_signals
from halcyon.report import (
    Generation,
    StageTime,
    SystemReport,
    columns_of,
    coverage_sentence,
    number_text,
    verdict_sentence,
)
from halcyon.saturation import Decision
from halcyon.stage import duration

TEMPLATE = Path(__file__).parents[2] / "workflow/report/report.html.jinja"
MAX_MESSAGES = 200
"""Frames without a label that are listed one by one."""
PACKAGES = (
    "mace-torch",
    "torch",
    "torch-sim-atomistic",
    "openmm",
    "tblite",
    "rdkit",
    "ase",
    "numpy",
    "scipy",
    "snakemake",
    "plotly",
)


def render(report: SystemReport) -> str:
    """The page: HTML that needs nothing else."""
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    columns, last = columns_of(report), report.last
    runs = {g.number: g.run for g in report.generations}
    counted = {number: runs[number] for number in last.critical_cli["generations"]}
    tone = {Decision.SATURATED: "calm", Decision.CONTINUE: "open"}.get(
        report.last.decision, "restless"
    )
    return environment.get_template(TEMPLATE.name).render(
        report=report,
        made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        verdict=verdict_sentence(report),
        coverage=coverage_sentence(report),
        tone=tone,
        summary=[[c.heading for c in columns]]
        + [[c.cell(g) for c in columns] for g in report.generations],
        figures=figures(report),
        colours=legend(report),
        signals=other_signals(report),
        failure_rate=stability.rate_text(last.failures),
        critical=stability.critical_text(last.critical_cli["label"], "label"),
        overlap=stability.overlap_text(
            [e for run in counted.values() for e in run.endings("label")]
        ),
        survival=stability.survival_rows(
            runs,
            {g.number: g.failures for g in report.generations},
            horizon_ps=report.plan.settings.exploration.time_ps,
        ),
        critical_rows=stability.critical_rows(
            counted,
            last.critical_cli,
        ),
        replicas=_replica_rows(last),
        teacher=_teacher_rows(report.teacher),
        fates=_fate_rows(report.generations),
        quarantined=report.quarantined[:MAX_MESSAGES],
        margins=_margin_rows(report.generations),
        classes=_class_rows(report.last.domain),
        times=_time_rows(report.stages),
        provenance=_provenance(report),
        level=yaml.safe_dump(report.level, sort_keys=False, allow_unicode=True),
        plotly=get_plotlyjs(),
    )


def _replica_rows(generation: Generation) -> list[list[str]]:
    heading = [
        "Replica",
        "Structure",
        "Temperature, K",
        "Simulated time, ps",
        "Λ, ps",
        "Largest atomic Λ, ps",
        "Guard Λ, ps",
        "Excursions",
        "Began",
        "Failure",
    ]
    columns = ("cli_label", "cli_label_max", "cli_guard", "excursions_label")
    final = {column: generation.final(column) for column in columns}
    return [heading] + [
        [
            str(entry["replica"]),
            entry["structure"],
            f"{entry['temperature_K']:g}",
            f"{entry['time_ps']:.4g}",
            *(number_text(final[column].get(entry["replica"])) for column in columns),
            f"took the place of a failed one at {entry['began_ps']:.4g} ps"
            if stability.replaced(entry)
            else "with the run",
            entry["failure"] or "none",
        ]
        for entry in generation.replicas
    ]


def _teacher_rows(teacher: dict[str, dict[str, int]]) -> list[list[str]]:
    words = {
        "md": "Kept: molecular dynamics",
        "displaced": "Kept: displaced atoms",
        "stretched": "Kept: stretched bonds",
        "contact": "Kept: close contacts",
        "dissociated": "Kept: bonds pulled apart",
        "force_cap": "Dropped: force above the cap",
        "not_finite": "Dropped: values not finite",
        "duplicate": "Dropped: like an earlier frame",
    }
    counted = {name for counts in teacher.values() for name in counts}
    found = [name for name in words if name in counted] + sorted(counted - words.keys())
    return [["Structure", *(words.get(name, name) for name in found)]] + [
        [structure, *(str(counts.get(name, 0)) for name in found)]
        for structure, counts in teacher.items()
    ]


def _fate_rows(generations: Sequence[Generation]) -> list[list[str]]:
    fates = list(dict.fromkeys(["selected", *(fate for g in generations for fate in g.fates)]))
    return [["Generation", "Candidates", *(fate.capitalize() for fate in fates)]] + [
        [str(g.number), str(g.candidates), *(str(g.fates.get(fate, 0)) for fate in fates)]
        for g in generations
    ]


def _margin_rows(generations: Sequence[Generation]) -> list[list[str]]:
    heading = [
        "Generation",
        "Margin, widths (90 % interval)",
        "Method",
        "Asked exceedance of it",
        "Held-out atomic energies",
        "Test atoms outside, no margin (95 % interval)",
        "Test atoms outside, with margin (95 % interval)",
        "Mean width of label domain, eV",
        "Mean width of guard domain, eV",
    ]
    rows = [heading]
    for g in generations:
        margin, told = g.domain.margin, g.domain.report
        rows.append(
            [
                str(g.number),
                f"{margin.value:.3g} ({margin.low:.3g}–{margin.high:.3g})",
                margin.method,
                f"{margin.alpha:.2g}",
                str(margin.n),
                _exceedance(told["exceedance_bare"]),
                _exceedance(told["exceedance_with_margin"]),
                f"{told['mean_width_label_eV']:.3g}",
                f"{told['mean_width_guard_eV']:.3g}",
            ]
        )
    return rows


def _exceedance(found: dict[str, float]) -> str:
    if not found:
        return "–"
    fraction, low, high = (f"{found[name] * 100:.2f}" for name in ("fraction", "low", "high"))
    return f"{fraction} % ({low}–{high} %)"


def _class_rows(domain: Domain) -> list[list[str]]:
    heading = [
        "Class",
        "Atoms of a frame",
        "Training values",
        "Label domain, eV",
        "its width, eV",
        "Guard domain, eV",
        "its width, eV",
    ]
    atoms = Counter(name for names in domain.classes.values() for name in names)
    values = domain.report["training_frames_values"]
    rows = [heading]
    for name, (low, high) in domain.label.items():
        least, most = domain.guard[name]
        rows.append(
            [
                name,
                str(atoms[name] or "–"),  # environments change from frame to frame
                str(values.get(name, "–")),
                f"{low:.3f} to {high:.3f}",
                f"{high - low:.3f}",
                f"{least:.3f} to {most:.3f}",
                f"{most - least:.3f}",
            ]
        )
    return rows


def _time_rows(stages: Sequence[StageTime]) -> list[list[str]]:
    total = StageTime(
        stage="all",
        runs=sum(s.runs for s in stages),
        seconds=sum(s.seconds for s in stages),
        core_seconds=sum(s.core_seconds for s in stages),
    )
    return [["Stage", "Jobs", "Wall time", "Core time", "Share of core time"]] + [
        [
            s.stage,
            str(s.runs),
            duration(s.seconds),
            duration(s.core_seconds),
            f"{s.core_seconds / (total.core_seconds or 1) * 100:.0f} %",
        ]
        for s in (*stages, total)
    ]


def _forcefield(settings: config.ForceFieldSettings) -> str:
    """Kind, files and charges of the teacher's force field."""
    said = [settings.kind, *(str(path) for path in settings.paths)]
    if isinstance(settings, config.Gaff2ForceField):
        said.append(f"charges {settings.charges}")
    return ", ".join(said)


def _source(structure: config.StructureSettings) -> str:
    """What a structure is made from."""
    packed = " + ".join(f"{count} {name}" for name, count in structure.pack.items())
    return str(structure.smiles or structure.file or packed)


def _provenance(report: SystemReport) -> dict[str, str]:
    said = [
        f"{k} {v}"
        for k, v in report.level.items()
        if k != "hash" and isinstance(v, str | int | float)
    ]
    return {
        "Level of theory": "; ".join([*said, f"hash {report.level['hash'] or 'unknown'}"]),
        "Model": f"{report.model}, SHA-256 {report.model_hash or 'unknown: the file is missing'}",
        "Force field": _forcefield(report.plan.system.forcefield),
        "Structures": "; ".join(
            f"{s.name}: {_source(s)}, charge {s.charge:+d} e, multiplicity {s.multiplicity}"
            for s in report.plan.system.structures
        ),
        "Seed": str(report.seed),
        "Versions where this page was made": ", ".join(
            [
                f"Halcyon {halcyon.__version__}",
                f"Python {platform.python_version()}",
                *(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
            ]
        ),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
