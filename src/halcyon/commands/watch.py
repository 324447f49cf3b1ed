"""`halcyon watch`: a trajectory of any program, judged by a campaign's index.

Not for: the judgement itself (`final.monitor.judging`).
"""

import argparse
import time
from pathlib import Path

from rich.table import Table

from halcyon.commands.terminal import Commands, console, print_json, tell
from halcyon.errors import InputError
from halcyon.wording import count, duration

EVERY_S = 5.0
SHOWN = 10


def register(groups: Commands) -> None:
    """Add `halcyon watch`."""
    command = groups.add_parser(
        "watch",
        help="score a trajectory of any program with a campaign's index",
        description="Score each frame of a trajectory (LAMMPS dump, XYZ, DCD, XTC, TRR, NetCDF) "
        "with the model and the domain of a `final` folder: the time that each atom was on forces "
        "that are expected to be wrong (Λ), the worst frames for labelling, tables and a page. "
        "Excursions shorter than the time between two saved frames are missed. The model is a "
        "pickle: only use folders that you trust.",
    )
    command.add_argument("trajectory", type=Path, help="the file; its suffix says what it is")
    command.add_argument("--model", type=Path, required=True, help="a campaign's folder `final`")
    command.add_argument(
        "--frame-interval-fs", type=float, metavar="FS", help="time between two frames"
    )
    command.add_argument(
        "--elements", default="", metavar="1=O,2=H", help="elements of LAMMPS's types, or of names"
    )
    command.add_argument(
        "--topology", type=Path, metavar="FILE", help="structure with elements, for DCD and XTC"
    )
    command.add_argument(
        "--out", type=Path, metavar="FOLDER", help="default: NAME-watched beside the trajectory"
    )
    command.add_argument(
        "--worst", type=int, default=20, metavar="N", help="frames to keep for labelling (20)"
    )
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.set_defaults(run=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    from ase.io import write

    from halcyon import files
    from halcyon.final.monitor.ase import MonitoredMace
    from halcyon.final.monitor.judging import judge
    from halcyon.final.monitor.trajectories import frames_of
    from halcyon.report.watched import sentence, write_page

    path: Path = arguments.trajectory
    interval = arguments.frame_interval_fs
    if interval is not None and not interval > 0:
        raise InputError(f"--frame-interval-fs {interval:g}: expected a number above 0")
    began = last_line = time.monotonic()

    def progress(done: int, of: int | None) -> None:
        nonlocal last_line
        now = time.monotonic()
        if now - last_line > EVERY_S:
            last_line = now
            tell(_progress_line(done, of, now - began), style="dim")

    judged = judge(
        MonitoredMace(arguments.model),
        frames_of(path, elements=_elements(arguments.elements), topology=arguments.topology),
        interval_ps=None if interval is None else interval / 1000,
        most_worst=arguments.worst,
        progress=progress,
    )
    out: Path = arguments.out or path.with_name(f"{path.stem}-watched")
    out.mkdir(parents=True, exist_ok=True)
    for name, table in (("frames", judged.frames), ("atoms", judged.atoms)):
        with files.replacing(out / f"{name}.parquet") as unfinished:
            table.to_parquet(unfinished)
    with files.replacing(out / "worst.xyz") as unfinished:
        write(unfinished, judged.worst, format="extxyz")
    write_page(judged, out / "page.html", title=path.name)
    if arguments.json:
        print_json(
            {
                "frames": len(judged.frames),
                "interval_ps": judged.interval_ps,
                "structure": judged.structure,
                "decides": judged.decides,
                "frames_outside": int((judged.frames["outside"] > 0).sum()),
                "failures": int((judged.frames["failure"] != "").sum()),
                "cli_ps": float(judged.frames["cli_ps"].iloc[-1]),
                "cli_max_ps": float(judged.frames["cli_max_ps"].iloc[-1]),
                "worst": [atoms.info for atoms in judged.worst],
                "folder": str(out),
            }
        )
        return 0
    table = Table(title="worst frames: worth a label")
    for heading in ("frame", "time, ps", "why"):
        table.add_column(heading)
    for atoms in judged.worst[:SHOWN]:
        info = atoms.info
        table.add_row(str(info["frame"]), f"{info['time_ps']:.4g}", info["why"])
    if judged.worst:
        console().print(table)
    console().print(sentence(judged), soft_wrap=True)
    console().print(f"tables, {len(judged.worst)} worst frames, page → {out}", soft_wrap=True)
    return 0


def _progress_line(done: int, of: int | None, seconds: float) -> str:
    """How far it is, and how long it will still take at the speed so far."""
    if of is None:
        return f"{count(done, 'frame')} in {duration(seconds)}"
    left = seconds * (of - done) / done
    return f"{done:,} of {count(of, 'frame')} in {duration(seconds)}, {duration(left)} left"


def _elements(words: str) -> dict[str, str]:
    """`1=O,2=H` as a mapping."""
    pairs = [word.split("=") for word in words.split(",") if word]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise InputError(f"--elements {words}: expected e.g. 1=O,2=H")
    return {name.strip(): symbol.strip() for name, symbol in pairs}
