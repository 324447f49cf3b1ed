"""What a campaign will cost, before anything is paid, and afterwards beside what it did cost.

    found = plan(campaign, trials)           # trials: from `measure`, by system

Not for: the cost of one unit of work (`estimate`), or where a campaign stands (`status`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign import work as estimate
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.identity import level_of_theory
from halcyon.campaign.work import Rate
from halcyon.commands.plan.trial import KINDS
from halcyon.errors import InputError
from halcyon.labels.store import LabelStore
from halcyon.report import read_ledger
from halcyon.verdict.forms import Decision

Trials = dict[str, dict[str, Any]]
END = "end"
"""Stands for what comes after the last generation where a generation's number is expected."""
Batch = int | str | None
START_FACTORS = (0.5, 3.0)
"""Of the time that a job takes to start: file systems of clusters are slower."""
DISK_FACTORS = (0.5, 2.0)
PAGE_BYTES = 5_000_000
"""Of the report: nearly all of it the library of plots."""
TRACE_POINT_BYTES = 60
OTHER_BYTES = 100_000
"""Of a generation's logs and JSON files."""


def measure(
    campaign: Campaign,
    configfile: Path,
    *,
    limit_s: float,
    tell: Callable[[str], None] = lambda _line: None,
) -> dict[str, Trials]:
    """Run the trials of every system, each in a process of its own.

    Args:
        campaign: read from `configfile`.
        configfile: what the trials read.
        limit_s: for each of them.
        tell: what goes on.

    Returns:
        By system and kind; where a trial failed, its `error`.
    """
    found: dict[str, Trials] = {}
    for system, plan in campaign.systems.items():
        found[system] = {}
        for kind in KINDS:
            tell(f"{system}: trying {kind}")
            stage = {"model": "explore"}.get(kind, kind)
            threads = paths.cores_of(plan, stage)
            found[system][kind] = run_trial(
                kind, configfile, system, threads=threads, limit_s=limit_s
            )
    return found


def run_trial(
    kind: str, configfile: Path, system: str, *, threads: int, limit_s: float, tiny: bool = False
) -> dict[str, Any]:
    """One trial in a process of its own, with a time limit; what it found, or `error`."""
    command = [
        sys.executable,
        "-m",
        "halcyon.commands.plan.trial",
        kind,
        "--configfile",
        str(configfile),
    ]
    command += ["--system", system, "--threads", str(threads), *(["--tiny"] if tiny else [])]
    environment = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)
    )
    source = Path(__file__).parents[3]
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(source), os.environ.get("PYTHONPATH")])
    )
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
            env=os.environ | environment,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {limit_s:g} s", "timeout": True}
    lines = done.stdout.strip().splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError):
        words = (done.stderr or done.stdout).strip().splitlines()
        return {"error": words[-1] if words else f"exit code {done.returncode}"}


def rates(campaign: Campaign, system: str, trials: Trials, *, own: bool = False) -> dict[str, Rate]:
    """The best rate known for each stage.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        trials: of that system; may be empty.
        own: whether this campaign's own jobs count: for what is left, not for what is compared
            with them.
    """
    plan = campaign.systems[system]
    found = estimate.from_trials(trials)
    for path in sorted(campaign.settings.results.glob("*/campaign.json")):
        mine = path.parent.resolve() == campaign.folder.resolve()
        if mine == own and (entries := read_ledger(path.parent / "stages.jsonl", system)):
            try:
                other = Campaign.read(path).systems.get(system)
            except InputError:
                continue
            if (
                other
                and other.settings.model == plan.settings.model
                and other.system.structures == plan.system.structures
            ):
                found |= estimate.from_ledger(other, entries, f"campaign {path.parent.name}")
    if rate := label_rate(campaign, system, own=own):
        found["label"] = rate
    return found


def label_rate(campaign: Campaign, system: str, *, own: bool) -> Rate | None:
    """Core-seconds of a label, from those in the store at this level of theory."""
    try:
        level = level_of_theory(campaign)
    except InputError:
        return None
    folder = campaign.settings.label_store / level
    if not (folder / "level.json").exists():
        return None
    store = LabelStore(campaign.settings.label_store, files.read_json(folder / "level.json"))
    by_size: dict[int, list[float]] = {}
    for table in store.stream(["numbers", "core_seconds", "campaign"]):
        if {"core_seconds", "campaign"} - {*table.column_names}:
            continue
        sizes = pc.list_value_length(table["numbers"]).to_pylist()
        told = zip(
            sizes, table["core_seconds"].to_pylist(), table["campaign"].to_pylist(), strict=True
        )
        for size, seconds, paid_by in told:
            if seconds and (own or paid_by != campaign.settings.campaign):
                by_size.setdefault(size, []).append(seconds)
    plan = campaign.systems[system]
    atoms = max(len(plan.start(name)) for name in plan.structures)
    known = {size: _spread(values) for size, values in by_size.items()}
    return estimate.from_labels(known, atoms, f"label store, level {level}")


def _spread(values: list[float]) -> tuple[int, float, float, float]:
    ordered = sorted(values)
    low, likely, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.05, 0.5, 0.95))
    return len(ordered), low, likely, high


def plan(campaign: Campaign, trials: Mapping[str, Trials], *, start_s: float) -> dict[str, Any]:
    """Jobs, core- and GPU-hours and disk, per system and generation, and in all.

    Args:
        campaign: the whole campaign.
        trials: from `measure`, by system; may be empty.
        start_s: time that a job takes before it does anything, s.

    Returns:
        Plain JSON values. Hours are [least, likely, most]; `least` is one generation, `most` all
        that are allowed. `actual`: what was spent so far, where something was.
    """
    systems = [_system(campaign, name, trials.get(name, {}), start_s) for name in campaign.systems]
    total: dict[str, Any] = {}
    for key in ("core_hours", "gpu_hours", "disk_GB"):
        total[key] = [
            sum(s["least"][key][0] for s in systems),
            sum(s["most"][key][2] for s in systems),
        ]
    total["jobs"] = [
        sum(s["least"]["jobs"] for s in systems),
        sum(s["most"]["jobs"] for s in systems),
    ]
    total["labels"] = [
        sum(s["least"]["labels"] for s in systems),
        sum(s["most"]["labels"] for s in systems),
    ]
    return {
        "campaign": campaign.settings.campaign,
        "systems": systems,
        "total": total,
        "limit": {
            "core_hours": campaign.settings.limits.core_hours,
            "of": campaign.settings.limits.core_hours_of,
        },
        "start_s": start_s,
    }


def _system(campaign: Campaign, name: str, trials: Trials, start_s: float) -> dict[str, Any]:
    one = campaign.systems[name]
    known = rates(campaign, name, trials)
    gpu = str(trials.get("model", {}).get("device", "cpu")).startswith("cuda")
    start = Rate.around([start_s], START_FACTORS, "measured")
    maximum = one.settings.limits.max_generations
    # A step of the certificate's runs is one of the exploration, as far as one knows before.
    known = {"certify": known["explore"]} | known if "explore" in known else known
    batches = (None, *range(maximum), END)
    parts = [_batch(campaign, name, batch, known, start, gpu=gpu) for batch in batches]
    disk = [_disk(campaign, name, batch, trials) for batch in batches]
    for part, size in zip(parts, disk, strict=True):
        part["disk_GB"] = [factor * size / 1e9 for factor in (DISK_FACTORS[0], 1, DISK_FACTORS[1])]
    entry: dict[str, Any] = {
        "system": name,
        "rates": [
            {
                "stage": stage,
                "unit": estimate.UNITS.get(stage, "job"),
                "seconds": [rate.low, rate.likely, rate.high],
                "source": rate.source,
            }
            for stage, rate in known.items()
        ],
        "unknown": {kind: found["error"] for kind, found in trials.items() if "error" in found},
        "batches": parts,
        "least": _sum([*parts[:2], parts[-1]]),
        "most": _sum(parts),
    }
    if spent := read_ledger(campaign.folder / "stages.jsonl", name):
        entry["actual"] = _actual(campaign, name, spent, known, start)
    return entry


def _batch(
    campaign: Campaign,
    name: str,
    batch: Batch,
    known: Mapping[str, Rate],
    start: Rate,
    *,
    gpu: bool,
) -> dict[str, Any]:
    """One generation, what comes before the first, or what comes after the last."""
    one = campaign.systems[name]
    generation = batch if isinstance(batch, int) else None
    if batch is None:
        jobs = paths.start_jobs(campaign, name)
    elif generation is None:
        jobs = paths.end_jobs(campaign, name, Decision.SATURATED)
    else:
        jobs = paths.generation_jobs(campaign, name, generation)
    core, card = [0.0] * 3, [0.0] * 3
    stages: dict[str, list[float]] = {}
    for stage in dict.fromkeys(job.stage for job in jobs):
        number = sum(job.stage == stage for job in jobs)
        seconds = _stage(one, stage, generation, jobs=number, known=known, start=start)
        hours = [s / 3600 for s in seconds]
        stages[stage] = hours
        core = [a + b for a, b in zip(core, hours, strict=True)]
        if gpu and stage in paths.MODEL_STAGES:
            card = [a + b for a, b in zip(card, hours, strict=True)]
    return {
        "generation": batch,
        "jobs": len(jobs),
        "labels": 0 if batch == END else estimate.labels(one, generation),
        "core_hours": core,
        "gpu_hours": card,
        "stages": stages,
    }


def _stage(
    one: Any,
    stage: str,
    generation: int | None,
    *,
    jobs: int,
    known: Mapping[str, Rate],
    start: Rate,
) -> list[float]:
    """Core-seconds of all jobs of a stage. A rate of labels is in core-seconds already."""
    cores = paths.cores_of(one, stage)
    seconds = [cores * jobs * value for value in (start.low, start.likely, start.high)]
    if stage in known:
        work = known[stage].times(estimate.units(one, stage, generation))
        per = 1 if stage == "label" else cores
        seconds = [
            a + per * b for a, b in zip(seconds, (work.low, work.likely, work.high), strict=True)
        ]
    return seconds


def _disk(campaign: Campaign, name: str, batch: Batch, trials: Trials) -> float:
    """Bytes that stay of a generation, of what comes before the first or after the last."""
    one = campaign.systems[name]
    generation = batch if isinstance(batch, int) else None
    found = trials.get("model", {})
    frame = found.get("frame_bytes", 100 * max(len(one.start(s)) for s in one.structures))
    model = found.get("model_bytes", 500_000)
    if batch == END:
        tested = one.settings.certificate
        points = estimate.units(one, "certify", None) * _timestep_ps(one)
        points *= tested.trace_points_per_ps
        # Model, its export, labels and traces are copied to `final/`.
        labelled = sum(estimate.labels(one, g) for g in (None, 0))
        return float(PAGE_BYTES + 4 * model + 2 * points * TRACE_POINT_BYTES + labelled * frame)
    # Selected, labelled, and in the store.
    size = 3 * frame * estimate.labels(one, generation) + OTHER_BYTES
    if generation is None:
        teacher = estimate.units(one, "domain", 0) * frame
        return float(size + teacher + model)
    asked = one.settings.exploration
    points = asked.replicas * asked.time_ps * asked.trace_points_per_ps
    size += model + points * TRACE_POINT_BYTES + estimate.candidates(one) * frame / 4
    if asked.trajectory_every_fs:
        size += asked.replicas * asked.time_ps * 1000 / asked.trajectory_every_fs * frame
    return float(size)


def _timestep_ps(one: SystemPlan) -> float:
    asked = one.settings.certificate.timestep_fs or one.settings.exploration.timestep_fs
    return asked / 1000


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(part[key] for part in parts) for key in ("jobs", "labels")}
    for key in ("core_hours", "gpu_hours", "disk_GB"):
        total[key] = [sum(values) for values in zip(*(part[key] for part in parts), strict=True)]
    return total


def _actual(
    campaign: Campaign,
    name: str,
    spent: list[dict[str, Any]],
    known: Mapping[str, Rate],
    start: Rate,
) -> dict[str, Any]:
    """What was spent, beside what is predicted for the same jobs; starting them is not in it."""
    one = campaign.systems[name]
    nothing = Rate(0, 0, 0, start.source)
    stages: dict[str, dict[str, Any]] = {}
    for stage in dict.fromkeys(entry["stage"] for entry in spent):
        mine = [entry for entry in spent if entry["stage"] == stage]
        hours = sum(entry["seconds"] * entry["cores"] for entry in mine) / 3600
        if stage == "label":  # the ledger does not say of which batch
            batches: list[int | None] = [None, *paths.generations(campaign, name)]
        else:
            batches = list(dict.fromkeys(entry["generation"] for entry in mine))
        repeats = 1 if stage == "label" else len(mine) / len(batches)
        predicted = [0.0] * 3
        for generation in batches:
            seconds = _stage(one, stage, generation, jobs=0, known=known, start=nothing)
            hours_of = [repeats * second / 3600 for second in seconds]
            predicted = [a + b for a, b in zip(predicted, hours_of, strict=True)]
        stages[stage] = {
            "jobs": len(mine),
            "core_hours": hours,
            "predicted_core_hours": predicted if stage in known else None,
        }
    return {
        "jobs": len(spent),
        "core_hours": sum(entry["core_hours"] for entry in stages.values()),
        "stages": stages,
    }
