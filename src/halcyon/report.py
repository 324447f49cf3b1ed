"""What a person sees at the end: one page per system, and the same numbers in the terminal.

    found = collect(campaign, "ethanol", verdicts)
    print(verdict_sentence(found))
    files.write_text("report.html", render(found))

`collect` reads the files of a system; everything else computes from what it returned. The page is
self-contained: it loads nothing, and a content security policy in it forbids to.

Not for: deciding anything (`saturation`), or certifying a model.
"""

import hashlib
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import yaml
from rich import box
from rich.table import Table

import halcyon
from halcyon import files
from halcyon.campaign import Campaign, SystemPlan
from halcyon.domain import Domain
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.reference.base import Status
from halcyon.saturation import Decision, Finding
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


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One generation as its files tell it.

    Attributes:
        number: from 0.
        decision: of its verdict.
        reason: of its verdict.
        learned: frames in the sets train, validation and test that its model knew.
        spent: label calculations after it, failed ones included.
        budget: labels allowed.
        unlabelled: frames without a label after it, by status.
        forces_mae: on the test set, meV/Å.
        energy_mae: on the test set, meV/atom.
        curve: one entry per epoch: epoch, loss, errors on the validation set.
        best_epoch: the one whose weights were kept.
        replicas: how each replica ended, see `explore`.
        traces: see `explore.TRACE_COLUMNS`.
        saturation: the assessment in its verdict, see `saturation.assess`.
        candidates: number of candidate frames.
        fates: of the candidates, by reason.
        domain: what its model knows.
    """

    number: int
    decision: Decision
    reason: str
    learned: dict[str, int]
    spent: int
    budget: int
    unlabelled: dict[str, int]
    forces_mae: float
    energy_mae: float
    curve: list[dict[str, Any]]
    best_epoch: int
    replicas: list[dict[str, Any]]
    traces: pd.DataFrame
    saturation: dict[str, Any]
    candidates: int
    fates: dict[str, int]
    domain: Domain

    @property
    def simulated_ps(self) -> float:
        """Simulated time of all replicas together, ps."""
        return float(sum(entry["time_ps"] for entry in self.replicas))

    def final(self, column: str) -> pd.Series:
        """Last value of a trace column of each replica."""
        return self.traces.groupby("replica")[column].last()

    def late_rate(self, begin_ps: float) -> float | None:
        """Mean λ = dΛ/dt from `begin_ps` on; None where every replica failed.

        As in the verdict, a failed replica has no late window.
        """
        gained = elapsed = 0.0
        for entry in self.replicas:
            mine = self.traces[self.traces["replica"] == entry["replica"]]
            if entry["failure"] is not None or mine.empty:
                continue
            early = mine[mine["time"] <= begin_ps]
            since, before = (0.0, 0.0) if early.empty else early[["time", "cli_label"]].iloc[-1]
            until, after = mine[["time", "cli_label"]].iloc[-1]
            gained += after - before
            elapsed += until - since
        return float(gained / elapsed) if elapsed > 0 else None


@dataclass(frozen=True, kw_only=True)
class BadFrame:
    """A frame that the reference could not label, and the program's own words."""

    batch: str
    structure: str
    status: str
    message: str


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """What one stage has cost so far, repetitions included."""

    stage: str
    runs: int
    seconds: float
    core_seconds: float


@dataclass(frozen=True, kw_only=True)
class SystemReport:
    """All that is reported about one system.

    Attributes:
        campaign: name.
        system: name.
        plan: the system and its settings.
        generations: in order; at least one.
        teacher: per structure, frames kept and dropped, see `teachers.sample`.
        pretraining: as `Generation.curve`; None without pre-training.
        quarantined: frames without a label.
        stages: in the order in which they first finished.
        level: hash and, where the label store has it, description of the level of theory.
        model: file of the last model.
        model_hash: its SHA-256.
        seed: of the campaign.
        configuration: everything that was set, as YAML.
    """

    campaign: str
    system: str
    plan: SystemPlan
    generations: list[Generation]
    teacher: dict[str, dict[str, int]]
    pretraining: list[dict[str, Any]] | None
    quarantined: list[BadFrame]
    stages: list[StageTime]
    level: dict[str, Any]
    model: Path
    model_hash: str
    seed: int
    configuration: str

    @property
    def last(self) -> Generation:
        """The last generation."""
        return self.generations[-1]

    @property
    def late_begin_ps(self) -> float:
        """Where the late window begins, ps."""
        settings = self.plan.settings
        return settings.exploration.time_ps * (1 - settings.saturation.window)


def find_verdicts(folder: Path) -> list[Path]:
    """Verdicts of a system so far, in order, up to the one that ended its campaign.

    Args:
        folder: of the system's results.
    """
    found: list[Path] = []
    while (path := folder / f"gen{len(found):03d}" / "verdict.json").exists():
        found.append(path)
        if files.read_json(path)["decision"] != Decision.CONTINUE:
            break
    return found


def read_ledger(path: Path, system: str) -> list[dict[str, Any]]:
    """A system's entries in `stages.jsonl`; a line torn by a kill is passed over."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["system"] == system:
            entries.append(entry)
    return entries


def collect(campaign: Campaign, system: str, verdicts: Sequence[Path]) -> SystemReport:
    """Read what a system's report tells; the other files are found beside the verdicts.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        verdicts: of the generations to report, in order, from the first on.

    Raises:
        InputError: no verdict, or a missing or damaged file; it is named.
    """
    if not verdicts:
        raise InputError(f"{system}: no generation is finished: there is nothing to report yet")
    plan = campaign.systems[system]
    folder = verdicts[0].parents[1]
    labels = {name: _labels(folder / name) for name in ("seed", *(v.parent.name for v in verdicts))}
    generations = []
    for number, verdict in enumerate(verdicts):
        known = [frame for batch in list(labels.values())[: number + 2] for frame in batch]
        generations.append(_generation(verdict, known))
    pretrained = plan.settings.pretraining.enabled
    levels = sorted({info["level"] for batch in labels.values() for info in batch})
    model = verdicts[-1].parent / "model.model"
    everything = {
        "campaign": campaign.settings.model_dump(mode="json"),
        "system": plan.system.model_dump(mode="json"),
    }
    return SystemReport(
        campaign=campaign.settings.campaign,
        system=system,
        plan=plan,
        generations=generations,
        teacher=files.read_json(folder / "teacher/counts.json"),
        pretraining=files.read_json(folder / "teacher/pretrained.json")["curve"]
        if pretrained
        else None,
        quarantined=[
            BadFrame(
                batch=batch,
                structure=info["structure"],
                status=info["status"],
                message=info.get("message", ""),
            )
            for batch, infos in labels.items()
            for info in infos
            if info["status"] != Status.OK
        ],
        stages=_stage_times(read_ledger(folder.parent / "stages.jsonl", system)),
        level=_level(campaign.settings.label_store, levels),
        model=model,
        model_hash=hashlib.sha256(model.read_bytes()).hexdigest() if model.exists() else "",
        seed=campaign.settings.seed,
        configuration=yaml.safe_dump(everything, sort_keys=False, allow_unicode=True),
    )


def _labels(folder: Path) -> list[dict[str, Any]]:
    """What is written about the frames of a batch, all its shards together."""
    return [
        f.info for path in sorted((folder / "labels").glob("*.parquet")) for f in read_frames(path)
    ]


def _generation(verdict: Path, known: list[dict[str, Any]]) -> Generation:
    folder, told = verdict.parent, files.read_json(verdict)
    metrics = files.read_json(folder / "metrics.json")
    selection = files.read_json(folder / "selection.json")
    return Generation(
        number=told["generation"],
        decision=Decision(told["decision"]),
        reason=told["reason"],
        learned={name: metrics[name]["frames"] for name in ("train", "validation", "test")},
        spent=told["labels"]["spent"],
        budget=told["label_budget"],
        unlabelled=dict(Counter(i["status"] for i in known if i["status"] != Status.OK)),
        forces_mae=metrics["test"]["forces_mae_meV_per_A"],
        energy_mae=metrics["test"]["energy_mae_meV_per_atom"],
        curve=metrics["curve"],
        best_epoch=metrics["best_epoch"],
        replicas=files.read_json(folder / "exploration.json")["replicas"],
        traces=pd.read_parquet(folder / "traces.parquet"),
        saturation=told["saturation"],
        candidates=selection["candidates"],
        fates=selection["fates"],
        domain=Domain.read(folder / "domain.json"),
    )


def _stage_times(ledger: Sequence[dict[str, Any]]) -> list[StageTime]:
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for entry in ledger:
        by_stage.setdefault(entry["stage"], []).append(entry)
    return [
        StageTime(
            stage=stage,
            runs=len(entries),
            seconds=sum(entry["seconds"] for entry in entries),
            core_seconds=sum(entry["seconds"] * entry["cores"] for entry in entries),
        )
        for stage, entries in by_stage.items()
    ]


def _level(store: Path, hashes: Sequence[str]) -> dict[str, Any]:
    """Level of theory: its hash, and its description where the store is at hand."""
    level: dict[str, Any] = {"hash": ", ".join(hashes)}
    description = store / level["hash"] / "level.json"
    if level["hash"] and description.exists():
        level |= files.read_json(description)
    return level


def verdict_sentence(report: SystemReport) -> str:
    """The verdict and the numbers it rests on, in a sentence or two."""
    last, number = report.last, len(report.generations)
    found = last.saturation
    count = f"{number} generation" + ("s" if number > 1 else "")
    failed = f"{found['failed']} of {found['replicas']} replicas failed"
    confidence = f"{found['confidence'] * 100:g} % bound"
    if last.decision is Decision.SATURATED:
        return (
            f"Saturated after {count}: fewer than {found['rate_bound_per_atom_ps']:.3g} excursions "
            f"per atom and ps ({confidence}, limit {found['rate_limit_per_atom_ps']:g}), {failed}."
        )
    match last.decision:
        case Decision.MAX_GENERATIONS:
            said = f"NOT saturated: the campaign ended after {count}, the most allowed."
        case Decision.BUDGET_SPENT:
            said = (
                f"NOT saturated: the label budget is spent ({last.spent} of {last.budget}) after "
                f"{count}."
            )
        case _:
            said = f"Not finished: not saturated after {count} so far."
    if found["failed"]:
        return f"{said} {failed}."
    if found["finding"] == Finding.NOT_ENOUGH_DATA:
        return f"{said} {failed}, but {found['reason']}."
    return (
        f"{said} {failed}, but there may be up to {found['rate_bound_per_atom_ps']:.3g} excursions "
        f"per atom and ps ({confidence}, limit {found['rate_limit_per_atom_ps']:g})."
    )


def coverage_sentence(report: SystemReport) -> str:
    """What the verdict rests on, and that it says nothing beyond."""
    last = report.last
    kelvin = ", ".join(
        f"{t:g}" for t in sorted({entry["temperature_K"] for entry in last.replicas})
    )
    return (
        f"It rests on {len(last.replicas)} replicas of up to "
        f"{report.plan.settings.exploration.time_ps:g} ps at {kelvin} K with the model of "
        f"generation {last.number}, {last.simulated_ps:.3g} ps in all. Longer times and other "
        "temperatures are not covered."
    )


@dataclass(frozen=True)
class _Column:
    """A column of the summary: heading in the terminal and on the page, and a cell's text."""

    short: str
    heading: str
    cell: Callable[[Generation], str]


def _columns(report: SystemReport) -> list[_Column]:
    confidence = f"{report.last.saturation['confidence'] * 100:g} %"
    return [
        _Column("gen", "Generation", lambda g: str(g.number)),
        _Column(
            "labels\nt/v/test",
            "Labels learned: training / validation / test",
            lambda g: "/".join(str(g.learned[name]) for name in ("train", "validation", "test")),
        ),
        _Column("spent", "Labels spent / budget", lambda g: f"{g.spent}/{g.budget}"),
        _Column(
            "no\nlabel",
            "Frames without label",
            lambda g: ", ".join(f"{n}\xa0{status}" for status, n in g.unlabelled.items()) or "0",
        ),
        _Column("F MAE\nmeV/Å", "Test force MAE, meV/Å", lambda g: f"{g.forces_mae:.1f}"),
        _Column("E MAE\nmeV/at", "Test energy MAE, meV/atom", lambda g: f"{g.energy_mae:.2f}"),
        _Column(
            "failed",
            "Replicas failed / all",
            lambda g: f"{g.saturation['failed']}/{g.saturation['replicas']}",
        ),
        _Column("Λ\nps", "Mean Λ at the end, ps", lambda g: _number(g.final("cli_label").mean())),
        _Column(
            "max Λ\nps", "Largest atomic Λ, ps", lambda g: _number(g.final("cli_label_max").max())
        ),
        _Column(
            "late\nλ",
            "λ, late window",
            lambda g: _number(g.late_rate(report.late_begin_ps)),
        ),
        _Column(
            "rate\n1/ps",
            "Excursions per atom, 1/ps",
            lambda g: _number(g.saturation["rate_per_atom_ps"]),
        ),
        _Column(
            "bound\n1/ps",
            f"their {confidence} bound, 1/ps",
            lambda g: _number(g.saturation["rate_bound_per_atom_ps"]),
        ),
        _Column("decision", "Decision", lambda g: g.decision.replace("_", " ")),
    ]


def _number(value: float | None) -> str:
    """Three significant digits; a dash for what cannot be told."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def summary_table(report: SystemReport) -> Table:
    """The summary for a terminal of 100 columns, one row per generation."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, min_width=96)
    columns = _columns(report)
    for column in columns:
        words = column.short in ("gen", "decision")
        table.add_column(column.short, justify="left" if words else "right", no_wrap=True)
    for generation in report.generations:
        cells = {column.short: column.cell(generation) for column in columns}
        cells["no\nlabel"] = str(sum(generation.unlabelled.values()))
        cells["decision"] = cells["decision"].replace("generations", "gen.")
        table.add_row(*cells.values())
    return table


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
    columns = _columns(report)
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
            *(_number(final[column].get(entry["replica"])) for column in columns),
            entry["failure"] or "none",
        ]
        for entry in generation.replicas
    ]


def _teacher_rows(teacher: dict[str, dict[str, int]]) -> list[list[str]]:
    words = {
        "md": "Kept: molecular dynamics",
        "displaced": "Kept: displaced atoms",
        "force_cap": "Dropped: force above the cap",
        "not_finite": "Dropped: values not finite",
    }
    found = list(dict.fromkeys([*words, *(name for counts in teacher.values() for name in counts)]))
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


def _provenance(report: SystemReport) -> dict[str, str]:
    said = [
        f"{k} {v}"
        for k, v in report.level.items()
        if k != "hash" and isinstance(v, str | int | float)
    ]
    return {
        "Level of theory": "; ".join([*said, f"hash {report.level['hash'] or 'unknown'}"]),
        "Model": f"{report.model}, SHA-256 {report.model_hash or 'unknown: the file is missing'}",
        "Force field": ", ".join(str(path) for path in report.plan.system.forcefield),
        "Structures": "; ".join(
            f"{s.name}: {s.smiles or s.file}, charge {s.charge:+d} e, multiplicity {s.multiplicity}"
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
