"""What each job of a campaign does at this moment, and the last message of those that failed.

    from halcyon.campaign.paths import start_jobs
    from halcyon.commands.status.jobs import Activity

    activity = Activity.of(campaign, alive=False)
    for job in start_jobs(campaign, "ethanol"):
        print(job.name, activity.state(job))

The state follows from the job's outputs, the lock that it holds, Snakemake's log, and, on a
cluster, `squeue`.

Not for: which jobs there are (`campaign.paths`), or how Snakemake's log is read (`snakemake_log`).
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halcyon import files
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.paths import PlannedJob
from halcyon.commands.status import snakemake_log

SQUEUE_LIMIT_S = 10.0
TAIL_BYTES = 20_000
FAULT_WORDS = ("error ", "Error", "Exception", "Interrupted")
"""A line of a log with one of these says why its job ended."""


@dataclass(frozen=True)
class Activity:
    """What Snakemake's log and SLURM know of a campaign's jobs.

    Attributes:
        folder: of the campaign.
        alive: whether a process of Snakemake works on it.
        states: of jobs, by the path of their log file in the folder.
        slurm_logs: files with what SLURM keeps of jobs' output, by the same path.
    """

    folder: Path
    alive: bool
    states: dict[str, str]
    slurm_logs: dict[str, str]

    @classmethod
    def of(cls, campaign: Campaign, *, alive: bool) -> "Activity":
        """Read the newest of Snakemake's logs that names a campaign, and ask SLURM.

        Args:
            campaign: the whole campaign.
            alive: whether a process of Snakemake works on it.
        """
        folder = campaign.folder
        resolved = folder.resolve()
        places = list(dict.fromkeys([Path.cwd(), *resolved.parents]))
        # Snakemake names the folder as the configuration does.
        name = f"{resolved.parent.name}/{resolved.name}"
        path = snakemake_log.find_log(places, name)
        if path is None:
            return cls(folder, alive, {}, {})
        text = path.read_text(encoding="utf-8", errors="replace")
        jobs = [job for job in snakemake_log.parse(text).values() if name in job.log]
        running = [job.slurm for job in jobs if job.slurm and job.state == "running"]
        queue = _squeue(running)
        logs = {job.log.split(f"{name}/", 1)[1]: job for job in jobs}
        return cls(
            folder,
            alive,
            {log: _logged_state(job, queue, alive=alive) for log, job in logs.items()},
            {log: job.slurm_log for log, job in logs.items() if job.slurm_log},
        )

    def state(self, job: PlannedJob) -> str:
        """`done`, `running`, `queued`, `failed`, `interrupted` or `waiting`."""
        if job.done:
            return "done"
        if job.lock is not None and files.is_locked(job.lock):
            return "running"
        state = self.states.get(self._log(job), "waiting")
        if state == "done":  # and yet an output is missing: it will be made again
            return "waiting"
        if state == "waiting" and not self.alive and job.log.exists():
            return "interrupted"
        return state

    def problem(self, job: PlannedJob, state: str) -> dict[str, Any] | None:
        """The last message of a job that did not end well; None of all other jobs.

        Returns:
            `job`, `says`, `log`, `slurm_log` (or None) and `time`, s since 1970.
        """
        if state in ("done", "running", "queued"):
            return None
        line = last_line(job.log, words=FAULT_WORDS)
        if state != "failed" and line is None:
            return None
        return {
            "job": job.name,
            "says": line or "ended without a message: killed, or out of time or memory",
            "log": str(job.log),
            "slurm_log": self.slurm_logs.get(self._log(job)),
            "time": job.log.stat().st_mtime if job.log.exists() else 0.0,
        }

    def _log(self, job: PlannedJob) -> str:
        return job.log.relative_to(self.folder).as_posix()


def last_line(path: Path, words: tuple[str, ...] = ()) -> str | None:
    """The last line of a log, or the last that has one of some words; None where there is none."""
    try:
        with path.open("rb") as opened:
            opened.seek(max(0, path.stat().st_size - TAIL_BYTES))
            lines = opened.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        if line.strip() and (not words or any(word in line for word in words)):
            return line.strip()
    return None


def _logged_state(job: snakemake_log.Logged, queue: dict[str, str], *, alive: bool) -> str:
    """State by Snakemake's log, made more exact by SLURM's queue."""
    if job.state != "running":
        return job.state
    if not job.slurm:
        return "running" if alive else "interrupted"
    # A job that SLURM does not list has ended, and Snakemake will notice presently.
    unlisted = "running" if alive and not queue else "interrupted"
    return {"PENDING": "queued", "RUNNING": "running"}.get(queue.get(job.slurm, ""), unlisted)


def _squeue(numbers: list[str]) -> dict[str, str]:
    """State of SLURM's jobs by number; empty where SLURM does not answer."""
    squeue = shutil.which("squeue")
    if not numbers or squeue is None:
        return {}
    try:
        answer = subprocess.run(
            [squeue, "--noheader", "--format=%i %T", f"--jobs={','.join(numbers)}"],
            capture_output=True,
            text=True,
            timeout=SQUEUE_LIMIT_S,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split()[:2] for line in answer.splitlines() if len(line.split()) >= 2)
