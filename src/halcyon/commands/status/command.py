"""`halcyon status` and `halcyon clean`: look at a campaign, and tidy up after it."""

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from halcyon.commands.terminal import Commands, console, print_json
from halcyon.errors import InputError

WATCH_S = 5.0
LATER = ("running", "queued", "failed", "interrupted")


def register(groups: Commands) -> None:
    """Add `halcyon status` and `halcyon clean`."""
    status = groups.add_parser(
        "status",
        help="where a campaign stands, while it runs or after a crash",
        description="Tell where a campaign stands: stages, jobs, labels, Λ against its goal, time "
        "left, disk, the last errors, and what to do. Only reads. Exits with 1 if a job failed or "
        "the campaign was interrupted.",
    )
    _add_campaign(status)
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=WATCH_S,
        metavar="S",
        help=f"look again every so many seconds (default {WATCH_S:g}), until Ctrl-C",
    )
    status.set_defaults(run=_status)
    clean = groups.add_parser(
        "clean",
        help="delete scratch files of closed generations",
        description="Show which scratch files of generations that have their verdict can go, and "
        "with --delete delete them. Results, labels, models and logs are never touched, nor files "
        "that Halcyon does not recognise as its own. Safe while the campaign runs.",
    )
    _add_campaign(clean)
    clean.add_argument("--delete", action="store_true", help="do it; without, only show")
    clean.add_argument(
        "--failed-frames", action="store_true", help="also the files of frames without a label"
    )
    clean.set_defaults(run=_clean)


def _add_campaign(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder", type=Path, nargs="?", help="results/<campaign>; by default the only one there is"
    )
    command.add_argument("--configfile", type=Path, help="instead of it, the campaign's file")


def folder_of(arguments: argparse.Namespace) -> Path:
    """The campaign that was asked for, or the only one there is."""
    from halcyon import config

    folder, file = arguments.folder, arguments.configfile
    if folder is not None and folder.is_file():
        folder, file = None, folder
    if folder is not None:
        return Path(folder)
    if file is not None:
        settings = config.parse_campaign(config.read_yaml(file), str(file))
        return settings.results / settings.campaign
    found = [path.parent for path in sorted(Path("results").glob("*/campaign.json"))]
    if len(found) != 1:
        names = ", ".join(map(str, found)) or "none"
        raise InputError(f"which campaign? Give its folder or --configfile; there are: {names}")
    return found[0]


def _status(arguments: argparse.Namespace) -> int:
    from halcyon.commands.status.standing import look

    folder = folder_of(arguments)
    found = look(folder)
    if arguments.json:
        print_json(found)
    elif arguments.watch is None:
        console().print(shown(found))
    else:
        with Live(shown(found), console=console(), auto_refresh=False) as live:
            while True:
                time.sleep(arguments.watch)
                found = look(folder)
                live.update(shown(found), refresh=True)
    wrong = any(s["failed"] or (s["interrupted"] and not found["alive"]) for s in found["systems"])
    return int(wrong)


def shown(found: dict[str, Any]) -> Group:
    """What a person sees."""
    alive = f"runs ({found['process']})" if found["alive"] else "no process works on it"
    head = Text(f"{found['campaign']}: {alive}", style="bold")
    if found["last_sign_s"] is not None:
        head.append(f"; last sign of life {_time(found['last_sign_s'])} ago", style="default")
    table = Table()
    for heading in ("system", "generation", "stage", "labels", "Λ, ps", "rate bound / goal"):
        table.add_column(heading)
    table.add_column("left")
    lines: list[Text] = []
    for system in found["systems"]:
        table.add_row(*_cells(system))
        for state in LATER:
            if names := system[state]:
                style = {"failed": "red", "interrupted": "yellow"}.get(state, "default")
                lines.append(Text(f"{state}: {', '.join(names)}", style=style))
        lines += [Text(f"  {line}", style="dim") for line in system["says"].values()]
        if system["decision"]:
            lines.append(Text(f"{system['system']}: {system['decision']}: {system['reason']}"))
    for error in found["errors"]:
        lines.append(Text(f"{error['job']}: {error['says']}", style="red"))
        lines.append(Text(f"  log: {error['log']}"))
        if error["slurm_log"]:
            lines.append(Text(f"  log: {error['slurm_log']}"))
    disk = ", ".join(f"{kind} {size / 1e6:.1f} MB" for kind, size in found["disk_bytes"].items())
    lines.append(Text(f"disk: {disk}; free {found['disk_free_bytes'] / 1e9:.1f} GB"))
    lines.append(Text(f"next: {found['next']}", style="bold"))
    return Group(head, table, *lines)


def _cells(system: dict[str, Any]) -> list[str]:
    generation, labels, index = system["generation"], system["labels"], system["index"]
    working = f" ({labels['in_unfinished_jobs']} just now)" if labels["in_unfinished_jobs"] else ""
    without = f", {labels['without_label']} without" if labels["without_label"] else ""
    bound = "–"
    if index and index["rate_bound_per_atom_ps"] is not None:
        goal = index["rate_limit_per_atom_ps"]
        bound = f"{index['rate_bound_per_atom_ps']:.3g} / {goal:g} per atom and ps"
        if index["failed"]:
            bound += f", {index['failed']} of {index['replicas']} replicas failed"
    left = system["seconds_left"]
    return [
        system["system"],
        "–" if generation is None else f"{generation} of at most {system['generations_allowed']}",
        "ended" if system["ended"] else system["stage"],
        f"{labels['spent']} of {labels['budget']}{working}{without}",
        "–" if not index or index["cli_ps"] is None else f"{index['cli_ps']:.3g}",
        bound,
        "–" if left is None else f"{_time(left[0])} to {_time(left[1])}",
    ]


def _time(seconds: float) -> str:
    from halcyon.campaign.stage import duration

    return duration(seconds)


def _clean(arguments: argparse.Namespace) -> int:
    from halcyon.campaign import retention
    from halcyon.commands.status.standing import find

    campaign = find(folder_of(arguments))
    found = retention.scraps(campaign, all_frames=arguments.failed_frames)
    files, size = Counter[str](), Counter[str]()
    for scrap in found:
        files[scrap.kind] += 1
        size[scrap.kind] += scrap.size
    out = console()
    for kind, number in files.items():
        out.print(f"{kind}: {number:,} files, {size[kind] / 1e6:.1f} MB")
    if not found:
        out.print(f"{campaign.folder}: nothing to delete")
    elif arguments.delete:
        number, freed = retention.delete(campaign, found)
        out.print(f"{number:,} files deleted, {freed / 1e6:.1f} MB", style="green")
    else:
        out.print("nothing was deleted; with --delete it is", style="bold")
    return 0
