"""What Snakemake's own log says about the jobs of a campaign: begun, queued, done, failed.

    from pathlib import Path
    from halcyon.commands.status.snakemake_log import find_log, parse

    path = find_log([Path.cwd()], "results/quickstart")
    jobs = parse(path.read_text()) if path else {}

The one module that knows what that log looks like (Snakemake 9.21 to 9.27). Lines that it does not
know are passed over: from a log of another version it learns less, never something wrong.

Not for: what a job itself says; that is in its own log.
"""

import re
from dataclasses import dataclass
from pathlib import Path

BEGUN = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$")
DETAIL = re.compile(r"^    (jobid|log): (.+?)(?: \(check log file.*\))?$")
FINISHED = re.compile(r"^Finished jobid: (\d+)")
FAILED = re.compile(r"^Error in (?:rule|checkpoint) (\w+)")
SUBMITTED = re.compile(r"^Job (\d+) has been submitted with SLURM jobid (\d+)(?: \(log: (.+)\))?")
RESTARTED = re.compile(r"^Trying to restart job (\d+)")
LOGS_AT_MOST = 20


@dataclass
class Logged:
    """A job as Snakemake's log describes it.

    Attributes:
        rule: name of its rule.
        log: its own log file, as the workflow names it.
        state: `running`, `done` or `failed`; a job that was given to SLURM counts as running.
        slurm: its number there; None of a job on this machine.
        slurm_log: file where SLURM keeps the job's output, if Snakemake says so.
    """

    rule: str
    log: str = ""
    state: str = "running"
    slurm: str | None = None
    slurm_log: str | None = None


def find_log(folders: list[Path], campaign: str) -> Path | None:
    """The newest of Snakemake's logs that names a campaign's files; None where none does.

    Args:
        folders: where Snakemake may have run.
        campaign: folder of the campaign's results, as the workflow names it.
    """
    logs = [
        (path.stat().st_mtime, path)
        for folder in folders
        for path in (folder / ".snakemake/log").glob("*.snakemake.log")
    ]
    for _, path in sorted(logs, reverse=True)[:LOGS_AT_MOST]:
        if f"{campaign}/" in path.read_text(encoding="utf-8", errors="replace"):
            return path
    return None


def parse(text: str) -> dict[str, Logged]:  # noqa: C901 - one branch per kind of line
    """Jobs of a log by the number that Snakemake gives them.

    A job that was tried again has the state of its last attempt.

    Args:
        text: of the whole log.
    """
    jobs: dict[str, Logged] = {}
    block: Logged | None = None
    failing = False
    for line in text.splitlines():
        if match := BEGUN.match(line):
            block, failing = Logged(match[1]), False
        elif match := FAILED.match(line):
            block, failing = Logged(match[1]), True
        elif (match := DETAIL.match(line)) and block is not None:
            if match[1] == "log":
                block.log = match[2]
                if failing:
                    continue
            elif failing:
                jobs.setdefault(match[2], block).state = "failed"
            else:
                jobs[match[2]] = block
        elif match := FINISHED.match(line):
            if match[1] in jobs:
                jobs[match[1]].state = "done"
        elif match := SUBMITTED.match(line):
            job = jobs.setdefault(match[1], Logged(""))
            job.slurm, job.slurm_log = match[2], match[3]
        elif (match := RESTARTED.match(line)) and match[1] in jobs:
            jobs[match[1]].state = "running"
    return jobs
