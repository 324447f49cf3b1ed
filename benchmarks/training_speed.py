"""How long an optimiser step takes: Halcyon's forward pass against MACE's own, on one core.

A step computes the loss of a batch with its gradient by the weights, and moves them (see
`halcyon.models.learner`). Three ways to evaluate the model in it: `mace`, MACE's own forward;
`contraction`, the same with the product over sums by a sparse polynomial; `ours`, the pass that
campaigns train with. Rounds alternate, ratios are taken within a round, and times are processor
times. Weights are random: how long a step takes does not depend on them.

    python benchmarks/training_speed.py                      minutes
    python benchmarks/training_speed.py --models quick --rounds 3 --json speed.json

Not for: how many steps a model needs, or dynamics (see `evaluation_speed`).
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from halcyon import files
from halcyon.config import FitSettings, ModelSettings
from halcyon.config.presets import PRESETS
from halcyon.models import learner, mace
from halcyon.models.graphs import graphs, mean_neighbours
from speed_systems import SEED, made_start

MODELS = {
    "quick": ModelSettings(),
    "standard": ModelSettings(**PRESETS["standard"]["model"]),
    "large": ModelSettings(**PRESETS["large"]["model"]),
}
SYSTEMS = {"ethanol": 5, "aspirin": 5, "water64": 1}
"""Frames of a batch."""
WAYS = ("mace", "contraction", "ours")
DISPLACED_A = 0.05


@dataclass(frozen=True)
class Speed:
    """One model on one system.

    Attributes:
        model: its name in `MODELS`.
        system: what it learns.
        frames: of a batch.
        atoms: of a batch.
        step_ms: by way, the median over rounds, ms.
        ratio: `mace` over `ours`, the median over rounds; None: `ours` does not take this model.
        low: the least ratio of a round.
        high: the greatest.
    """

    model: str
    system: str
    frames: int
    atoms: int
    step_ms: dict[str, float]
    ratio: float | None
    low: float | None
    high: float | None


def measure(name: str, system: str, *, rounds: int, steps: int) -> Speed:
    """Time the steps of one case."""
    random = np.random.default_rng(SEED)
    start, frames = made_start(system), []
    for _ in range(SYSTEMS[system]):
        frame = start.copy()
        frame.positions += random.normal(scale=DISPLACED_A, size=frame.positions.shape)
        frame.info["energy"] = 0.0
        frame.arrays["forces"] = random.normal(size=frame.positions.shape)
        frames.append(frame)
    e0s = dict.fromkeys(sorted({int(z) for z in start.numbers}), 0.0)
    settings = MODELS[name]
    torch.manual_seed(SEED)
    model: Any = mace.new(
        settings, e0s, scale=1.0, mean_neighbours=mean_neighbours(frames, settings.r_max_A)
    ).to(torch.float32)
    labels = graphs(frames, model, e0s)
    fit = FitSettings(epochs=1, batch_size=len(frames), learning_rate=1e-5)
    learning = learner.Learner(model, fit, seed=SEED, say=print)
    own_pass = learning.training_pass
    ways = WAYS if own_pass is not None else WAYS[:2]
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in ways:
            learning.training_pass = own_pass if way == "ours" else None
            with _maces_own() if way == "mace" else contextlib.nullcontext():
                begun = time.process_time()
                for _ in range(steps):
                    list(learning.losses(0, labels, [], 0.0))
            if number:  # the first prepares
                seconds[way].append((time.process_time() - begun) / steps)
    ratios: list[float] = []
    if own_pass is not None:
        pairs = zip(seconds["mace"], seconds["ours"], strict=True)
        ratios = [slow / fast for slow, fast in pairs]
    return Speed(
        model=name,
        system=system,
        frames=len(frames),
        atoms=sum(map(len, frames)),
        step_ms={way: 1e3 * statistics.median(times) for way, times in seconds.items()},
        ratio=statistics.median(ratios) if ratios else None,
        low=min(ratios, default=None),
        high=max(ratios, default=None),
    )


def _maces_own() -> contextlib.AbstractContextManager[Any]:
    """While the block runs, nothing takes the place of MACE's contraction."""
    nothing = contextlib.nullcontext()
    return mock.patch.object(learner, "compiled_contractions", return_value=nothing)


def table(speeds: Sequence[Speed]) -> Table:
    """What a person looks at."""
    shown = Table(title="An optimiser step, ms of one core", expand=False)
    for heading in ("model", "batch", "MACE's own", "contraction", "ours", "ratio"):
        shown.add_column(heading, justify="left" if heading in {"model", "batch"} else "right")
    for speed in speeds:
        ratio = "–"
        if speed.ratio is not None:
            ratio = f"{speed.ratio:.1f} ({speed.low:.1f}–{speed.high:.1f})"
        shown.add_row(
            speed.model,
            f"{speed.frames} × {speed.system}, {speed.atoms} atoms",
            *(f"{speed.step_ms[way]:.0f}" if way in speed.step_ms else "–" for way in WAYS),
            ratio,
        )
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["quick", "standard"])
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    parser.add_argument("--rounds", type=int, default=5, help="repetitions (default 5)")
    parser.add_argument("--steps", type=int, default=5, help="of each round (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    given = parser.parse_args(command_line)
    torch.set_num_threads(1)
    speeds = [
        measure(model, system, rounds=given.rounds, steps=given.steps)
        for model in given.models
        for system in given.systems
    ]
    Console().print(table(speeds))
    if given.json:
        ratios = {f"{speed.model} {speed.system}": speed.ratio for speed in speeds}
        files.write_json(given.json, {"ratio": ratios, "cases": [asdict(s) for s in speeds]})


if __name__ == "__main__":
    main()
