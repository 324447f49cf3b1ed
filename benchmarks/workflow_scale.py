"""What a long campaign costs Snakemake: time, memory and files of the real Snakefile's job graph.

Fabricates campaigns whose generations are all finished but the last, through the library's own
writers (frames, verdicts, the label store), and then measures, each in a process of its own:

- `dag_seconds`, `dag_mb`: `snakemake -n`, from the command to the table of what there is to do:
  Python's start, the campaign's checks, and the job graph, unrolled verdict by verdict;
- `dag_new_seconds`: the same before anything is done;
- `begin_seconds`: of that, the campaign's own checks;
- `overhead_per_job_s`: wall time of label jobs whose labels are all known, less what the jobs say
  they took: Python's start, imports and Snakemake's own work, one job after another on one core;
- `jobs`: of the whole campaign; `jobs_left`: in the graph; `files`: of the campaign and of
  Snakemake, in all and per shard job.

    python benchmarks/workflow_scale.py --quick                 one small campaign: a minute
    python benchmarks/workflow_scale.py --json scale.json       both of the table: some minutes

Not for: the time of the jobs themselves, or of a shared file system.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ase import Atoms
from rich.console import Console
from rich.table import Table

from halcyon import files, jsonl
from halcyon.campaign.campaign import Campaign
from halcyon.config import LimitSettings, Settings
from halcyon.frames import structure_key, write_frames
from halcyon.labels.store import LabelStore
from halcyon.verdict import saturation

ROOT = Path(__file__).resolve().parents[1]
MODEL_BYTES = 300_000
"""Of a MACE model with 16 channels."""
WORKFLOW = ("Snakefile", "workflow", "profiles", "scripts", "src")
TIMED_JOBS = 8


@dataclass(frozen=True)
class Size:
    """A campaign's extent."""

    systems: int
    generations: int
    frames: int
    frames_per_shard: int

    @property
    def shards(self) -> int:
        """Label jobs per batch."""
        return -(-self.frames // self.frames_per_shard)


SIZES = {
    "quick": Size(2, 3, 40, 20),
    "4 × 20 × 200": Size(4, 20, 200, 25),
    "50 × 10 × 1000": Size(50, 10, 1000, 50),
}


def configure(folder: Path, size: Size) -> str:
    """Link the workflow into an empty folder and write a campaign; the configuration's name."""
    folder.mkdir(parents=True)
    for part in WORKFLOW:
        (folder / part).symlink_to(ROOT / part)
    shutil.copytree(ROOT / "config", folder / "config")
    long_ago = time.time() - 30 * 86400
    for path in (folder / "config").rglob("*"):  # older than what was made with it
        os.utime(path, (long_ago, long_ago))
    system = yaml.safe_load((ROOT / "config/systems/methanol.yaml").read_text(encoding="utf-8"))
    (folder / "systems").mkdir()
    names = [f"s{number:03d}" for number in range(size.systems)]
    for name in names:
        text = yaml.safe_dump(system | {"name": name})
        (folder / f"systems/{name}.yaml").write_text(text, encoding="utf-8")
    content = {
        "campaign": "scale",
        "systems": names,
        "systems_folder": "systems",
        "reference": {"backend": "xtb"},
        "selection": {"frames": size.frames},
        "limits": {"max_generations": size.generations, "label_budget": 10**9},
        "resources": {"label_shards": size.shards},
    }
    (folder / "scale.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return "scale.yaml"


class Fabricator:
    """Writes what finished generations leave, in the order of their times."""

    def __init__(self, folder: Path, size: Size) -> None:
        """Make the frames that all shards hold."""
        self.size = size
        self.campaign = Campaign.read(folder / "results/scale/campaign.json")
        self.root = folder / "results/scale"
        self.tick = count()
        self.begun = time.time() - 86400
        level = self.campaign.reference().level
        self.store = LabelStore(folder / "results/labels", level)
        random = np.random.default_rng(1)
        start = self.campaign.systems["s000"].start("methanol")
        self.frames: list[Atoms] = []
        for _ in range(size.frames_per_shard):
            frame = start.copy()
            frame.positions += random.normal(scale=0.05, size=frame.positions.shape)
            frame.arrays["forces"] = random.normal(size=frame.positions.shape)
            frame.info |= {"key": structure_key(frame), "level": self.store.level, "status": "ok"}
            frame.info |= {"energy": -600 + random.normal(), "seconds": 0.01, "core_seconds": 0.01}
            frame.info |= {"campaign": "scale", "system": "s000", "rung": 0}
            self.frames.append(frame)
        self.store.add(self.frames)
        self.shard = self.root.parent / "shard.parquet"
        for frame in self.frames:
            frame.info["split"] = "train"
        write_frames(self.shard, self.frames)
        self.selected = self.root.parent / "selected.parquet"
        known = {"energy", "key", "level", "status", "seconds", "core_seconds", "campaign"}
        wanted = []
        for frame in self.frames * size.shards:
            bare = frame.copy()
            bare.info = {k: v for k, v in bare.info.items() if k not in known | {"system", "rung"}}
            del bare.arrays["forces"]
            wanted.append(bare)
        # Shard i takes every n-th frame: each the same frames, once.
        write_frames(self.selected, [wanted[i // size.shards] for i in range(len(wanted))])

    def put(self, path: Path, content: bytes | Path | dict | list) -> None:
        """One file, newer than the last."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            files.write_json(path, content)
        when = self.begun + 0.01 * next(self.tick)
        os.utime(path, (when, when))

    def labels(self, system: Path, batch: str) -> None:
        """A batch: what was selected, and its shards."""
        self.put(system / batch / "selected.parquet", self.selected)
        for shard in range(self.size.shards):
            self.put(system / f"logs/{batch}-label-{shard:03d}.log", b"done\n")
            self.put(system / batch / f"labels/{shard:03d}.parquet", self.shard)

    def all(self, *, generations: int) -> None:
        """Everything up to so many generations of every system."""
        for name in self.campaign.systems:
            system, model = self.root / name, os.urandom(MODEL_BYTES)
            for output in ("frames.parquet", "counts.json"):
                self.put(system / "teacher" / output, self.shard)
            self.put(system / "teacher/pretrained.model", model)
            self.put(system / "teacher/pretrained.json", {"curve": []})
            self.labels(system, "seed")
            for number in range(generations):
                self.generation(name, number, model)

    def generation(self, name: str, number: int, model: bytes) -> None:
        """One generation that goes on."""
        system, batch = self.root / name, f"gen{number:03d}"
        folder = system / batch
        self.put(folder / "model.model", model)
        self.put(folder / "parity.parquet", self.shard)
        tables = ("traces.parquet", "candidates.parquet", "reservoir.parquet")
        for output in ("metrics.json", "drift.json", "domain.json", *tables, "exploration.json"):
            self.put(folder / output, self.shard if output in tables else {})
        self.put(folder / "selection.json", {"candidates": 0, "fates": {}})
        self.labels(system, batch)
        for stage in ("train", "domain", "explore", "select", "verdict"):
            self.put(system / f"logs/{batch}-{stage}.log", b"done\n")
        limits = LimitSettings(max_generations=self.size.generations, label_budget=10**9)
        settings = Settings(limits=limits)
        found = saturation.assess([], settings)
        spent = self.size.frames * (number + 2)
        decision, reason = saturation.decide(
            found, None, generation=number, labels=spent, settings=settings
        )
        verdict = {"schema": 1, "system": name, "generation": number, "decision": decision.value}
        verdict |= {"reason": reason, "labels": {"spent": spent}, "label_budget": 10**9}
        verdict |= {"saturation": found.model_dump(mode="json")}
        self.put(folder / "verdict.json", verdict)


@dataclass(frozen=True)
class Run:
    """A run of Snakemake: wall and CPU time in s, most memory in MB, exit code, what it printed."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    code: int
    printed: str


# A process inherits the high-water mark of the one that starts it: ours is larger than Snakemake's.
LAUNCHER = """
import json, os, sys, time
begun = time.perf_counter()
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
found = [time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024,
         os.waitstatus_to_exitcode(status)]
open(sys.argv[1], "w").write(json.dumps(found))
"""


def snakemake(folder: Path, *options: str) -> Run:
    """Run Snakemake in a folder."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--configfile", "scale.yaml"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.NamedTemporaryFile("r") as told:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, told.name, *command, *options],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=True,
            env=os.environ | {"PATH": path},
        )
        seconds, cpu, megabytes, code = json.loads(Path(told.name).read_text(encoding="utf-8"))
        return Run(seconds, cpu, megabytes, code, done.stdout)


def dry_run(folder: Path, *targets: str) -> Run:
    """What there is to do; it must succeed."""
    run = snakemake(folder, "-n", *targets)
    if run.code:
        raise RuntimeError(run.printed[-3000:])
    return run


def total_jobs(printed: str) -> int:
    """The last line of a dry run's table."""
    return next(
        (int(line.split()[1]) for line in printed.splitlines() if line.startswith("total ")), 0
    )


def begin_seconds(folder: Path) -> float:
    """Time of `checks.begin` in a fresh process."""
    code = (
        "import time, yaml; t = time.perf_counter()\n"
        "from halcyon.campaign.checks import begin\n"
        "begin(yaml.safe_load(open('scale.yaml')), 'scale.yaml', dry=True)\n"
        "print(time.perf_counter() - t)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    return float(done.stdout)


def overhead(folder: Path, size: Size) -> tuple[float, int]:
    """Seconds per job beside its own work, and the files that the jobs made."""
    shards = range(min(TIMED_JOBS, size.shards))
    last = f"results/scale/s000/gen{size.generations - 2:03d}/labels"
    wanted = [f"{last}/{shard:03d}.parquet" for shard in shards]
    for path in wanted:
        (folder / path).unlink()
    before = number_of_files(folder)
    busy = snakemake(folder, "--cores", "1", *wanted)
    made = number_of_files(folder) - before
    if missing := [path for path in wanted if not (folder / path).exists()]:
        raise RuntimeError(f"{missing} were not made: {busy.printed[-3000:]}")
    # The same once more, with nothing to do: the graph, and the summary at the end. (It finds the
    # fabricated generations incomplete, both times.)
    idle = snakemake(folder, "--cores", "1", *wanted)
    ledger = jsonl.read(folder / "results/scale/stages.jsonl")
    worked = sum(entry["seconds"] for entry in ledger)
    return (busy.seconds - idle.seconds - worked) / len(wanted), made


def number_of_files(folder: Path) -> int:
    """Files of the campaign, of the store, and of Snakemake."""
    return sum(
        len(names) for part in ("results", ".snakemake") for _, _, names in os.walk(folder / part)
    )


def measure(name: str, size: Size, work: Path) -> dict[str, Any]:
    """Fabricate one campaign and measure it."""
    folder = work / name.replace(" ", "")
    configure(folder, size)
    new = dry_run(folder)
    code = (
        "import yaml; from halcyon.campaign.checked import begin_once; "
        "begin_once(yaml.safe_load(open('scale.yaml')), 'scale.yaml')"
    )
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}  # as the Snakefile does
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, env=environment)
    Fabricator(folder, size).all(generations=size.generations - 1)
    there = number_of_files(folder)
    dag = dry_run(folder)
    jobs = size.systems * (4 + size.shards + size.generations * (5 + size.shards)) + 1
    per_job, made = overhead(folder, size)
    label_jobs = size.systems * size.generations * size.shards
    return asdict(size) | {
        "shards": size.shards,
        "dag_seconds": dag.seconds,
        "dag_cpu_seconds": dag.cpu_seconds,
        "dag_mb": dag.megabytes,
        "dag_new_seconds": new.seconds,
        "dag_new_cpu_seconds": new.cpu_seconds,
        "begin_seconds": begin_seconds(folder),
        "jobs": jobs,
        "jobs_left": total_jobs(dag.printed),
        "overhead_per_job_s": per_job,
        "files": there,
        "files_per_shard_job": there / label_jobs,
        "files_made_per_repeated_job": made / min(TIMED_JOBS, size.shards),
    }


def show(found: dict[str, dict[str, Any]]) -> None:
    """The table for people."""
    table = Table(title="systems × generations × frames", title_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for key in next(iter(found.values())):
        values = [entry[key] for entry in found.values()]
        table.add_row(key, *(f"{v:,.2f}" if isinstance(v, float) else f"{v:,}" for v in values))
    Console().print(table)


def main(command_line: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small campaign")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), help="only these")
    parser.add_argument("--work", type=Path, help="keep the campaigns in this folder")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    arguments = parser.parse_args(command_line)
    names = arguments.sizes or (
        ["quick"] if arguments.quick else [n for n in SIZES if n != "quick"]
    )
    found = {}
    with tempfile.TemporaryDirectory(prefix="halcyon-scale-") as temporary:
        for name in names:
            found[name] = measure(name, SIZES[name], arguments.work or Path(temporary))
            show(found)
    if arguments.json:
        machine: dict[str, Any] = {
            "python": platform.python_version(),
            "snakemake": version("snakemake"),
        }
        machine |= {"processor": platform.machine(), "cores": os.cpu_count()}
        files.write_json(arguments.json, {"campaigns": found, "machine": machine})


if __name__ == "__main__":
    main()
