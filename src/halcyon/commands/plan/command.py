"""`halcyon plan`: what a campaign will cost, and, once jobs are done, beside what they did cost.

Not for: the numbers (`forecast`); this is the command line and its tables.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from halcyon.commands.terminal import Commands, console, print_json, tell
from halcyon.wording import listed

LIMIT_S = 600.0


def register(groups: Commands) -> None:
    """Add `halcyon plan`."""
    command = groups.add_parser(
        "plan",
        help="what a campaign will cost: jobs, core- and GPU-hours, disk",
        description="Estimate jobs, core- and GPU-hours, labels and disk of a campaign, from one "
        "generation to all that are allowed. Speeds are measured on this machine, by tiny jobs on "
        "the campaign's own settings, or taken from earlier campaigns and stored labels. Jobs that "
        "are done are shown beside what is predicted for them. Nothing is written.",
    )
    command.add_argument("--configfile", type=Path, required=True, help="the campaign's file")
    command.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="S",
        help=f"time limit of each measurement, s (default {LIMIT_S:g})",
    )
    command.add_argument(
        "--no-measure",
        action="store_true",
        help="run no tiny jobs: speeds come from earlier campaigns and stored labels only",
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    return show_plan(
        arguments.configfile,
        limit_s=arguments.limit,
        no_measure=arguments.no_measure,
        as_json=arguments.json,
    )


def show_plan(
    configfile: Path, *, limit_s: float = LIMIT_S, no_measure: bool = False, as_json: bool = False
) -> int:
    """Print what a campaign will cost; return the exit code.

    Args:
        configfile: the campaign's file.
        limit_s: time limit of each measurement, s.
        no_measure: predict from earlier campaigns and labels alone.
        as_json: print one JSON object instead of tables.

    Raises:
        InputError: the campaign cannot run as it is configured.
    """
    from halcyon import config
    from halcyon.campaign.campaign import Campaign
    from halcyon.commands.plan.forecast import forecast
    from halcyon.commands.plan.measure import measure
    from halcyon.commands.plan.trial import cpu_clock

    campaign = Campaign.resolve(config.read_yaml(configfile), str(configfile))
    begun = cpu_clock()
    subprocess.run(
        [sys.executable, "-c", "import halcyon.campaign.stage, halcyon.models.mace"], check=True
    )
    start_s = cpu_clock() - begun
    trials: dict[str, Any] = {}
    if not no_measure:
        quiet = as_json or not sys.stderr.isatty()
        trials = measure(
            campaign,
            configfile,
            limit_s=limit_s,
            tell=(lambda _line: None) if quiet else (lambda line: tell(line, style="dim")),
        )
    result = forecast(campaign, trials, start_s=start_s)
    if as_json:
        print_json(result)
    else:
        for system in result["systems"]:
            _show_system(system)
        _show_total(result)
    return 1 if any(system["unknown"] for system in result["systems"]) else 0


def _show_system(system: dict[str, Any]) -> None:
    out = console()
    table = Table(title=system["system"], title_justify="left", title_style="bold")
    table.add_column("")
    for heading in ("jobs", "labels", "core-hours", "GPU-hours", "disk, GB"):
        table.add_column(heading, justify="right")
    for part in system["batches"]:
        number = part["generation"]
        names = {None: "before the first", "end": "after the last"}
        _row(table, names.get(number, f"generation {number}"), part)
    table.add_section()
    _row(table, "at least (one generation)", system["least"])
    _row(table, "at most (all allowed)", system["most"])
    out.print(table)
    out.print(system["model"], markup=False)
    for line in (system["audit"], system["longer"]):
        if line:
            out.print(line, markup=False)
    for rate in system["rates"]:
        low, likely, high = rate["seconds"]
        out.print(
            f"{rate['stage']}: {likely:.3g} s per {rate['unit']} ({low:.2g}–{high:.2g}); "
            f"{rate['source']}",
            markup=False,
        )
    if stages := system["unmeasured"]:
        tell(
            f"{system['system']}: not known yet how long {listed(stages)} take: only the start of "
            "these jobs is in the sums",
            style="yellow",
        )
    for trial, error in system["unknown"].items():
        tell(
            f"{system['system']}: the {trial} trial failed, the sums lack what it measures: {error}"
        )
    if actual := system.get("actual"):
        _show_actual(actual)


def _row(table: Table, name: str, part: dict[str, Any]) -> None:
    cells = (_interval(part[key]) for key in ("core_hours", "gpu_hours", "disk_GB"))
    labels = f"≤ {part['labels']:,}" if part["labels"] else "0"
    table.add_row(name, f"{part['jobs']:,}", labels, *cells)


def _show_actual(actual: dict[str, Any]) -> None:
    table = Table(title="so far", title_justify="left")
    table.add_column("stage")
    for heading in ("jobs done", "predicted core-hours", "actual"):
        table.add_column(heading, justify="right")
    for stage, entry in actual["stages"].items():
        hours = entry["predicted_core_hours"]
        predicted = _interval(hours) if hours else "–"
        table.add_row(stage, str(entry["jobs"]), predicted, f"{entry['core_hours']:.3g}")
    console().print(table)


def _interval(values: list[float]) -> str:
    if not any(values):
        return "0"
    return f"{values[1]:.2g} ({values[0]:.2g}–{values[2]:.2g})"


def _show_total(result: dict[str, Any]) -> None:
    total = result["total"]
    gpu_hours = [f"{hours:.2g}" for hours in total["gpu_hours"]]
    gpu = f"{gpu_hours[0]} to {gpu_hours[1]} GPU-hours, " if any(total["gpu_hours"]) else ""
    console().print(
        f"campaign {result['campaign']}, from one generation to all: "
        f"{total['core_hours'][0]:.2g} to {total['core_hours'][1]:.2g} core-hours, "
        f"{gpu}{total['jobs'][0]:,} to {total['jobs'][1]:,} jobs, "
        f"at most {total['labels'][1]:,} labels, "
        f"{total['disk_GB'][0]:.2g} to {total['disk_GB'][1]:.2g} GB",
        style="bold",
        markup=False,
    )
    limit = result["limit"]
    if limit["core_hours"] is not None:
        console().print(
            f"limits.core_hours: {limit['core_hours']:g} (of {limit['of']}): once so many are "
            "spent, no calculation is started until the limit is raised",
            markup=False,
        )
