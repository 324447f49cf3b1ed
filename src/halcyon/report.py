"""What a campaign came to, in numbers and sentences: what the terminal and the page say.

    found = collect(campaign, "ethanol", verdicts)
    print(verdict_sentence(found))

`collect` reads the files of a system; everything else computes from what it returned.

Not for: the page itself (`page`), deciding anything (`saturation`), or certifying a model.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from rich import box
from rich.table import Table

from halcyon import files, stability
from halcyon.campaign import Campaign, SystemPlan
from halcyon.domain import Domain
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.label_store import DAMAGED
from halcyon.reference.base import Status
from halcyon.saturation import Decision, Finding
from halcyon.stability import Run


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
        traces: see `traces.TRACE_COLUMNS`.
        saturation: the assessment in its verdict, see `saturation.assess`.
        failures: of its replicas, per simulated time, see `stability.failures`.
        critical_cli: of this and all earlier generations, see `stability.critical_cli`.
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
    failures: dict[str, Any]
    critical_cli: dict[str, Any]
    candidates: int
    fates: dict[str, int]
    domain: Domain

    @property
    def simulated_ps(self) -> float:
        """Simulated time of all replicas together, ps."""
        return float(sum(entry["time_ps"] for entry in self.replicas))

    @property
    def run(self) -> Run:
        """Its exploration."""
        return Run(traces=self.traces, replicas=self.replicas)

    @property
    def replaced(self) -> int:
        """Replicas that took the place of a failed one."""
        return sum(stability.replaced(entry) for entry in self.replicas)

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
        damaged_shards: files of the label store that were found damaged, and set aside.
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
    damaged_shards: list[Path]
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
    generations: list[Generation] = []
    runs: dict[int, Run] = {}
    for number, verdict in enumerate(verdicts):
        known = [frame for batch in list(labels.values())[: number + 2] for frame in batch]
        runs[number] = stability.read_run(verdict.parent)
        generations.append(_generation(verdict, known, runs))
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
        damaged_shards=[
            path
            for level in levels
            for path in sorted((campaign.settings.label_store / level).glob(f"*{DAMAGED}"))
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


def _generation(verdict: Path, known: list[dict[str, Any]], runs: dict[int, Run]) -> Generation:
    folder, told = verdict.parent, files.read_json(verdict)
    number, confidence = told["generation"], told["saturation"]["confidence"]
    replicas, traces = runs[number].replicas, runs[number].traces
    metrics = files.read_json(folder / "metrics.json")
    selection = files.read_json(folder / "selection.json")
    return Generation(
        number=number,
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
        replicas=replicas,
        traces=traces,
        saturation=told["saturation"],
        # Older verdicts do not have these.
        failures=told.get("failures") or stability.failures(replicas, confidence=confidence),
        critical_cli=told.get("critical_cli")
        or stability.critical_cli(runs, confidence=confidence),
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
    under = conditions(report)
    count = f"{number} generation" + ("s" if number > 1 else "")
    failed = f"{found['failed']} of {found['replicas']} replicas failed"
    confidence = f"{found['confidence'] * 100:g} % bound"
    if last.decision is Decision.SATURATED:
        return (
            f"Saturated{under} after {count}: fewer than {found['rate_bound_per_atom_ps']:.3g} "
            f"excursions per atom and ps ({confidence}, limit "
            f"{found['rate_limit_per_atom_ps']:g}), {failed}."
        )
    match last.decision:
        case Decision.MAX_GENERATIONS:
            said = f"NOT saturated{under}: the campaign ended after {count}, the most allowed."
        case Decision.BUDGET_SPENT:
            said = (
                f"NOT saturated{under}: the label budget is spent ({last.spent} of {last.budget}) "
                f"after {count}."
            )
        case _:
            said = f"Not finished: not saturated{under} after {count} so far."
    if found["failed"]:
        return f"{said} {failed}."
    if found["finding"] == Finding.NOT_ENOUGH_DATA:
        return f"{said} {failed}, but {found['reason']}."
    return (
        f"{said} {failed}, but there may be up to {found['rate_bound_per_atom_ps']:.3g} excursions "
        f"per atom and ps ({confidence}, limit {found['rate_limit_per_atom_ps']:g})."
    )


def conditions(report: SystemReport) -> str:
    """What set the exploration apart from plain dynamics at constant volume and temperature."""
    settings, said = report.plan.settings.exploration, ""
    match settings.bias.kind:
        case "ramp":
            said = f" on a temperature ramp to {settings.bias.to_K:g} K"
        case "metadynamics":
            said = " under metadynamics"
    match settings.ensemble:
        case "nve":
            said += " without a thermostat (NVE)"
        case "npt":
            said += f" at constant pressure (NPT, {settings.pressure_bar:g} bar)"
    return said


def coverage_sentence(report: SystemReport) -> str:
    """What the verdict rests on, and that it says nothing beyond."""
    last, settings = report.last, report.plan.settings.exploration
    kelvin = ", ".join(
        f"{t:g}" for t in sorted({entry["temperature_K"] for entry in last.replicas})
    )
    first = len(last.replicas) - last.replaced
    fresh = ""
    if last.replaced:
        took = "places of failed ones" if last.replaced > 1 else "place of a failed one"
        fresh = f" and {last.replaced} that took the {took},"
    beyond = "Longer times and other temperatures are not covered."
    if settings.bias.kind != "none":
        beyond = (
            "Λ and its rates are those of the biased dynamics, not of plain dynamics. Longer times "
            "are not covered."
        )
    return (
        f"It rests on {first} replica{'s' if first > 1 else ''} of up to {settings.time_ps:g} ps "
        f"at {kelvin} K{conditions(report)}{fresh} with the model of generation {last.number}, "
        f"{stability.plain(last.simulated_ps)} ps in all. {beyond}"
    )


@dataclass(frozen=True)
class Column:
    """A column of the summary: heading in the terminal and on the page, and a cell's text."""

    short: str
    heading: str
    cell: Callable[[Generation], str]


def columns_of(report: SystemReport) -> list[Column]:
    """The summary's columns."""
    confidence = f"{report.last.saturation['confidence'] * 100:g} %"
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
        Column("F MAE\nmeV/Å", "Test force MAE, meV/Å", lambda g: f"{g.forces_mae:.1f}"),
        Column("E MAE\nmeV/at", "Test energy MAE, meV/atom", lambda g: f"{g.energy_mae:.2f}"),
        Column(
            "failed",
            "Replicas failed / all",
            lambda g: f"{g.saturation['failed']}/{g.saturation['replicas']}",
        ),
        Column(
            "Λ\nps", "Mean Λ at the end, ps", lambda g: number_text(g.final("cli_label").mean())
        ),
        Column(
            "max Λ\nps",
            "Largest atomic Λ, ps",
            lambda g: number_text(g.final("cli_label_max").max()),
        ),
        Column(
            "late\nλ",
            "λ, late window",
            lambda g: number_text(g.late_rate(report.late_begin_ps)),
        ),
        Column(
            "rate\n1/ps",
            "Excursions per atom, 1/ps",
            lambda g: number_text(g.saturation["rate_per_atom_ps"]),
        ),
        Column(
            "bound\n1/ps",
            f"their {confidence} bound, 1/ps",
            lambda g: number_text(g.saturation["rate_bound_per_atom_ps"]),
        ),
        Column("decision", "Decision", lambda g: g.decision.replace("_", " ")),
    ]


def number_text(value: float | None) -> str:
    """Three significant digits; a dash for what cannot be told."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def summary_table(report: SystemReport) -> Table:
    """The summary for a terminal of 100 columns, one row per generation."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, min_width=96)
    columns = columns_of(report)
    for column in columns:
        words = column.short in ("gen", "decision")
        table.add_column(column.short, justify="left" if words else "right", no_wrap=True)
    for generation in report.generations:
        cells = {column.short: column.cell(generation) for column in columns}
        cells["no\nlabel"] = str(sum(generation.unlabelled.values()))
        cells["decision"] = cells["decision"].replace("generations", "gen.")
        table.add_row(*cells.values())
    return table
