"""What a campaign will cost, before anything is paid, and afterwards beside what it did cost.

    from halcyon.commands.plan.forecast import forecast

    result = forecast(campaign, trials={}, start_s=2.0)
    result["total"]["core_hours"]  # after one generation, after all that are allowed

All hours, and the disk, are intervals [least, likely, most].

Not for: the cost of one unit of work (`rates`), or where a campaign stands (`status`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from halcyon.campaign import paths, work
from halcyon.campaign.accounts import read_ledger
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.lengths import exploring_for
from halcyon.campaign.rates import Rate
from halcyon.commands.plan.measure import Trials
from halcyon.commands.plan.rates import best_rates
from halcyon.config.model_size import in_words
from halcyon.config.presets import recommended
from halcyon.verdict.forms import Decision

Batch: TypeAlias = int | str | None
"""A generation, None before the first, or `END`."""
END = "end"
"""What comes after the last generation."""
Interval: TypeAlias = list[float]
"""Least, likely, most."""
START_FACTORS = (0.5, 3.0)
"""Of the time that a job takes to start: file systems of clusters are slower."""
DISK_FACTORS = (0.5, 1.0, 2.0)
PAGE_BYTES = 5_000_000
"""Of the report: nearly all of it the library of plots."""
TRACE_POINT_BYTES = 60
LONG_STAGES = [stage for stage in work.UNITS if stage != "final"]
"""Stages that take long: where no rate of theirs is known, the sums are too small."""
OTHER_BYTES = 100_000
"""Of a generation's logs and JSON files."""


def forecast(campaign: Campaign, trials: Mapping[str, Trials], *, start_s: float) -> dict[str, Any]:
    """Jobs, core- and GPU-hours and disk, per system and generation, and in all.

    Args:
        campaign: the whole campaign.
        trials: from `measure`, by system; may be empty.
        start_s: time that a job takes before it does anything, s.

    Returns:
        Plain JSON values. `least` is one generation, `most` all that are allowed. `unmeasured`:
        stages whose time is not in the sums. `unknown`: errors of trials that failed. `actual`:
        what was spent so far, where something was.
    """
    systems = [_system(campaign, name, trials.get(name, {}), start_s) for name in campaign.systems]
    least, most = [[system[key] for system in systems] for key in ("least", "most")]
    total: dict[str, Any] = {}
    for key in ("core_hours", "gpu_hours", "disk_GB"):
        total[key] = [sum(part[key][0] for part in least), sum(part[key][2] for part in most)]
    for key in ("jobs", "labels"):
        total[key] = [sum(part[key] for part in least), sum(part[key] for part in most)]
    limits = campaign.settings.limits
    return {
        "campaign": campaign.settings.campaign,
        "systems": systems,
        "total": total,
        "limit": {"core_hours": limits.core_hours, "of": limits.core_hours_of},
        "start_s": start_s,
    }


def _model(plan: SystemPlan, *, gpu: bool) -> str:
    """Size of the model, and which preset fits the system and the device."""
    if (start := plan.settings.pretraining.start) is not None:
        return f"model: that of {start}"
    preset, why = recommended(
        max(plan.atoms[name] for name in plan.explored),
        device="cuda" if gpu else "cpu",
        trial=plan.backend == "xtb",
    )
    return f"model: {in_words(plan.settings)}; proposed is {preset}: {why}"


def _system(campaign: Campaign, name: str, trials: Trials, start_s: float) -> dict[str, Any]:
    rates = best_rates(campaign, name, trials)
    # Before there are any, a step of the certificate's runs is taken for one of the exploration.
    rates = {"certify": rates["explore"]} | rates if "explore" in rates else rates
    gpu = str(trials.get("model", {}).get("device", "cpu")).startswith("cuda")
    start = Rate.around([start_s], START_FACTORS, "measured")
    generations = range(campaign.systems[name].settings.limits.max_generations)
    parts = []
    for batch in (None, *generations, END):
        part = _batch(campaign, name, batch, rates, start, gpu=gpu)
        plan = campaign.systems[name]
        sizes = [_disk(each, batch, trials) for each in (plan, plan, _longest(plan, batch))]
        disk = [factor * size / 1e9 for factor, size in zip(DISK_FACTORS, sizes, strict=True)]
        parts.append(part | {"disk_GB": disk})
    entry: dict[str, Any] = {
        "system": name,
        "model": _model(campaign.systems[name], gpu=gpu),
        "audit": work.audit_text(campaign.systems[name]),
        "longer": _longer(campaign.systems[name]),
        "rates": [
            {
                "stage": stage,
                "unit": work.UNITS.get(stage, "job"),
                "seconds": [rate.low, rate.value, rate.high],
                "source": rate.source,
            }
            for stage, rate in rates.items()
        ],
        "unmeasured": [
            stage
            for stage in LONG_STAGES
            if stage not in rates and any(stage in part["stages"] for part in parts)
        ],
        "unknown": {name: trial["error"] for name, trial in trials.items() if "error" in trial},
        "batches": parts,
        "least": _sum([*parts[:2], parts[-1]]),
        "most": _sum(parts),
    }
    if spent := read_ledger(paths.ledger(campaign.folder), name):
        entry["actual"] = _actual(campaign, name, spent, rates)
    return entry


def _batch(
    campaign: Campaign,
    name: str,
    batch: Batch,
    rates: Mapping[str, Rate],
    start: Rate,
    *,
    gpu: bool,
) -> dict[str, Any]:
    """One generation, what comes before the first, or what comes after the last."""
    plan = campaign.systems[name]
    generation = batch if isinstance(batch, int) else None
    if batch is None:
        jobs = paths.start_jobs(campaign, name)
    elif generation is None:
        jobs = paths.end_jobs(campaign, name, Decision.SATURATED)
    else:
        jobs = paths.generation_jobs(campaign, name, generation)
    stages: dict[str, Interval] = {}
    for stage in dict.fromkeys(job.stage for job in jobs):
        number = sum(job.stage == stage for job in jobs)
        cores = paths.cores_of(plan, stage)
        starting = [cores * number * seconds for seconds in (start.low, start.value, start.high)]
        working = _core_seconds(plan, stage, generation, rates)
        stages[stage] = [seconds / 3600 for seconds in _added([starting, working])]
    on_gpu = [hours for stage, hours in stages.items() if gpu and stage in paths.MODEL_STAGES]
    return {
        "generation": batch,
        "jobs": len(jobs),
        "labels": 0 if batch == END else work.labels(plan, generation),
        "core_hours": _added(stages.values()),
        "gpu_hours": _added(on_gpu),
        "stages": stages,
    }


def _core_seconds(
    plan: SystemPlan, stage: str, generation: int | None, rates: Mapping[str, Rate]
) -> Interval:
    """Core-seconds of all jobs of a stage without their start; 0 where no rate is known."""
    if stage not in rates:
        return [0.0] * 3
    units = [work.units(each, stage, generation) for each in (plan, _longest(plan, generation))]
    seconds, most = (rates[stage].times(number) for number in units)
    # The rate of labels is in core-seconds already.
    cores = 1 if stage == "label" else paths.cores_of(plan, stage)
    return [cores * seconds.low, cores * seconds.value, cores * most.high]


def _longest(plan: SystemPlan, batch: Batch) -> SystemPlan:
    """The plan with the longest exploration that a generation may have: none before it has."""
    explored = plan.settings.exploration
    if not isinstance(batch, int) or batch == 0:
        return plan
    time_ps = explored.time_ps * explored.extended_at_most
    return replace(plan, settings=exploring_for(plan.settings, time_ps))


def _longer(plan: SystemPlan) -> str | None:
    """That explorations may grow, in words; None: they may not."""
    explored = plan.settings.exploration
    if explored.extended_at_most == 1 or plan.settings.limits.max_generations == 1:
        return None
    return (
        f"explorations: {explored.time_ps:g} ps of each replica; from generation 1 on up to "
        f"{explored.time_ps * explored.extended_at_most:g} ps where only time is missing to judge "
        "by, which the upper ends count (exploration.extended_at_most)"
    )


def _disk(plan: SystemPlan, batch: Batch, trials: Trials) -> float:
    """Bytes that stay of a generation, of what comes before the first or after the last."""
    generation = batch if isinstance(batch, int) else None
    trial = trials.get("model", {})
    frame = trial.get("frame_bytes", 100 * max(plan.atoms.values()))
    model = trial.get("model_bytes", 500_000)
    explored, tested = plan.settings.exploration, plan.settings.certificate
    if batch == END:
        timestep_ps = (tested.timestep_fs or explored.timestep_fs) / 1000
        points = work.units(plan, "certify", None) * timestep_ps * tested.trace_points_per_ps
        # Model, its export, labels and traces are copied to `final/`.
        labels = sum(work.labels(plan, batch) for batch in (None, 0))
        return float(PAGE_BYTES + 4 * model + 2 * points * TRACE_POINT_BYTES + labels * frame)
    # Selected, labelled, and in the store.
    size = 3 * frame * work.labels(plan, generation) + OTHER_BYTES
    if generation is None:
        return float(size + work.units(plan, "domain", 0) * frame + model)
    points = explored.replicas * explored.time_ps * explored.trace_points_per_ps
    kept = work.candidates(plan) + work.reservoir(plan)
    size += model + points * TRACE_POINT_BYTES + kept * frame / 4
    if explored.trajectory_every_fs:
        size += explored.replicas * explored.time_ps * 1000 / explored.trajectory_every_fs * frame
    return float(size)


def _added(parts: Iterable[Interval]) -> Interval:
    return [sum(values) for values in zip([0.0] * 3, *parts, strict=True)]


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {key: sum(part[key] for part in parts) for key in ("jobs", "labels")}
    for key in ("core_hours", "gpu_hours", "disk_GB"):
        total[key] = _added(part[key] for part in parts)
    return total


def _actual(
    campaign: Campaign, name: str, spent: list[dict[str, Any]], rates: Mapping[str, Rate]
) -> dict[str, Any]:
    """What was spent, beside what is predicted for the same jobs; starting them is not in it."""
    plan = campaign.systems[name]
    stages: dict[str, dict[str, Any]] = {}
    for stage in dict.fromkeys(entry["stage"] for entry in spent):
        entries = [entry for entry in spent if entry["stage"] == stage]
        if stage == "label":  # older ledgers do not say of which batch
            batches: list[int | None] = [None, *paths.generations(campaign, name)]
            repeats = 1.0
        else:
            batches = list(dict.fromkeys(entry["generation"] for entry in entries))
            repeats = len(entries) / len(batches)
        predicted = _added(_core_seconds(plan, stage, batch, rates) for batch in batches)
        stages[stage] = {
            "jobs": len(entries),
            "core_hours": sum(entry["seconds"] * entry["cores"] for entry in entries) / 3600,
            "predicted_core_hours": [repeats * seconds / 3600 for seconds in predicted]
            if stage in rates
            else None,
        }
    return {
        "jobs": len(spent),
        "core_hours": sum(entry["core_hours"] for entry in stages.values()),
        "stages": stages,
    }
