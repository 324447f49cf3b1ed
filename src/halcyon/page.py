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
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml

import halcyon
from halcyon import config
from halcyon.domain import Domain
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
MAX_POINTS = 20_000
"""Points drawn in one figure: thinned evenly beyond, so that the page stays small."""
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
COLOURS = (
    (59, 111, 212),
    (20, 150, 165),
    (78, 160, 70),
    (196, 138, 24),
    (212, 84, 56),
    (178, 70, 156),
)
"""Red, green, blue of the generations, from first to last; each reads on white and on black."""
PRETRAINING_COLOUR = "#8a8f98"
PRETRAINING = -1
"""Stands for pre-training where a generation's number is expected."""


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
    columns = columns_of(report)
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
        figures=_figures(report),
        colours=_legend(report),
        replicas=_replica_rows(report.last),
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


def _colour(number: int, of: int) -> str:
    place = number / max(1, of - 1) * (len(COLOURS) - 1)
    red, green, blue = (
        round(np.interp(place, range(len(COLOURS)), channel))
        for channel in zip(*COLOURS, strict=True)
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def _legend(report: SystemReport) -> dict[int, str]:
    """Colour of each generation and, under `PRETRAINING`, of pre-training."""
    of = len(report.generations)
    colours = {g.number: _colour(g.number, of) for g in report.generations}
    if report.pretraining is not None:
        colours[PRETRAINING] = PRETRAINING_COLOUR
    return colours


def _figures(report: SystemReport) -> dict[str, Any]:
    """Plotly figures by the id of their place on the page."""
    return {
        "cli-label": _cli_figure(report, "label"),
        "cli-guard": _cli_figure(report, "guard"),
        "learning": _learning_figure(report),
        "training-forces": _training_figure(
            report, "forces_mae_meV_per_A", "Validation force MAE, meV/Å"
        ),
        "training-energy": _training_figure(
            report, "energy_mae_meV_per_atom", "Validation energy MAE, meV/atom"
        ),
    }


def _figure(
    data: list[dict[str, Any]], x: dict[str, Any], y: dict[str, Any], **layout: Any
) -> dict:
    axis = {
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "automargin": True,
        "exponentformat": "power",
    }
    return {
        "data": data,
        "layout": {
            "xaxis": axis | x,
            "yaxis": axis | y,
            "showlegend": False,
            "hovermode": "closest",
            "margin": {"l": 56, "r": 10, "t": 10, "b": 44},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
        }
        | layout,
    }


def _cli_figure(report: SystemReport, tier: str) -> dict[str, Any]:
    """Λ(t) of every replica; a failure is a cross."""
    curves = sum(len(g.replicas) for g in report.generations)
    points = max(10, MAX_POINTS // max(1, curves))
    colours, data = _legend(report), []
    for g in report.generations:
        x: list[float | None] = []
        y: list[float | None] = []
        number: list[int] = []
        ends: list[tuple[float | None, float | None, str]] = []
        for entry in g.replicas:
            mine = g.traces[g.traces["replica"] == entry["replica"]]
            kept = np.unique(np.linspace(0, len(mine) - 1, min(points, len(mine))).astype(int))
            times = [0.0, *_rounded(mine["time"].iloc[kept])]
            index = [0.0, *_rounded(mine[f"cli_{tier}"].iloc[kept])]
            x += [*times, None]
            y += [*index, None]
            number += [entry["replica"]] * (len(times) + 1)
            if entry["failure"] is not None:
                told = (
                    f"generation {g.number}, replica {entry['replica']} "
                    f"({entry['structure']}, {entry['temperature_K']:g} K): {entry['failure']} "
                    f"at {entry['time_ps']:.4g} ps"
                )
                ends.append((times[-1], index[-1], escape(told)))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "meta": g.number,
                "x": x,
                "y": y,
                "customdata": number,
                "line": {"color": colours[g.number], "width": 1.4},
                "opacity": 0.85,
                "hovertemplate": f"generation {g.number}, replica %{{customdata}}<br>"
                "%{x:.4g} ps: Λ = %{y:.3g} ps<extra></extra>",
            }
        )
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "meta": g.number,
                "x": [end[0] for end in ends],
                "y": [end[1] for end in ends],
                "text": [end[2] for end in ends],
                "marker": {"symbol": "x", "size": 8, "color": colours[g.number]},
                "hovertemplate": "%{text}<br>Λ = %{y:.3g} ps<extra></extra>",
            }
        )
    asked = report.plan.settings.exploration.time_ps
    window = {"x0": report.late_begin_ps, "x1": asked, "y0": 0, "y1": 1}
    return _figure(
        data,
        {"title": {"text": "simulated time, ps"}, "range": [0, asked * 1.02]},
        {"title": {"text": "Λ, mean over atoms, ps"}, "rangemode": "tozero"},
        shapes=[
            window
            | {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "fillcolor": "rgba(128,128,128,0.13)",
                "line": {"width": 0},
                "layer": "below",
            }
        ],
        annotations=[
            {
                "text": "late window",
                "x": asked,
                "y": 1,
                "yref": "paper",
                "xanchor": "right",
                "yanchor": "top",
                "showarrow": False,
            }
        ],
    )


def _rounded(values: pd.Series) -> list[float | None]:
    """Four significant digits: less than a pixel, and half the page's size."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]


def _learning_figure(report: SystemReport) -> dict[str, Any]:
    colours = _legend(report)
    numbers = [g.number for g in report.generations]
    every = -(-len(numbers) // 10)
    return _figure(
        [
            {
                "type": "scatter",
                "mode": "lines+markers+text",
                "x": [g.learned["train"] for g in report.generations],
                "y": [float(f"{g.forces_mae:.4g}") for g in report.generations],
                "text": ["" if number % every else str(number) for number in numbers],
                "customdata": numbers,
                "textposition": "top center",
                "cliponaxis": False,
                "line": {"color": PRETRAINING_COLOUR, "width": 1.2},
                "marker": {"size": 9, "color": [colours[g.number] for g in report.generations]},
                "hovertemplate": "generation %{customdata}: %{x} training labels, %{y:.4g} meV/Å"
                "<extra></extra>",
            }
        ],
        {"title": {"text": "training labels"}, "rangemode": "tozero"},
        {"title": {"text": "Test force MAE, meV/Å"}, "rangemode": "tozero"},
    )


def _training_figure(report: SystemReport, quantity: str, title: str) -> dict[str, Any]:
    """Errors on the validation set, epoch by epoch; a dot marks the weights that were kept."""
    colours = _legend(report)
    curves = [(g.number, g.curve, f"generation {g.number}") for g in report.generations]
    if report.pretraining is not None:
        curves.append((PRETRAINING, report.pretraining, "pre-training"))
    best = {g.number: g.best_epoch for g in report.generations}
    longest = max(entry["epoch"] for _, curve, _ in curves for entry in curve)
    values = [entry[quantity] for _, curve, _ in curves for entry in curve if entry[quantity] > 0]
    decades = np.log10(max(values) / min(values)) if values else 0.0
    data: list[dict[str, Any]] = []
    for number, curve, name in curves:
        sizes = [9 if entry["epoch"] == best.get(number) else 0 for entry in curve]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "meta": number,
                "x": [entry["epoch"] for entry in curve],
                "y": [float(f"{entry[quantity]:.4g}") for entry in curve],
                "line": {
                    "color": colours[number],
                    "width": 1.6,
                    "dash": "dot" if number == PRETRAINING else "solid",
                },
                "marker": {"size": sizes, "opacity": 1, "line": {"width": 0}},
                "hovertemplate": f"{name}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
            }
        )
    return _figure(
        data,
        {"title": {"text": "epoch"}, "rangemode": "tozero"}
        | ({"dtick": 1} if longest <= 10 else {}),
        {"title": {"text": title}, "type": "log"}
        | ({"dtick": "D2", "tickformat": "~g"} if decades > 0.7 else {}),
    )
