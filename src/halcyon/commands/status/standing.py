"""Where a campaign stands, from its files alone: while it runs or after a crash.

    from pathlib import Path
    from halcyon.commands.status.standing import look

    standing = look(Path("results/quickstart"))
    standing["systems"][0]["stage"], standing["next"]

Nothing is written and nothing is locked: a second user who may only read sees the same. The lock
of the campaign says whether its process lives, `jobs` what its jobs do, `time_left` how long they
may take.

Not for: what a campaign will cost (`plan`), or its results (`report`).
"""

import shutil
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from halcyon import files, jsonl, tables
from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.imports import summary_of
from halcyon.campaign.paths import PlannedJob
from halcyon.commands.status.disk import disk_use
from halcyon.commands.status.jobs import Activity, last_line
from halcyon.commands.status.time_left import seconds_left
from halcyon.errors import InputError
from halcyon.frames import read_frames
from halcyon.labels import journal
from halcyon.labels.imported import is_imported
from halcyon.verdict import saturation
from halcyon.verdict.forms import AuditFinding, ExplorationSummary, Finding, Verdict
from halcyon.verdict.runs import deciding
from halcyon.verdict.saturation import goes_on

ERRORS_AT_MOST = 10


def find(folder: Path) -> Campaign:
    """The campaign whose results lie in a folder, wherever that folder was moved to.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if not (folder / "campaign.json").exists():
        raise InputError(
            f"{folder}: no campaign.json here: expected a campaign's folder, results/<campaign>, "
            "or its file"
        )
    try:
        campaign = Campaign.read(folder / "campaign.json")
    except PermissionError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    here = {"results": folder.parent, "campaign": folder.name}
    return Campaign(campaign.settings.model_copy(update=here), campaign.systems)


def look(folder: Path) -> dict[str, Any]:
    """Everything that its files say about a campaign; plain JSON values.

    Args:
        folder: `results/<campaign>`.

    Raises:
        InputError: no campaign there.
    """
    campaign = find(folder)
    lock = folder / ".lock"
    alive = files.is_locked(lock)
    activity = Activity.of(campaign, alive=alive)
    systems = [_system(campaign, name, activity) for name in campaign.systems]
    problems = [problem for system in systems for problem in system.pop("problems")]
    standing: dict[str, Any] = {
        "campaign": campaign.settings.campaign,
        "folder": str(folder),
        "alive": alive,
        "process": lock.read_text(encoding="utf-8") if lock.exists() else None,
        "last_sign_s": _age(folder),
        "systems": systems,
        "disk_bytes": disk_use(folder),
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "errors": sorted(problems, key=lambda problem: -problem["time"])[:ERRORS_AT_MOST],
    }
    return standing | {"next": _next(standing)}


def _system(campaign: Campaign, name: str, activity: Activity) -> dict[str, Any]:
    plan = campaign.systems[name]
    begun = list(paths.generations(campaign, name))
    jobs = paths.start_jobs(campaign, name)
    for number in begun:
        jobs += paths.generation_jobs(campaign, name, number)
    verdicts = [v for n in begun if (v := _verdict(campaign, name, n)) is not None]
    last = verdicts[-1] if verdicts else None
    over = last is not None and not goes_on(last, plan.settings)
    if last is not None and over:
        jobs += paths.end_jobs(campaign, name, last.decision)
    states = {job: activity.state(job) for job in jobs}
    by_state: dict[str, list[str]] = {}
    for job, state in states.items():
        by_state.setdefault(state, []).append(job.name)
    ended = over and all(state == "done" for state in states.values())
    active = [job for job, state in states.items() if state in ("running", "queued")]
    current = active or [job for job, state in states.items() if state != "done"]
    newest = begun[-1] if begun else None
    labels = _labels(campaign, name, jobs, last)
    return {
        "system": name,
        "generation": newest,
        "generations_allowed": plan.settings.limits.max_generations,
        "stage": None if ended else (current[0].stage if current else "verdict"),
        "done": len(by_state.get("done", [])),
        **{state: by_state.get(state, []) for state in ("running", "queued", "failed")},
        "interrupted": by_state.get("interrupted", []),
        "says": {job.name: line for job in active if (line := last_line(job.log))},
        "labels": labels | {"budget": plan.settings.limits.label_budget},
        "imported": _imported(campaign, name),
        "index": _index(campaign, name, begun, last),
        "errors": _errors(last),
        "decision": last.decision if last else None,
        "reason": last.reason if last else None,
        "ended": ended,
        "seconds_left": None if ended else seconds_left(campaign, name, states, newest),
        "problems": [p for job, state in states.items() if (p := activity.problem(job, state))],
    }


def _verdict(campaign: Campaign, name: str, number: int) -> Verdict | None:
    path = campaign.folder / name / paths.batch_name(number) / "verdict.json"
    return Verdict.read(path) if path.exists() else None


def _labels(
    campaign: Campaign, name: str, jobs: list[PlannedJob], last: Verdict | None
) -> dict[str, Any]:
    """Labels spent: what the last verdict counted, and all after it, in journals too."""
    spent = last.labels.spent if last else 0
    bad = last.labels.bad if last else 0
    counted = last.generation if last else paths.SEED - 1
    status: Counter[str] = Counter()
    unfinished = 0
    for job in jobs:
        number = paths.SEED if job.generation is None else job.generation
        if job.stage != "label" or number <= counted:
            continue
        if job.done:
            with suppress(InputError):
                frames = read_frames(job.outputs[0])
                status.update(f.info["status"] for f in frames if not is_imported(f))
        else:
            folder = paths.label_scratch(campaign, name, job.batch, job.shard or 0)
            records = _records(folder / journal.NAME)
            unfinished += records.total()
            status += records
    return {
        "spent": spent + status.total(),
        "without_label": bad + sum(n for outcome, n in status.items() if outcome != "ok"),
        "in_unfinished_jobs": unfinished,
    }


def _imported(campaign: Campaign, name: str) -> dict[str, Any] | None:
    """What became of the labels of files that it started from, with the numbers in a sentence."""
    with suppress(InputError):
        imported = summary_of(campaign.systems[name], campaign.folder / name)
        if imported is not None:
            return imported.content() | {"sentence": imported.sentence}
    return None


def _records(path: Path) -> Counter[str]:
    """Records in the journal of a label job so far, by status."""
    described = (entry.get("info") for entry in jsonl.read(path))
    return Counter(
        info["status"] for info in described if isinstance(info, dict) and "status" in info
    )


def _index(
    campaign: Campaign, name: str, begun: list[int], last: Verdict | None
) -> dict[str, Any] | None:
    """The newest generation that has been explored: Λ, and events against their limit."""
    plan = campaign.systems[name]
    for number in reversed(begun):
        folder = campaign.folder / name / paths.batch_name(number)
        try:
            replicas = ExplorationSummary.read(folder / "exploration.json").replicas
            traces = tables.read(folder / "traces.parquet").to_pandas()
        except (InputError, KeyError):
            continue
        if last is not None and last.generation == number:
            assessment = last.saturation
        else:
            assessment = saturation.assess_run(traces, replicas, plan.settings)
        ends = traces.groupby("replica").last()[f"cli_{deciding(traces.columns)}"]
        return {
            "generation": number,
            "cli_ps": float(ends.mean()) if len(ends) else None,
            "events_bound_per_ns": assessment.greatest("events_bound_per_ns"),
            "events_limit_per_ns": assessment.events_limit_per_ns,
            "rate_bound_per_atom_ps": assessment.rate_bound_per_atom_ps,
            "rate_limit_per_atom_ps": assessment.rate_limit_per_atom_ps,
            "failed": assessment.failed,
            "replicas": assessment.replicas,
            "finding": assessment.finding,
            "reason": assessment.reason,
        }
    return None


def _errors(last: Verdict | None) -> dict[str, Any] | None:
    """Errors of the newest audit, the worst structure and temperature, against their goals."""
    audit = last.audit if last else None
    if last is None or audit is None:
        return None
    forces, energies = (
        None if (measured := audit.worst(quantity)) is None else measured[1]
        for quantity in ("judged_forces_mae", "energy_mae_meV_per_atom")
    )
    return {
        "generation": last.generation,
        "forces_mae_meV_per_A": forces and forces.value,
        "forces_mae_bound_meV_per_A": forces and forces.high,
        "forces_goal_meV_per_A": audit.forces_goal_meV_per_A,
        "energy_mae_meV_per_atom": energies and energies.value,
        "energy_mae_bound_meV_per_atom": energies and energies.high,
        "energy_goal_meV_per_atom": audit.energy_goal_meV_per_atom,
        "frames": sum(part.frames for part in audit.parts),
        "finding": audit.finding,
        "reason": audit.reason,
        "blind": [signal.name for signal in last.signals if signal.blind],
    }


def _missing(systems: list[dict[str, Any]]) -> str:
    """Which systems are calm but wrong, and what to do about it; empty where none is."""
    wrong = [
        system["system"]
        for system in systems
        if system["errors"]
        and system["errors"]["finding"] == AuditFinding.MISSED
        and system["index"]
        and system["index"]["finding"] == Finding.SATURATED
    ]
    if not wrong:
        return ""
    return (
        f". Calm but wrong: {', '.join(wrong)}: more labels, a larger model, or goals under "
        "accuracy that it can reach; see the next step in report.html"
    )


def _age(folder: Path) -> float | None:
    """Seconds since the last sign of life: a log, or the ledger, was written."""
    written = [paths.ledger(folder), *folder.glob("*/logs/*.log")]
    times = [path.stat().st_mtime for path in written if path.exists()]
    return max(0.0, time.time() - max(times)) if times else None


def _next(standing: dict[str, Any]) -> str:
    """What a person should do now."""
    systems = standing["systems"]
    if standing["alive"]:
        if any(system["failed"] for system in systems):
            return (
                "other jobs still run; read the logs of the failed ones meanwhile, mend the "
                "cause, and run the same command again"
            )
        return "nothing: it runs"
    if all(system["ended"] for system in systems):
        limits = [s["system"] for s in systems if s["decision"] != "saturated"]
        if not limits:
            return "nothing: it is finished; read report.html of each system"
        return (
            f"{', '.join(limits)}: a limit was reached before saturation: raise "
            "limits.max_generations or limits.label_budget and run the same command: only the new "
            f"work is done{_missing(systems)}"
        )
    again = "run the same command (snakemake --configfile …): it continues where it stopped"
    if standing["errors"]:
        return f"read the logs of the errors, mend the cause, then {again}"
    return f"no process works on it: it was stopped or killed; {again}"
