"""What reused orbitals save: labels of a shard against the same labels each from an atomic guess.

Frames of the shipped force field's dynamics are labelled twice with CP2K at one level of theory and
with equal settings: as a campaign does (ordered, each from the orbitals of the most similar frame),
and `naive` (each from the level's own guess). Both take turns frame by frame, so that what else the
machine does falls on both. The labels are compared.

    python benchmarks/labelling_speed.py                       20 frames of ethanol
    python benchmarks/labelling_speed.py --frames 6 --json speed.json
    python benchmarks/labelling_speed.py --layouts             how to share two cores, too

`ratio_vs_naive` is of processor time, CP2K's start and forces included: on one core and a machine
of one's own that is the ratio of wall times, which is given as well.

Not for: how fast CP2K is, or which level of theory is worth its time.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from ase import Atoms
from ase.units import Bohr, Hartree
from rich.console import Console
from rich.table import Table

from halcyon.config import Cp2kReference, TeacherSettings, XmlForceField, read_system
from halcyon.config.reference import ReferenceSettings
from halcyon.labels.reference import Record, Status, make_reference
from halcyon.labels.reference.cp2k.backend import Cp2k
from halcyon.systems.structures import bonds, molecules, start_structure
from halcyon.teacher.forcefield import make_teacher
from halcyon.teacher.sampling import sample

ROOT = Path(__file__).resolve().parents[1]
SEED = 20261121
INTERVAL_FS = 100.0
"""Between the frames that are drawn from; they are drawn at random."""
LAYOUTS = {
    "1 shard, 1 thread": (1, "cp2k.psmp", 1),
    "1 shard, 2 threads": (1, "cp2k.psmp", 2),
    "1 shard, 2 ranks": (1, "mpirun --allow-run-as-root -n 2 cp2k.psmp", 2),
}
"""Ways to use two cores; two shards of one thread take the core-seconds of the first."""


def frames_of(name: str, count: int, kelvin: float) -> list[Atoms]:
    """Draw frames from the force field's dynamics."""
    system = read_system(ROOT / "config" / "systems" / f"{name}.yaml")
    shape, forcefield = system.structures[0], system.forcefield
    start = start_structure(shape)
    pairs = bonds(shape, start)
    if isinstance(forcefield, XmlForceField):
        files = [ROOT / file for file in forcefield.files]
        forcefield = forcefield.model_copy(update={"files": files})
    settings = TeacherSettings(
        temperatures_K=[kelvin],
        md_frames=max(100, 2 * count),
        md_interval_fs=INTERVAL_FS,
        displaced_frames=0,
        stretched_frames=0,
        contact_frames=0,
        dissociated_frames=0,
    )
    with tempfile.TemporaryDirectory(prefix="halcyon-teacher-") as prepared:
        teacher = make_teacher(
            forcefield,
            start,
            pairs,
            molecules=lambda: {shape.name: molecules(shape, start, pairs)},
            prepared=Path(prepared),
        )
        frames, _ = sample(teacher, start, settings, seed=SEED)
    chosen = np.random.default_rng(SEED).permutation(len(frames))[:count]
    return [frames[index] for index in chosen]


class Labelling:
    """One way of labelling, and what it has cost so far."""

    def __init__(
        self, settings: ReferenceSettings, frames: Sequence[Atoms], work: Path, cores: int
    ) -> None:
        """Prepare; the program starts with the first `next`."""
        work.mkdir(parents=True)
        self._records: Iterator[Record] = make_reference(settings).label(frames, work, cores)
        self.records: list[Record] = []
        self.processor_s = self.wall_s = 0.0

    def next(self) -> None:
        """Label one more frame."""
        wall, processor = time.perf_counter(), _processor_s()
        self.records.append(next(self._records))
        self.processor_s += _processor_s() - processor
        self.wall_s += time.perf_counter() - wall

    def summary(self) -> dict:
        """Cost per frame."""
        steps = [record.scf_steps or 0 for record in self.records]
        count = len(self.records)
        return {
            "processor_s": self.processor_s / count,
            "wall_s": self.wall_s / count,
            "scf_steps": sum(steps) / count,
            "scf_steps_of_frames": steps,
        }


def _processor_s() -> float:
    """Processor time of all processes that have ended, and of this one (ordering, turning)."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF))
    )


def compare(frames: Sequence[Atoms], settings: Cp2kReference, work: Path, cores: int) -> dict:
    """Label all frames both ways, in turns."""
    started = _processor_s()
    order = Cp2k(settings).order(frames)
    ordering_s = _processor_s() - started
    frames = [frames[index] for index in order]
    naive_settings = settings.model_copy(update={"reuse_wavefunctions": False})
    ways = {
        "reused": Labelling(settings, frames, work / "reused", cores),
        "naive": Labelling(naive_settings, frames, work / "naive", cores),
    }
    for number, _ in enumerate(frames, start=1):
        for name, way in ways.items():
            way.next()
            steps, spent = way.records[-1].scf_steps, way.processor_s / number
            note = f"{number:3} {name:6} {steps} steps; {spent:.1f} s of processor a frame so far"
            print(note, file=sys.stderr, flush=True)
    pairs = list(zip(ways["reused"].records, ways["naive"].records, strict=True))
    bad = [r.message for pair in pairs for r in pair if r.status is not Status.OK]
    if bad:
        raise SystemExit(f"{len(bad)} frames were not labelled: {bad[0]}")
    energies, forces = [], []
    for first, second in pairs:
        assert first.energy is not None and second.energy is not None  # noqa: S101, PT018  # all OK
        assert first.forces is not None and second.forces is not None  # noqa: S101, PT018
        energies.append(abs(first.energy - second.energy))
        forces.append(np.abs(first.forces - second.forces).max())
    summaries = {name: way.summary() for name, way in ways.items()}
    ratio = {
        key: summaries["naive"][key] / summaries["reused"][key] for key in ("wall_s", "scf_steps")
    }
    spent = summaries["reused"]["processor_s"] + ordering_s / len(frames)
    return {
        "ratio_vs_naive": summaries["naive"]["processor_s"] / spent,
        "ratio_wall": ratio["wall_s"],
        "ratio_scf_steps": ratio["scf_steps"],
        "ordering_s": ordering_s,
        "largest_energy_difference_Ha": float(max(energies) / Hartree),
        "largest_force_difference_Ha_per_bohr": float(max(forces) / (Hartree / Bohr)),
        **summaries,
    }


def layouts(frames: Sequence[Atoms], settings: Cp2kReference, work: Path) -> dict[str, dict]:
    """Core-seconds and wall time per frame of some ways to share two cores."""
    summaries = {}
    for number, (name, (shards, command, cores)) in enumerate(LAYOUTS.items()):
        changed = settings.model_copy(update={"command": command})
        way = Labelling(changed, frames, work / f"layout{number}", cores)
        for _ in frames:
            way.next()
        summaries[name] = {"shards": shards, "cores": cores} | way.summary()
    return summaries


def table(measured: dict) -> Table:
    """What a person looks at."""
    shown = Table(
        title=f"{measured['frames']} frames of {measured['system']}, "
        f"{Path(measured['level']).name}",
    )
    for column in ("per frame", "SCF steps", "processor s", "wall s"):
        shown.add_column(column)
    ways = {"reused orbitals": measured["reused"], "naive": measured["naive"]} | measured.get(
        "layouts", {}
    )
    for name, way in ways.items():
        numbers = (way[key] for key in ("scf_steps", "processor_s", "wall_s"))
        shown.add_row(name, *(f"{number:.1f}" for number in numbers))
    shown.add_section()
    keys = ("ratio_scf_steps", "ratio_vs_naive", "ratio_wall")
    shown.add_row("naive / reused", *(f"{measured[key]:.2f}" for key in keys))
    shown.caption = (
        f"largest differences: {measured['largest_energy_difference_Ha']:.1e} Ha, "
        f"{measured['largest_force_difference_Ha_per_bohr']:.1e} Ha/bohr"
    )
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="ethanol", help="(default ethanol)")
    parser.add_argument("--frames", type=int, default=20, help="(default 20)")
    parser.add_argument("--kelvin", type=float, default=300.0, help="of the dynamics (300)")
    parser.add_argument("--level", type=Path, default=ROOT / "config/cp2k/pbe-d3-dzvp.yaml")
    parser.add_argument("--cutoff", type=float, metavar="RY", help="another grid, for a quick look")
    parser.add_argument("--box", type=float, metavar="A", help="another box, for a quick look")
    parser.add_argument("--layouts", action="store_true", help="ranks and threads as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    arguments = parser.parse_args(command_line)
    with tempfile.TemporaryDirectory(prefix="halcyon-labelling-") as temporary:
        work, level = Path(temporary), arguments.level
        if arguments.cutoff is not None:
            content = yaml.safe_load(level.read_text(encoding="utf-8"))
            content["force_eval"]["dft"].setdefault("mgrid", {})["cutoff"] = arguments.cutoff
            level = work / level.name
            level.write_text(yaml.safe_dump(content), encoding="utf-8")
        settings = Cp2kReference(backend="cp2k", level=level)
        frames = frames_of(arguments.system, arguments.frames, arguments.kelvin)
        for frame in frames if arguments.box else ():
            frame.set_cell([arguments.box] * 3)
        measured = {
            "system": arguments.system,
            "frames": len(frames),
            "kelvin": arguments.kelvin,
            "box_A": float(frames[0].cell.lengths()[0]),
            "cutoff_Ry": arguments.cutoff,
            "level": arguments.level.name,
            "cp2k": Cp2k(settings).level["version"],
            **compare(frames, settings, work, 1),
        }
        if arguments.layouts:
            measured["layouts"] = layouts(frames[:4], settings, work)
    Console().print(table(measured))
    if arguments.json is not None:
        measured["machine"] = {"processor": platform.machine(), "cores": os.cpu_count()}
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
