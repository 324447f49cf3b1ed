"""`halcyon doctor`: checks whether a campaign will run here, and says what to do if not."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.text import Text

from halcyon.commands.doctor.checks import FAULT, LIMIT_S, OK, Check, examine, judged
from halcyon.commands.terminal import Commands, console, print_json
from halcyon.wording import count

STYLES = {OK: "green", "warning": "yellow", FAULT: "bold red"}
DOCTOR = Path(__file__).resolve().parents[4] / "workflow/doctor/Snakefile"
STAGES = {"forcefield": "OpenMM job", "explore": "MACE job", "label": "label job"}


def register(groups: Commands) -> None:
    """Add `halcyon doctor`."""
    command = groups.add_parser(
        "doctor",
        help="check that a campaign will run here",
        description="Check versions, disk, file locking, clock, SLURM and the reference, and run a "
        "tiny OpenMM, MACE and label job. Exits with 1 if there is a fault.",
    )
    command.add_argument(
        "--configfile",
        type=Path,
        default=Path("config/quickstart.yaml"),
        help="the campaign's file (default config/quickstart.yaml)",
    )
    command.add_argument("--profile", help="Snakemake profile that will be used, e.g. slurm")
    command.add_argument(
        "--submit",
        action="store_true",
        help="run the tiny jobs through Snakemake and the profile, as the campaign's jobs will be",
    )
    command.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="S",
        help=f"time limit of each tiny job, s (default {LIMIT_S:g}); with --submit, of all",
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    out, checks = console(), []
    outcomes = examine(
        arguments.configfile,
        arguments.profile,
        limit_s=arguments.limit,
        trials=not arguments.submit,
    )
    for check in outcomes:
        checks.append(check)
        if not arguments.json:
            out.print(shown(check), soft_wrap=True)
    if arguments.submit:
        for check in submitted(arguments.configfile, arguments.profile, arguments.limit):
            checks.append(check)
            if not arguments.json:
                out.print(shown(check), soft_wrap=True)
    faults = sum(check.verdict == FAULT for check in checks)
    if arguments.json:
        print_json({"faults": faults, "checks": [as_json(check) for check in checks]})
    else:
        out.print(
            count(faults, "fault") if faults else "ready", style=STYLES[FAULT if faults else OK]
        )
    return int(faults > 0)


def as_json(check: Check) -> dict[str, str]:
    """A check as programs read it."""
    return {
        "name": check.name,
        "verdict": check.verdict,
        "found": check.finding,
        "remedy": check.remedy,
    }


def shown(check: Check) -> Text:
    """A check in a line, and what to do in a second one."""
    line = Text.assemble(
        (f"{check.verdict:<8}", STYLES[check.verdict]),
        (f"{check.name:<15} ", "bold"),
        check.finding,
    )
    if check.remedy:
        line.append(f"\n{'':<24}→ {check.remedy}", style="italic")
    return line


def submitted(configfile: Path, profile: str | None, limit_s: float) -> list[Check]:
    """Run the tiny jobs through Snakemake, under the names of the campaign's rules.

    Args:
        configfile: the campaign's file.
        profile: folder or name of a Snakemake profile; None: on this machine.
        limit_s: time limit of all jobs together, s.
    """
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [str(snakemake), "--snakefile", str(DOCTOR), "--keep-going", "--forceall"]
    command += ["--config", f"configfile={configfile}"]
    if profile is not None:
        shipped = Path("workflow/profiles") / profile
        command += ["--workflow-profile", str(shipped if shipped.is_dir() else profile)]
    else:
        command += ["--cores", "1", "--workflow-profile", "none"]
    # A folder in the working folder, because the nodes of a cluster cannot see this /tmp.
    with tempfile.TemporaryDirectory(prefix=".halcyon-doctor-", dir=Path.cwd()) as folder:
        command.append(f"out={folder}")
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=limit_s,
                check=False,
                env=os.environ | {"PYTHONPATH": str(DOCTOR.parents[2] / "src")},
            )
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        except subprocess.TimeoutExpired:
            reason = f"not done after {limit_s:g} s; see squeue whether the jobs wait in the queue"
        checks = []
        for stage, name in STAGES.items():
            path = Path(folder) / f"{stage}.json"
            result = {"error": f"failed: {reason}"}
            if path.exists():
                result = json.loads(path.read_text(encoding="utf-8"))
            checks.append(judged(f"submitted {name}", result, "auto"))
        return checks
