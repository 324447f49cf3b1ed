"""How fast a large label store answers: look-up, memory, and streaming for an export.

Fabricates a store of labels of 21 atoms by the store's own `add`, opens it afresh, looks up
1,000 keys that lie all over it, and streams all labels. Each is measured in a process of its own,
with the most memory that it took. `cold` is the first look-up of a process, which reads the index.

    python benchmarks/label_store.py                         100,000 labels: a minute
    python benchmarks/label_store.py --labels 1000000 --json store.json

Not for: the time of a file system with cold caches; the files were written just before.
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
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from ase import Atoms
from rich.console import Console
from rich.table import Table

from halcyon.frames import frames_of, structure_key
from halcyon.labels.store import LabelStore

LEVEL = {"program": "benchmark", "version": "1"}
ATOMS = 21
FORMULA = "C9H8O4"
KEYS = 1000


def fabricate(root: Path, labels: int, per_shard: int) -> float:
    """Fill a store; seconds that `add` took, without making the frames."""
    random = np.random.default_rng(1)
    store = LabelStore(root, LEVEL)
    numbers = Atoms(FORMULA).numbers
    seconds = 0.0
    for begin in range(0, labels, per_shard):
        frames = []
        for _ in range(min(per_shard, labels - begin)):
            frame = Atoms(numbers, positions=random.normal(scale=3, size=(ATOMS, 3)))
            frame.arrays["forces"] = random.normal(size=(ATOMS, 3))
            frame.info = {"charge": 0, "multiplicity": 1, "structure": "aspirin", "status": "ok"}
            frame.info |= {"key": structure_key(frame), "level": store.level, "rung": 0}
            frame.info |= {"energy": -1e4 + random.normal(), "core_seconds": 100.0, "seconds": 25.0}
            frame.info |= {"campaign": "benchmark", "system": "aspirin", "host": "here"}
            frames.append(frame)
        start = time.perf_counter()
        store.add(frames)
        seconds += time.perf_counter() - start
    return seconds


def look_up(root: Path) -> dict[str, float]:
    """Look up keys from all over the store, twice; then as many that are not there."""
    keys = json.loads((root / "asked.json").read_text())
    store = LabelStore(root, LEVEL)
    start = time.perf_counter()
    records = store.find(keys)
    cold = time.perf_counter() - start
    start = time.perf_counter()
    store.find(keys)
    warm = time.perf_counter() - start
    start = time.perf_counter()
    store.find([key[::-1] for key in keys])
    absent = time.perf_counter() - start
    if len(records) != len(keys):
        raise AssertionError(f"{len(records)} of {len(keys)} found")
    return {"cold_s": cold, "warm_s": warm, "absent_s": absent}


def stream(root: Path) -> dict[str, float]:
    """Read every label as a frame, as training and export do."""
    start = time.perf_counter()
    number = sum(len(frames_of(table)) for table in LabelStore(root, LEVEL).stream())
    seconds = time.perf_counter() - start
    return {"labels": number, "labels_per_s": number / seconds}


def memory() -> dict[str, float]:
    """Most memory that this process has held."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return {"memory_MiB": int(status.split("VmHWM:")[1].split()[0]) / 1024}


MEASURES = {"idle": lambda _root: {}, "look_up": look_up, "stream": stream}


def alone(measure: str, root: Path) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--measure", measure, "--store", str(root)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def measure_all(folder: Path, labels: int, per_shard: int) -> dict:
    """Fabricate a store and measure all."""
    seconds = fabricate(folder, labels, per_shard)
    store = LabelStore(folder, LEVEL)
    random = np.random.default_rng(2)
    keys = pa.concat_tables(list(store.stream(["key"])))["key"].to_pylist()
    sample = [keys[i] for i in random.choice(len(keys), min(KEYS, len(keys)), replace=False)]
    (folder / "asked.json").write_text(json.dumps(sample))
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    return {
        "labels": labels,
        "per_shard": per_shard,
        "shards": len(store.shards()),
        "size_MB": size / 1e6,
        "add_per_s": labels / seconds,
        **{name: alone(name, folder) for name in MEASURES},
    }


def table(measured: dict) -> Table:
    """What a person looks at."""
    shown = Table(
        title=f"{measured['labels']:,} labels of {ATOMS} atoms, {measured['per_shard']} to a shard",
        show_header=False,
    )
    look, streamed = measured["look_up"], measured["stream"]
    for what, number in {
        "shards": f"{measured['shards']:,}",
        "size on disk": f"{measured['size_MB']:,.0f} MB",
        "stored": f"{measured['add_per_s']:,.0f} labels/s",
        f"look-up of {KEYS:,} keys, new process": f"{look['cold_s']:.2f} s",
        "again": f"{look['warm_s']:.2f} s",
        "as many that are not there": f"{look['absent_s']:.2f} s",
        "memory of the look-up": f"{look['memory_MiB']:,.0f} MiB",
        "streamed": f"{streamed['labels_per_s']:,.0f} labels/s",
        "memory of streaming": f"{streamed['memory_MiB']:,.0f} MiB",
        "memory of the imports alone": f"{measured['idle']['memory_MiB']:,.0f} MiB",
    }.items():
        shown.add_row(what, number)
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--labels", type=int, default=100_000, help="(default 100,000)")
    parser.add_argument("--per-shard", type=int, default=1000, help="labels per `add` (1,000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument("--measure", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(command_line)
    if arguments.measure:
        print(json.dumps(MEASURES[arguments.measure](arguments.store) | memory()))
        return
    folder = Path(tempfile.mkdtemp(prefix="halcyon-label-store-"))
    try:
        measured = measure_all(folder, arguments.labels, arguments.per_shard)
    finally:
        shutil.rmtree(folder)
    Console().print(table(measured))
    if arguments.json is not None:
        measured["machine"] = {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "pyarrow": version("pyarrow"),
        }
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
