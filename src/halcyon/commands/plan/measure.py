"""Run the trials of a campaign, each in a process of its own, with a time limit.

Not for: what a trial does (`trial`), or what follows from it (`rates`).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from halcyon.campaign import paths
from halcyon.campaign.campaign import Campaign
from halcyon.commands.plan.trial import TRIALS

Trials: TypeAlias = dict[str, dict[str, Any]]
"""What the trials of a system measured, by name of the trial; see `trial`."""
STAGE = {"model": "explore"}
"""Stage whose number of cores a trial gets, where that is not its own name."""


def measure(
    campaign: Campaign,
    configfile: Path,
    *,
    limit_s: float,
    tell: Callable[[str], None] = lambda _line: None,
) -> dict[str, Trials]:
    """Run the trials of every system.

    Args:
        campaign: read from `configfile`.
        configfile: what the trials read.
        limit_s: for each of them.
        tell: called with a line of progress.

    Returns:
        By system and trial; where a trial failed, its `error`.
    """
    measured: dict[str, Trials] = {}
    for system, plan in campaign.systems.items():
        measured[system] = {}
        for trial in TRIALS:
            tell(f"{system}: measuring {trial}")
            threads = paths.cores_of(plan, STAGE.get(trial, trial))
            measured[system][trial] = run_trial(
                trial, configfile, system, threads=threads, limit_s=limit_s
            )
    return measured


def run_trial(
    trial: str, configfile: Path, system: str, *, threads: int, limit_s: float, tiny: bool = False
) -> dict[str, Any]:
    """One trial; what it measured, or its `error`.

    Args:
        trial: one of `TRIALS`.
        configfile: the campaign's file.
        system: its name.
        threads: of PyTorch and the reference.
        limit_s: after so many seconds it is given up: `timeout` is true then.
        tiny: only whether it runs, on as little as shows that.
    """
    command = [sys.executable, "-m", "halcyon.commands.plan.trial", trial]
    command += ["--configfile", str(configfile), "--system", system, "--threads", str(threads)]
    command += ["--tiny"] if tiny else []
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
        last = (done.stderr or done.stdout).strip().splitlines()
        return {"error": last[-1] if last else f"exit code {done.returncode}"}
