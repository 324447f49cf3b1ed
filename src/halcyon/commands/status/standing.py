"""Where a campaign stands, from its files alone: while it runs or after a crash.

    found = look(Path("results/quickstart"))

Nothing is written and nothing is held: a second user who may only read sees the same. Whether the
campaign's process lives is told by its lock, what its jobs do by Snakemake's log, their own logs,
and, on a cluster, `squeue`.

Not for: what a campaign will cost (`plan`), or its results (`report`).
"""

import json
import os
import shutil
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from halcyon import files
from halcyon.campaign import paths as layout
from halcyon.campaign import work
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.paths import Job
from halcyon.commands.status import snakemake_log
from halcyon.errors import InputError
from halcyon.report import read_ledger
from halcyon.verdict import saturation
from halcyon.verdict.forms import ExplorationSummary, Verdict
from halcyon.verdict.saturation import goes_on

SQUEUE_LIMIT_S = 10.0
ERRORS_AT_MOST = 10
TAIL_BYTES = 20_000
KINDS = {
    "models": (".model",),
    "labels and frames": ("frames.parquet", "selected.parquet", "candidates.parquet"),
    "traces": ("traces.parquet", "parity.parquet"),
    "trajectories": ("trajectory.parquet",),
    "pages": (".html",),
    "logs": (".log", ".jsonl"),
}


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
    """Everything about a campaign that its files tell; plain JSON values.

    Args:
        folder: `results/<campaign>`.

    Raises:
        InputError: no campaign there.
    """
    campaign = find(folder)
    lock = folder / ".lock"
    alive = files.is_locked(lock)
    logged = _logged(folder, alive=alive)
    systems = [_system(campaign, name, logged, alive=alive) for name in campaign.systems]
    disk = disk_use(folder)
    problems = [problem for system in systems for problem in system.pop("problems")]
    found: dict[str, Any] = {
        "campaign": campaign.settings.campaign,
        "folder": str(folder),
        "alive": alive,
        "process": lock.read_text(encoding="utf-8") if lock.exists() else None,
        "last_sign_s": _age(folder),
        "systems": systems,
        "disk_bytes": disk,
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "errors": sorted(problems, key=lambda p: -p["time"])[:ERRORS_AT_MOST],
    }
    return found | {"next": _next(found)}


def _logged(folder: Path, *, alive: bool) -> dict[str, tuple[str, str | None]]:
    """State and, where SLURM keeps one, output file of each job, by the end of its log's path."""
    resolved = folder.resolve()
    places = list(dict.fromkeys([Path.cwd(), *resolved.parents]))
    # Snakemake names the folder as the configuration does.
    name = f"{resolved.parent.name}/{resolved.name}"
    path = snakemake_log.find_log(places, name)
    if path is None:
        return {}
    jobs = snakemake_log.parse(path.read_text(encoding="utf-8", errors="replace"))
    queued = _squeue([job.slurm for job in jobs.values() if job.slurm and job.state == "running"])
    found = {}
    for job in jobs.values():
        state = job.state
        if state == "running" and job.slurm:
            # What SLURM no longer knows has ended, and Snakemake will see it presently.
            state = {"PENDING": "queued", "RUNNING": "running"}.get(
                queued.get(job.slurm, ""), "running" if alive and not queued else "interrupted"
            )
        elif state == "running" and not alive:
            state = "interrupted"
        if name in job.log:
            found[job.log.split(f"{name}/", 1)[1]] = (state, job.slurm_log)
    return found


def _squeue(numbers: list[str]) -> dict[str, str]:
    """State of SLURM's jobs by number; nothing where SLURM does not answer."""
    squeue = shutil.which("squeue")
    if not numbers or squeue is None:
        return {}
    try:
        said = subprocess.run(
            [squeue, "--noheader", "--format=%i %T", f"--jobs={','.join(numbers)}"],
            capture_output=True,
            text=True,
            timeout=SQUEUE_LIMIT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split()[:2] for line in said.splitlines() if len(line.split()) >= 2)


def _system(
    campaign: Campaign, name: str, logged: dict[str, tuple[str, str | None]], *, alive: bool
) -> dict[str, Any]:
    """One system."""
    plan = campaign.systems[name]
    begun = list(layout.generations(campaign, name))
    jobs = layout.start_jobs(campaign, name)
    for number in begun:
        jobs += layout.generation_jobs(campaign, name, number)
    verdicts = [v for n in begun if (v := _verdict(campaign, name, n)) is not None]
    last = verdicts[-1] if verdicts else None
    over = last is not None and not goes_on(last, plan.settings)
    if last is not None and over:
        jobs += layout.end_jobs(campaign, name, last.decision)
    states = {job: _state(job, campaign, logged, alive=alive) for job in jobs}
    by_state: dict[str, list[str]] = {}
    for job, state in states.items():
        by_state.setdefault(state, []).append(job.name)
    ended = over and all(state == "done" for state in states.values())
    active = [job for job, state in states.items() if state in ("running", "queued")]
    waiting = [job for job, state in states.items() if state != "done"]
    now = active or waiting
    labels = _labels(campaign, name, jobs, last)
    return {
        "system": name,
        "generation": begun[-1] if begun else None,
        "generations_allowed": plan.settings.limits.max_generations,
        "stage": None if ended else (now[0].stage if now else "verdict"),
        "done": len(by_state.get("done", [])),
        **{state: by_state.get(state, []) for state in ("running", "queued", "failed")},
        "interrupted": by_state.get("interrupted", []),
        "says": {job.name: line for job in active if (line := _last_line(job.log))},
        "labels": labels | {"budget": plan.settings.limits.label_budget},
        "index": _index(campaign, name, begun, last),
        "decision": last.decision if last else None,
        "reason": last.reason if last else None,
        "ended": ended,
        "seconds_left": None if ended else _left(campaign, name, states, begun),
        "problems": [p for job, state in states.items() if (p := _problem(job, state, logged))],
    }


def _state(
    job: Job, campaign: Campaign, logged: dict[str, tuple[str, str | None]], *, alive: bool
) -> str:
    """`done`, `running`, `queued`, `failed`, `interrupted` or `waiting`."""
    if job.done:
        return "done"
    if job.lock is not None and files.is_locked(job.lock):
        return "running"
    said = logged.get(job.log.relative_to(campaign.folder).as_posix(), ("waiting", None))[0]
    if said == "done":  # and yet an output is missing: it will be made again
        return "waiting"
    if said == "waiting" and not alive and job.log.exists():
        return "interrupted"
    return said


def _verdict(campaign: Campaign, name: str, number: int) -> Verdict | None:
    path = campaign.folder / name / f"gen{number:03d}" / "verdict.json"
    return Verdict.read(path) if path.exists() else None


def _labels(campaign: Campaign, name: str, jobs: list[Job], last: Verdict | None) -> dict[str, Any]:
    """Labels spent: what the last verdict counted, and all after it, in journals too."""
    spent = last.labels.spent if last else 0
    bad = last.labels.bad if last else 0
    counted = last.generation if last else -2
    status: Counter[str] = Counter()
    working = 0
    for job in jobs:
        number = -1 if job.generation is None else job.generation
        if job.stage != "label" or number <= counted:
            continue
        if job.done:
            with suppress(pa.ArrowException, OSError, KeyError):
                status.update(
                    pq.read_table(job.outputs[0], columns=["status"])["status"].to_pylist()
                )
        else:
            journal = layout.label_scratch(campaign, name, job.batch, job.shard or 0)
            found = _journal(journal / "journal.jsonl")
            working += sum(found.values())
            status += found
    return {
        "spent": spent + sum(status.values()),
        "without_label": bad + sum(n for s, n in status.items() if s != "ok"),
        "in_unfinished_jobs": working,
    }


def _journal(path: Path) -> Counter[str]:
    """Records of a label job so far, by status."""
    found: Counter[str] = Counter()
    with suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            with suppress(ValueError, KeyError):  # torn: it is being written
                found[json.loads(line)["info"]["status"]] += 1
    return found


def _index(
    campaign: Campaign, name: str, begun: list[int], last: Verdict | None
) -> dict[str, Any] | None:
    """The newest generation that has been explored: Λ, and the rate against its goal."""
    plan = campaign.systems[name]
    for number in reversed(begun):
        folder = campaign.folder / name / f"gen{number:03d}"
        try:
            replicas = ExplorationSummary.read(folder / "exploration.json").replicas
            traces = pd.read_parquet(folder / "traces.parquet")
        except (InputError, OSError, pa.ArrowException, KeyError):
            continue
        if last is not None and last.generation == number:
            found = last.saturation
        else:
            found = saturation.assess_run(traces, replicas, plan.settings)
        ends = traces.groupby("replica").last()["cli_label"]
        return {
            "generation": number,
            "cli_ps": float(ends.mean()) if len(ends) else None,
            "rate_bound_per_atom_ps": found.rate_bound_per_atom_ps,
            "rate_limit_per_atom_ps": found.rate_limit_per_atom_ps,
            "failed": found.failed,
            "replicas": found.replicas,
            "finding": found.finding,
        }
    return None


def _left(
    campaign: Campaign, name: str, states: dict[Job, str], begun: list[int]
) -> list[float] | None:
    """Seconds to the next verdict at least, and to the last allowed at most; one job at a time.

    From what this system's own jobs took; None before there are any.
    """
    plan = campaign.systems[name]
    entries = read_ledger(campaign.folder / "stages.jsonl", name)
    rates = work.from_ledger(plan, entries, "")
    labelled = [e["seconds"] for e in entries if e["stage"] == "label"]
    current = begun[-1] if begun else None

    def seconds(stage: str, generation: int | None, part: float) -> tuple[float, float]:
        if stage == "label":
            shards = plan.settings.resources.label_shards
            each = [s * shards for s in labelled] or [0.0]
            return min(each) * part, max(each) * work.LEDGER[1] * part
        if stage not in rates:
            return 0.0, 0.0
        took = rates[stage].times(work.units(plan, stage, generation) * part)
        return took.low, took.high

    if "train" not in rates:
        return None
    unfinished: Counter[tuple[str, int | None]] = Counter()
    every: Counter[tuple[str, int | None]] = Counter()
    for job, state in states.items():
        every[job.stage, job.generation] += 1
        unfinished[job.stage, job.generation] += state != "done"
    parts = [seconds(s, g, n / every[s, g]) for (s, g), n in unfinished.items()]
    least, most = sum(low for low, _ in parts), sum(high for _, high in parts)
    following = range(-1 if current is None else current, plan.settings.limits.max_generations)
    for generation in following[1:]:
        most += sum(seconds(stage, generation, 1)[1] for stage in layout.GENERATION)
    return [least, most]


def _problem(
    job: Job, state: str, logged: dict[str, tuple[str, str | None]]
) -> dict[str, Any] | None:
    """What a job that did not end well said last."""
    if state in ("done", "running", "queued"):
        return None
    line = _last_line(job.log, words=("error ", "Error", "Exception", "Interrupted"))
    if state != "failed" and line is None:
        return None
    slurm = next((out for log, (_, out) in logged.items() if job.log.match(log)), None)
    modified = job.log.stat().st_mtime if job.log.exists() else 0.0
    said = line or "ended without a word: killed, or out of time or memory"
    return {
        "job": job.name,
        "says": said,
        "log": str(job.log),
        "slurm_log": slurm,
        "time": modified,
    }


def _last_line(path: Path, words: tuple[str, ...] = ()) -> str | None:
    """The last line of a log, or the last that has one of some words."""
    try:
        with path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = opened.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    found = [
        line for line in lines if line.strip() and (not words or any(w in line for w in words))
    ]
    return found[-1].strip() if found else None


def disk_use(folder: Path) -> dict[str, int]:
    """Bytes by kind of file; links are not followed."""
    found: Counter[str] = Counter()
    for place, _, names in os.walk(folder):
        parts = Path(place).relative_to(folder).parts
        for name in names:
            with suppress(OSError):
                size = os.lstat(Path(place) / name).st_size
                found[_kind(parts, name)] += size
    return dict(found.most_common())


def _kind(parts: tuple[str, ...], name: str) -> str:
    if parts[:1] == ("work",):
        return "scratch (work/)"
    if parts[-1:] == ("labels",):
        return "labels and frames"
    return next((kind for kind, ends in KINDS.items() if name.endswith(ends)), "other")


def _age(folder: Path) -> float | None:
    """Seconds since the last sign of life: a log, or the ledger, was written."""
    paths = [folder / "stages.jsonl", *folder.glob("*/logs/*.log")]
    times = [path.stat().st_mtime for path in paths if path.exists()]
    return max(0.0, time.time() - max(times)) if times else None


def _next(found: dict[str, Any]) -> str:
    """What a person should do now."""
    systems = found["systems"]
    if found["alive"]:
        if any(system["failed"] for system in systems):
            return (
                "it runs on; see the failed jobs' logs meanwhile, mend the cause, and run it again"
            )
        return "nothing: it runs"
    if all(system["ended"] for system in systems):
        limits = [s["system"] for s in systems if s["decision"] != "saturated"]
        if not limits:
            return "nothing: it is finished; read report.html of each system"
        return (
            f"{', '.join(limits)}: a limit came before saturation: raise limits.max_generations or "
            "limits.label_budget and run the same command: only the new work is done"
        )
    again = "run the same command (snakemake --configfile …): it goes on where it was"
    if found["errors"]:
        return f"see the errors' logs, mend the cause, then {again}"
    return f"no process works on it: it was stopped or killed; {again}"
