"""`halcyon doctor`: whether a campaign will run here, and what to do if not."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from halcyon.commands.doctor.checks import FAULT, LIMIT_S, OK, Check, examine, judged
from halcyon.commands.terminal import Commands, console, print_json

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
        help="run the tiny jobs through Snakemake with that profile, as the campaign's would be",
    )
    command.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="S",
        help=f"time limit of each tiny job, s (default {LIMIT_S:g}); of all with --submit",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    out, checks = console(), []
    found = examine(
        arguments.configfile,
        arguments.profile,
        limit_s=arguments.limit,
        trials=not arguments.submit,
    )
    for check in found:
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
        print_json({"faults": faults, "checks": [asdict(check) for check in checks]})
    else:
        out.print(f"{faults} faults" if faults else "ready", style=STYLES[FAULT if faults else OK])
    return int(faults > 0)


def shown(check: Check) -> Text:
    """One line, and what to do."""
    line = Text.assemble(
        (f"{check.verdict:<8}", STYLES[check.verdict]), (f"{check.name:<15} ", "bold"), check.found
    )
    if check.remedy:
        line.append(f"\n{'':<24}→ {check.remedy}", style="italic")
    return line


def submitted(configfile: Path, profile: str | None, limit_s: float) -> list[Check]:
    """The tiny jobs, through Snakemake and the profile: under the names of the campaign's rules."""
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [str(snakemake), "--snakefile", str(DOCTOR), "--keep-going", "--forceall"]
    command += ["--config", f"configfile={configfile}"]
    if profile is not None:
        known = Path("workflow/profiles") / profile
        command += ["--workflow-profile", str(known if known.is_dir() else profile)]
    else:
        command += ["--cores", "1", "--workflow-profile", "none"]
    # In the working folder, not in /tmp: nodes of a cluster must see it.
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
            said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        except subprocess.TimeoutExpired:
            said = [f"not done after {limit_s:g} s: do the jobs wait in the queue? See squeue"]
        checks = []
        for stage, name in STAGES.items():
            path = Path(folder) / f"{stage}.json"
            found = {"error": f"did not end well: {said[0]}"}
            if path.exists():
                found = json.loads(path.read_text(encoding="utf-8"))
            checks.append(judged(f"submitted {name}", found, "auto"))
        return checks
