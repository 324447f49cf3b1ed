"""How fast the teacher gives labelled frames: frames per minute, on one core, by system.

For each shipped system, the structures that are pre-trained on are sampled as a campaign would
(settings of the system's file), by the steps of the `forcefield` stage: prepare (geometry, types
and parameters, or from the cache), then dynamics with all that comes from them, and labels.
`frames_per_minute` counts the frames that are kept, over the time of sampling.

    python benchmarks/teacher_speed.py                       ethanol, aspirin: seconds
    python benchmarks/teacher_speed.py --systems water --json speed.json

Not for: what the frames are worth to a model.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from ase import Atoms
from rich.console import Console
from rich.table import Table

from halcyon import config
from halcyon.campaign.campaign import SystemPlan
from halcyon.teacher.sampling import sample

ROOT = Path(__file__).resolve().parents[1]
SEED = 1


@dataclass(frozen=True)
class Speed:
    """One structure's.

    Attributes:
        system: name of its file.
        structure: name in that file.
        atoms: number of them.
        frames: kept in each round.
        prepare_s: from the system's file to a force field, nothing cached, s.
        prepare_again_s: the same with the cache, s.
        seconds: of sampling and labelling, each round, s.
        frames_per_minute: median over rounds.
        low: the slowest round's.
        high: the fastest round's.
    """

    system: str
    structure: str
    atoms: int
    frames: int
    prepare_s: float
    prepare_again_s: float
    seconds: list[float]
    frames_per_minute: float
    low: float
    high: float


def measure(name: str, *, rounds: int, md_frames: int | None) -> list[Speed]:
    """Time one shipped system, each round with a seed of its own."""
    system = config.read_system(ROOT / f"config/systems/{name}.yaml")
    content = {"campaign": "speed", "systems": [name], "reference": {"backend": "xtb"}}
    campaign = config.parse_campaign(content, "benchmark")
    settings = config.settings_for(campaign, system).teacher
    if md_frames is not None:
        settings = settings.model_copy(update={"md_frames": md_frames})
    found = []
    with tempfile.TemporaryDirectory(prefix="halcyon-speed-") as folder:
        plan = SystemPlan(
            system, config.settings_for(campaign, system), seed=SEED, prepared=Path(folder)
        )
        for structure in (s.name for s in system.structures if s.pretrain):
            prepare = []
            for _ in range(2):
                begin = time.perf_counter()
                start, teacher = plan.start(structure), plan.teacher(structure)
                prepare.append(time.perf_counter() - begin)
            seconds: list[float] = []
            frames: list[Atoms] = []
            for number in range(rounds):
                begin = time.perf_counter()
                frames, _ = sample(teacher, start, settings, seed=SEED + number)
                seconds.append(time.perf_counter() - begin)
            rates = [60 * len(frames) / s for s in seconds]
            found.append(
                Speed(
                    system=name,
                    structure=structure,
                    atoms=len(start),
                    frames=len(frames),
                    prepare_s=prepare[0],
                    prepare_again_s=prepare[1],
                    seconds=seconds,
                    frames_per_minute=statistics.median(rates),
                    low=min(rates),
                    high=max(rates),
                )
            )
    return found


def table(speeds: Sequence[Speed]) -> Table:
    """What a person looks at."""
    shown = Table(title="Labelled force-field frames, one core", expand=False)
    for heading in ("system", "structure", "atoms", "frames", "per minute", "prepare, s", "cached"):
        shown.add_column(heading, justify="left" if heading in {"system", "structure"} else "right")
    for speed in speeds:
        rate = f"{speed.frames_per_minute:,.0f} ({speed.low:,.0f}–{speed.high:,.0f})"
        shown.add_row(
            speed.system,
            speed.structure,
            str(speed.atoms),
            str(speed.frames),
            rate,
            f"{speed.prepare_s:.2f}",
            f"{speed.prepare_again_s:.2f}",
        )
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="+", default=["ethanol", "aspirin"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--md-frames", type=int, help="other than the settings say")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    arguments = parser.parse_args(command_line)
    speeds = [
        speed
        for name in arguments.systems
        for speed in measure(name, rounds=arguments.rounds, md_frames=arguments.md_frames)
    ]
    Console().print(table(speeds))
    if arguments.json is not None:
        content = {
            "frames_per_minute": {s.structure: s.frames_per_minute for s in speeds},
            "cases": [asdict(speed) for speed in speeds],
            "machine": {
                "processor": platform.machine(),
                "cores": os.cpu_count(),
                "openmm": version("openmm"),
            },
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
