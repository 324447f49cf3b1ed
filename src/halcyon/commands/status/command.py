"""`halcyon status` and `halcyon clean`: look at a campaign, and tidy up after it.

Not for: finding out where a campaign stands (`standing`), or what may be deleted
(`campaign.retention`); this is the command line and its tables.
"""

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
from halcyon.wording import count, duration, listed, number_text

WATCH_S = 5.0
NAMED_STATES = ("running", "queued", "failed", "interrupted")
"""States whose jobs are named."""


def register(groups: Commands) -> None:
    """Add `halcyon status` and `halcyon clean`."""
    status = groups.add_parser(
        "status",
        help="where a campaign stands, while it runs or after a crash",
        description="Show where a campaign stands: stages, jobs, labels, Λ, events and errors "
        "against their goals, time left, disk, the last errors, and what to do next. Writes "
        "nothing. Exits with 1 if a job failed or the campaign was interrupted.",
    )
    _add_campaign(status)
    status.add_argument("--json", action="store_true", help="print JSON, for programs")
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
        help="delete scratch files of finished generations",
        description="Show which scratch files of generations that have their verdict can be "
        "deleted, and with --delete delete them. Results, labels, models and logs are never "
        "touched, nor files that Halcyon does not recognise as its own. Safe while the campaign "
        "runs.",
    )
    _add_campaign(clean)
    clean.add_argument("--delete", action="store_true", help="delete them; without it, only show")
    clean.add_argument(
        "--failed-frames", action="store_true", help="also the files of frames without a label"
    )
    clean.set_defaults(run=_clean)


def _add_campaign(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "folder",
        type=Path,
        nargs="?",
        help="results/<campaign>, or the campaign's file; by default the only one in results/",
    )
    command.add_argument("--configfile", type=Path, help="the campaign's file, instead of FOLDER")


def folder_of(arguments: argparse.Namespace) -> Path:
    """Folder of the campaign that the arguments name, or of the only one in `results/`."""
    from halcyon import config

    folder, file = arguments.folder, arguments.configfile
    if folder is not None and folder.is_file():
        folder, file = None, folder
    if folder is not None:
        return Path(folder)
    if file is not None:
        settings = config.parse_campaign(config.read_yaml(file), str(file))
        return settings.results / settings.campaign
    campaigns = [path.parent for path in sorted(Path("results").glob("*/campaign.json"))]
    if not campaigns:
        raise InputError("no campaign in results/: give a campaign's folder, or --configfile")
    if len(campaigns) > 1:
        folders = listed(map(str, campaigns), "or")
        raise InputError(f"several campaigns in results/: give the folder of one: {folders}")
    return campaigns[0]


def _status(arguments: argparse.Namespace) -> int:
    from halcyon.commands.status.standing import look

    folder = folder_of(arguments)
    standing = look(folder)
    if arguments.json:
        print_json(standing)
    elif arguments.watch is None:
        console().print(shown(standing))
    else:
        with Live(shown(standing), console=console(), auto_refresh=False) as live:
            while True:
                time.sleep(arguments.watch)
                standing = look(folder)
                live.update(shown(standing), refresh=True)
    alive = standing["alive"]
    return int(any(s["failed"] or (s["interrupted"] and not alive) for s in standing["systems"]))


def shown(standing: dict[str, Any]) -> Group:
    """What a person sees.

    Args:
        standing: see `standing.look`.
    """
    alive = f"runs ({standing['process']})" if standing["alive"] else "no process works on it"
    head = Text(f"{standing['campaign']}: {alive}", style="bold")
    if standing["last_sign_s"] is not None:
        head.append(f"; last sign of life {duration(standing['last_sign_s'])} ago", style="default")
    table = Table()
    for heading in ("system", "generation", "stage", "labels", "Λ, ps"):
        table.add_column(heading)
    for heading in ("events / λ*", "force error / goal, meV/Å", "left"):
        table.add_column(heading)
    lines: list[Text] = []
    for system in standing["systems"]:
        table.add_row(*_cells(system))
        lines += _lines(system)
    for error in standing["errors"]:
        lines.append(Text(f"{error['job']}: {error['says']}", style="red"))
        lines.append(Text(f"  log: {error['log']}"))
        if error["slurm_log"]:
            lines.append(Text(f"  log: {error['slurm_log']}"))
    sizes = standing["disk_bytes"].items()
    disk = ", ".join(f"{sort} {size / 1e6:.1f} MB" for sort, size in sizes)
    lines.append(Text(f"disk: {disk}; free {standing['disk_free_bytes'] / 1e9:.1f} GB"))
    lines.append(Text(f"next: {standing['next']}", style="bold"))
    return Group(head, table, *lines)


def _lines(system: dict[str, Any]) -> list[Text]:
    """What is said of a system below the table."""
    lines = []
    for state in NAMED_STATES:
        if names := system[state]:
            style = {"failed": "red", "interrupted": "yellow"}.get(state, "default")
            lines.append(Text(f"{state}: {', '.join(names)}", style=style))
    lines += [Text(f"  {line}", style="dim") for line in system["says"].values()]
    if system["imported"]:
        lines.append(Text(f"{system['system']}: {system['imported']['sentence']}"))
    if system["decision"]:
        lines.append(Text(f"{system['system']}: {system['decision']}: {system['reason']}"))
    return lines


def _cells(system: dict[str, Any]) -> list[str]:
    generation, labels, index = system["generation"], system["labels"], system["index"]
    unfinished = labels["in_unfinished_jobs"]
    working = f" ({unfinished} in unfinished jobs)" if unfinished else ""
    failed = f", {labels['without_label']} without a label" if labels["without_label"] else ""
    left = system["seconds_left"]
    return [
        system["system"],
        "–" if generation is None else f"{generation} of at most {system['generations_allowed']}",
        "ended" if system["ended"] else system["stage"],
        f"{labels['spent']} of {labels['budget']}{working}{failed}",
        number_text(index["cli_ps"] if index else None),
        _events(index),
        _error(system["errors"]),
        "–" if left is None else f"{duration(left[0])} to {duration(left[1])}",
    ]


def _events(index: dict[str, Any] | None) -> str:
    """Bound of what makes the dynamics restless over its limit; excursions in early releases."""
    text = "–"
    if index and index["events_bound_per_ns"] is not None:
        limit = index["events_limit_per_ns"]
        text = f"{number_text(index['events_bound_per_ns'])} / {limit:g}"
    elif index and index["rate_bound_per_atom_ps"] is not None:
        limit = index["rate_limit_per_atom_ps"]
        text = f"{index['rate_bound_per_atom_ps']:.3g} / {limit:g} per atom and ps"
    if index and index["failed"]:
        text += f", {index['failed']} of {count(index['replicas'], 'replica')} failed"
    return text


def _error(errors: dict[str, Any] | None) -> str:
    """Upper end of the audit's force error over its goal."""
    if errors is None:
        return "–"
    bound, goal = errors["forces_mae_bound_meV_per_A"], errors["forces_goal_meV_per_A"]
    against = "no goal" if goal is None else f"{goal:g}"
    return f"{number_text(bound)} / {against}"


def _clean(arguments: argparse.Namespace) -> int:
    from halcyon.campaign import retention
    from halcyon.commands.status.standing import find

    campaign = find(folder_of(arguments))
    scraps = retention.scraps(campaign, all_frames=arguments.failed_frames)
    files, size = Counter[str](), Counter[str]()
    for scrap in scraps:
        files[scrap.description] += 1
        size[scrap.description] += scrap.size
    out = console()
    for description, number in files.items():
        out.print(f"{description}: {count(number, 'file')}, {size[description] / 1e6:.1f} MB")
    if not scraps:
        out.print(f"{campaign.folder}: nothing to delete")
    elif arguments.delete:
        number, freed = retention.delete(campaign, scraps)
        out.print(f"{count(number, 'file')} deleted, {freed / 1e6:.1f} MB", style="green")
    else:
        out.print("nothing was deleted: add --delete to delete these files", style="bold")
    return 0
