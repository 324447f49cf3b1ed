"""`halcyon states`: training states of a campaign whose reference is eigenvector continuation.

Not for: how states are chosen (`labels.reference.evc.growth`).
"""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from halcyon.commands.terminal import Commands, console, tell
from halcyon.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

    from halcyon.campaign.campaign import Campaign

SAMPLED = 200
"""Frames of tight binding's dynamics, where no file of frames is given."""
INTERVAL_FS = 20.0


def register(groups: Commands) -> None:
    """Add `halcyon states`."""
    command = groups.add_parser(
        "states",
        help="training states for `reference: {backend: evc}`",
        description="Compute exact states (full configuration interaction) of few geometries of a "
        "campaign's molecule, until interpolation between them meets the tolerance on frames not "
        "tried before, and write them to the file that reference.states names. Frames come from "
        f"{SAMPLED} points of GFN2-xTB dynamics at the campaign's temperatures and at twice the "
        "highest, or from a file.",
    )
    command.add_argument("--configfile", type=Path, required=True, help="the campaign's file")
    command.add_argument(
        "--frames",
        type=Path,
        metavar="FILE",
        help="frames that the campaign will visit, in any format of ASE, or Halcyon's Parquet",
    )
    command.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        metavar="MEV",
        help="largest error of the energy of a new frame, meV per molecule (default 1)",
    )
    command.add_argument(
        "--most-states", type=int, default=40, metavar="N", help="stop there (default 40)"
    )
    command.add_argument("--replace", action="store_true", help="replace a file that is there")
    command.set_defaults(run=_states)


def progress(line: str) -> None:
    """Say how far it is, beside the result."""
    tell(line, style="dim")


def _states(arguments: argparse.Namespace) -> int:
    from halcyon import config, files
    from halcyon.campaign.campaign import Campaign
    from halcyon.labels.reference.evc import states_file
    from halcyon.labels.reference.evc.growth import Effort, grow

    source = str(arguments.configfile)
    campaign = Campaign.resolve(config.read_yaml(arguments.configfile), source)
    reference = campaign.settings.reference
    if not isinstance(reference, config.EvcReference):
        raise InputError(
            f"{source}: reference.backend = {reference.backend}: expected evc, which alone needs "
            "training states"
        )
    if not math.isfinite(arguments.tolerance) or arguments.tolerance <= 0:
        raise InputError(f"--tolerance {arguments.tolerance:g}: expected a number above 0, meV")
    path = reference.states
    if path.exists() and not arguments.replace:
        raise InputError(
            f"{path}: is there already. Labels belong to it, and others would be another level of "
            "theory. --replace makes it again"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.only_one(path.parent / f".{path.name}"):
        frames = _frames(campaign, arguments.frames, source)
        grown = grow(
            frames,
            reference.basis,
            Effort(
                tolerance_meV=arguments.tolerance,
                most_states=arguments.most_states,
                max_determinants=reference.max_determinants,
            ),
            seed=campaign.settings.seed,
            say=progress,
        )
        states_file.write(
            path,
            grown,
            tolerance_meV=arguments.tolerance,
            seed=campaign.settings.seed,
            frames=str(arguments.frames) if arguments.frames else "GFN2-xTB dynamics",
        )
    number = len(grown.continuation.energies)
    if not grown.converged:
        raise InputError(
            f"{path}: {number} training states, and new frames are still off by "
            f"{max(grown.errors_meV):.3g} meV: raise --most-states or --tolerance, with --replace. "
            "A campaign refuses this file"
        )
    console().print(
        f"{number} training states from {grown.exact_calculations} exact calculations → {path}; "
        f"now: snakemake --configfile {source}",
        soft_wrap=True,
    )
    return 0


def _frames(campaign: "Campaign", path: Path | None, source: str) -> list["Atoms"]:
    """The start structure, and frames that are like those of the campaign."""
    from halcyon.config import TeacherSettings, XtbForceField
    from halcyon.systems import structures
    from halcyon.teacher.forcefield import make_teacher
    from halcyon.teacher.sampling import sample

    explored = [(plan, name) for plan in campaign.systems.values() for name in plan.explored]
    if len(explored) != 1:
        names = ", ".join(name for _, name in explored)
        raise InputError(
            f"{source}: structures {names}: expected a single explored one, since training states "
            "are of one molecule"
        )
    ((plan, name),) = explored
    start = plan.start(name)
    if path is not None:
        return [start, *_read(path, start)]
    temperatures = plan.settings.exploration.temperatures_K
    settings = TeacherSettings(
        temperatures_K=[*temperatures, 2 * max(temperatures)],
        md_frames=SAMPLED,
        md_interval_fs=INTERVAL_FS,
        displaced_frames=0,
        stretched_frames=0,
        contact_frames=0,
        dissociated_frames=0,
    )
    teacher = make_teacher(
        XtbForceField(kind="xtb", method="GFN2-xTB"),
        start,
        structures.bonds(plan.structures[name], start),
    )
    frames, _ = sample(teacher, start, settings, seed=campaign.settings.seed)
    for frame in frames:
        frame.info |= {key: start.info[key] for key in ("charge", "multiplicity")}
    progress(f"{len(frames)} frames of GFN2-xTB dynamics at {settings.temperatures_K} K")
    return [start, *frames]


def _read(path: Path, start: "Atoms") -> list["Atoms"]:
    import ase.io

    from halcyon.frames import read_frames

    try:
        read = read_frames(path) if path.suffix == ".parquet" else ase.io.read(path, ":")
    except Exception as error:  # ASE's readers raise anything
        raise InputError(f"{path}: cannot be read ({error})") from error
    frames = [*read]
    for frame in frames:
        # Their own, where they have one: another state is refused, not taken for this one.
        for key in ("charge", "multiplicity"):
            frame.info.setdefault(key, start.info[key])
        frame.pbc = False
    return frames
