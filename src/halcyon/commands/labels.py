"""`halcyon labels`: list, export, import or verify the labels of a store.

Not for: doing it (`labels.store_tools`); this is the command line and its tables.
"""

import argparse
from pathlib import Path
from typing import Any, get_args

from rich.table import Table

from halcyon import wording
from halcyon.commands.terminal import Commands, console, print_json, tell
from halcyon.config import DatasetLayout, EnergyUnit, LengthUnit
from halcyon.errors import InputError
from halcyon.labels.reference.base import Status

STORE = Path("results/labels")
SPIN_IS = ("2S+1", "2S", "S", "nothing")


def register(groups: Commands) -> None:
    """Add `halcyon labels` and its commands."""
    labels = groups.add_parser(
        "labels", help="list, export, import or verify the labels of a store"
    )
    commands = labels.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_list(commands)
    _add_export(commands)
    _add_import(commands)
    _add_verify(commands)


def _command(commands: Commands, name: str, about: str) -> argparse.ArgumentParser:
    words = about.split(". ", maxsplit=1)
    brief = words[0].rstrip(".")
    brief = brief[0].lower() + brief[1:]
    command = commands.add_parser(name, help=brief, description=about)
    command.add_argument(
        "--store", type=Path, default=STORE, help=f"the label store (default {STORE})"
    )
    return command


def _add_list(commands: Commands) -> None:
    command = _command(commands, "list", "Count labels by level of theory, campaign and system.")
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_list)


def _add_export(commands: Commands) -> None:
    command = _command(commands, "export", "Write labels to a file. Units are eV and Å.")
    command.add_argument("out", type=Path, help="a new file: .xyz or .extxyz, or .db (ASE)")
    command.add_argument(
        "--level",
        help="name or beginning of the hash, as list shows it; needed if there are several levels",
    )
    command.add_argument("--campaign", help="only labels of this campaign")
    command.add_argument("--system", help="only labels of this system")
    command.add_argument(
        "--status",
        default="ok",
        choices=[s.value for s in Status],
        help="only calculations that ended so (default ok)",
    )
    command.set_defaults(run=_export)


def _add_import(commands: Commands) -> None:
    command = _command(
        commands,
        "import",
        "Add the labels of a published data set to the store. They get a level of theory of their "
        "own, marked as imported; a structure that has a label at that level already keeps it.",
    )
    command.add_argument(
        "files",
        type=Path,
        nargs="+",
        help="extended XYZ, npz, ASE database (.db) or Parquet, all of one layout",
    )
    command.add_argument("--level", required=True, help="name of the level, e.g. wB97X-V/cc-pVTZ")
    command.add_argument("--source", required=True, help="where it is published, e.g. its DOI")
    command.add_argument("--system", help="name of their system, for list and export")
    for name, about in DatasetLayout.model_fields.items():
        # What is left out is unset: a charge that was not given is held against the file's.
        options: dict[str, Any] = {"help": about.description, "default": argparse.SUPPRESS}
        match name:
            case "forces_unit":
                options |= {"nargs": 2, "metavar": ("ENERGY", "LENGTH")}
            case "energy_unit":
                options |= {"choices": get_args(EnergyUnit)}
            case "positions_unit":
                options |= {"choices": get_args(LengthUnit)}
            case "stress_unit" | "stress_sign" | "stress_order":
                options |= {"choices": get_args(about.annotation)}
            case "spin_is":
                options |= {"choices": SPIN_IS}
            case "charge":
                options |= {"type": int}
        command.add_argument(f"--{name.replace('_', '-')}", **options)
    command.set_defaults(run=_import)


def _add_verify(commands: Commands) -> None:
    command = _command(
        commands,
        "verify",
        "Check every label: checksums, keys against structures, counts. A damaged shard is renamed "
        "to end in .damaged, and its labels are computed again when a campaign needs them. Exits "
        "with 1 if there are faults.",
    )
    command.add_argument("--level", help="only this level: name or beginning of the hash")
    command.set_defaults(run=_verify)


def _list(arguments: argparse.Namespace) -> int:
    from halcyon.labels.store import LabelStore, levels
    from halcyon.labels.store_tools import count, level_words

    stored: list[dict[str, Any]] = []
    for name, level in levels(arguments.store).items():
        store = LabelStore(arguments.store, level, tell)
        rows = [
            {
                "campaign": campaign,
                "system": system,
                "labels": counts.labels,
                "status": dict(counts.status),
                "core_hours": counts.core_hours,
            }
            for (campaign, system), counts in sorted(count(store).items())
        ]
        entry: dict[str, Any] = {"level": name, "about": level_words(level), "labels": rows}
        stored.append(entry | {"damaged_shards": len(store.damaged())})
    if arguments.json:
        print_json(stored)
        return 0
    out = console()
    for entry in stored:
        title = f"{entry['level']}  {entry['about']}"
        table = Table(title=title, title_justify="left", title_style="bold")
        for heading in ("campaign", "system", "labels", "by status", "core-hours"):
            right = heading in {"labels", "core-hours"}
            table.add_column(heading, justify="right" if right else "left")
        for row in entry["labels"]:
            by_status = ", ".join(f"{n:,} {status}" for status, n in row["status"].items())
            cost = wording.significant(row["core_hours"])
            table.add_row(row["campaign"], row["system"], f"{row['labels']:,}", by_status, cost)
        out.print(table)
        if entry["damaged_shards"]:
            shards = wording.count(entry["damaged_shards"], "damaged shard")
            out.print(f"{shards} set aside (*.damaged)", style="red")
    if not stored:
        out.print(f"{arguments.store}: no labels yet")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from halcyon import files
    from halcyon.labels.store_tools import export, level_words, open_level

    store = open_level(arguments.store, arguments.level, tell)
    given = {name: getattr(arguments, name) for name in ("status", "campaign", "system")}
    filters = {name: value for name, value in given.items() if value is not None}
    level = files.read_json(store.folder / "level.json")
    number = export(store, arguments.out, level, filters)
    labels = wording.count(number, "label")
    console().print(f"{labels} of {level_words(level)} → {arguments.out}", markup=False)
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from halcyon.labels.store import LabelStore
    from halcyon.labels.store_tools import import_sets, imported_level

    options = {k: v for k, v in vars(arguments).items() if k in DatasetLayout.model_fields}
    try:
        layout = DatasetLayout.model_validate(options)
    except ValidationError as error:
        fault = error.errors()[0]
        option = str(fault["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {fault['input']}: {fault['msg']}") from None
    if missing := [str(path) for path in arguments.files if not path.is_file()]:
        raise InputError(f"{', '.join(missing)}: no such file")
    level = imported_level(arguments.level, arguments.source)
    store = LabelStore(arguments.store, level, tell)
    result = import_sets(store, arguments.files, layout, arguments.system)
    out = console()
    out.print(
        f"{wording.count(result.new, 'new label')} of {arguments.level} (level {store.level}); "
        f"{wording.count(result.known, 'duplicate')} passed over",
        markup=False,
    )
    if layout.stress_key:
        out.print(f"{wording.count(result.stresses, 'label')} with a stress", markup=False)
    for path, checked in result.stress_scales.items():
        if checked.scale is None:
            out.print(
                f"{path}: whether unit and sign of its stress are right cannot be told: only "
                f"{wording.count(checked.pairs, 'pair')} of near frames in different cells",
                style="yellow",
                markup=False,
            )
    if result.different:
        out.print(
            f"{result.different:,} of the duplicates have another energy or other forces than the "
            "label that the store keeps: the data set contradicts itself or the store",
            style="yellow",
        )
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from halcyon.labels.store import levels
    from halcyon.labels.store_tools import open_level, verify

    names = [arguments.level] if arguments.level else list(levels(arguments.store))
    out = console()
    table = Table()
    for heading in ("level", "labels", "shards", "set aside", "repeated", "faults"):
        table.add_column(heading, justify="left" if heading == "level" else "right")
    faults: list[str] = []
    for name in names:
        store = open_level(arguments.store, name, lambda _line: None)
        result = verify(store)
        numbers = (result.labels, result.shards, result.damaged, result.repeated)
        cells = [f"{number:,}" for number in (*numbers, len(result.faults))]
        table.add_row(store.level, *cells)
        faults += result.faults
    out.print(table)
    for fault in faults:
        tell(fault)
    if not faults:
        out.print("every label is as it was written", style="green")
    return 1 if faults else 0
