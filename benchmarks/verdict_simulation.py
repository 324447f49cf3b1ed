"""How often campaigns are called calm that are not, and those calm that are: simulated events.

Each replica has events at its own rate, drawn from a gamma distribution (`shape`: variance over
squared mean is 1/shape; null: all rates are equal). An event is a burst of activities, geometric in
number up to 24, with exponential gaps of 0.2 ps. Campaigns run for up to eight generations, each
judged by the product's own rule (`verdict.events`, `verdict.saturation`), and by that of releases
up to 1.4 (the exact Poisson bound of all excursions, 95 % in each generation) beside it. A
generation is longer where the product's would be (`verdict.longer`). Where the true rate is λ*, a
campaign that is called calm is called so falsely.

    python benchmarks/verdict_simulation.py                          some minutes on one core
    python benchmarks/verdict_simulation.py --campaigns 2000 --json simulated.json
    python benchmarks/verdict_simulation.py --read simulated.json --plots docs/figures

Not for: whether the events of real dynamics are like these.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from halcyon import files
from halcyon.campaign.lengths import exploring_for
from halcyon.config import Settings
from halcyon.verdict.estimates import Outcome, fraction, rate_bound
from halcyon.verdict.forms import Assessment, ReplicaEnd
from halcyon.verdict.longer import next_time_ps
from halcyon.verdict.saturation import assess_run, is_calm
from truth_figures import draw_simulated

ATOMS = 9
MOST_OF_A_BURST = 24
GAP_PS = 0.2
ACTIVITY_PS = 0.02
"""Duration of each activity: one atom is unreliable."""
POINTS_PER_PS = 1
SHAPES = (None, 1.0, 0.5)
SIZES = (1, 4, 8)
"""Mean number of activities of a burst, before it is cut at the most."""
RATES = (1.0, 1 / 3, 1 / 10)
"""True rates in units of λ*."""


def burst_sizes(random: np.random.Generator, mean: float, number: int) -> np.ndarray:
    """Activities of each burst, shape (number,)."""
    return np.minimum(random.geometric(1 / mean, size=number), MOST_OF_A_BURST)


def activities(
    random: np.random.Generator, *, rate_per_ps: float, mean_size: float, time_ps: float
) -> list[tuple[float, float]]:
    """Begin and end of each activity of one replica, ps."""
    begins = random.uniform(0, time_ps, random.poisson(rate_per_ps * time_ps))
    sizes = burst_sizes(random, mean_size, len(begins))
    times = [
        begin + np.concatenate([[0.0], random.exponential(GAP_PS, size - 1).cumsum()])
        for begin, size in zip(begins, sizes, strict=True)
    ]
    times_ps = np.sort(np.concatenate([*times, np.empty(0)]))
    times_ps = times_ps[times_ps < time_ps]
    return [(float(t), float(min(t + ACTIVITY_PS, time_ps))) for t in times_ps]


class Rules:
    """Both rules, applied to the replicas of a generation."""

    def __init__(self, settings: Settings, random: np.random.Generator) -> None:
        """Make the traces' columns that do not depend on events."""
        self.settings = settings
        self._random = random
        time_ps, replicas = settings.exploration.time_ps, settings.exploration.replicas
        times = np.arange(1, round(time_ps * POINTS_PER_PS) + 1) / POINTS_PER_PS
        self._times = times
        self._frame = pd.DataFrame(
            {
                "replica": np.repeat(np.arange(replicas), len(times)),
                "time": np.tile(times, replicas),
                "expected_error": random.normal(size=replicas * len(times)),
            }
        )

    def assessed(self, active: list[list[tuple[float, float]]]) -> Assessment:
        """What the product says of these replicas."""
        time_ps = self.settings.exploration.time_ps
        gained = [
            np.searchsorted([begin for begin, _ in part], self._times) * ACTIVITY_PS / ATOMS
            for part in active
        ]
        traces = self._frame.assign(cli_error=np.concatenate(gained))
        ends = [
            ReplicaEnd(
                replica=number,
                structure="it",
                temperature_K=500.0,
                atoms=ATOMS,
                time_ps=time_ps,
                failure=None,
                molecules=1,
                activity_ps=part,
            )
            for number, part in enumerate(active)
        ]
        return assess_run(traces, ends, self.settings)

    def formerly_calm(self, active: list[list[tuple[float, float]]], mean_size: float) -> bool:
        """Whether releases up to 1.4 did, with the limit that λ* means for excursions."""
        settings = self.settings
        begin = settings.exploration.time_ps * (1 - settings.saturation.window)
        number = sum(start >= begin for part in active for start, _ in part)
        atom_time = len(active) * (settings.exploration.time_ps - begin) * ATOMS
        limit = settings.saturation.events_per_ns / 1000 * mean_size / ATOMS
        return rate_bound(number, atom_time, settings.saturation.confidence) < limit


def simulated(
    settings: Settings,
    *,
    shape: float | None,
    size: int,
    rate: float,
    campaigns: int,
    seed: int,
) -> dict[str, Any]:
    """How many campaigns are called calm, at any of their generations.

    Args:
        settings: of the campaigns.
        shape: of the distribution of the replicas' rates; None: all are equal.
        size: mean number of activities of a burst, before it is cut.
        rate: true rate of events, in units of λ*.
        campaigns: how many are simulated.
        seed: of all random numbers.
    """
    random = np.random.default_rng(seed)
    rules = {settings.exploration.time_ps: Rules(settings, random)}
    mean_size = float(burst_sizes(random, size, 100_000).mean())
    replicas = settings.exploration.replicas
    per_ps = rate * settings.saturation.events_per_ns / 1000
    calm = np.full(campaigns, -1)
    formerly = np.full(campaigns, -1)
    simulated_ps = np.zeros(campaigns)
    time_ps = settings.exploration.time_ps
    for campaign, generation in itertools.product(
        range(campaigns), range(settings.limits.max_generations)
    ):
        if not generation:
            time_ps = settings.exploration.time_ps
        if calm[campaign] >= 0 and formerly[campaign] >= 0:
            continue
        if time_ps not in rules:
            rules[time_ps] = Rules(exploring_for(settings, time_ps), random)
        rates = np.full(replicas, per_ps)
        if shape is not None:
            rates = random.gamma(shape, per_ps / shape, size=replicas)
        active = [
            activities(random, rate_per_ps=own, mean_size=size, time_ps=time_ps) for own in rates
        ]
        if formerly[campaign] < 0 and rules[time_ps].formerly_calm(active, mean_size):
            formerly[campaign] = generation
        if calm[campaign] < 0:
            assessment = rules[time_ps].assessed(active)
            simulated_ps[campaign] += time_ps
            if is_calm(assessment):
                calm[campaign] = generation
            time_ps = next_time_ps(assessment, time_ps, settings)
    return {
        "shape": shape,
        "burst": size,
        "rate": rate,
        "campaigns": campaigns,
        "calm": _share(calm >= 0),
        "calm_first_generation": _share(calm == 0),
        "formerly_calm": _share(formerly >= 0),
        "formerly_calm_first_generation": _share(formerly == 0),
        "mean_generations": float(
            np.where(calm < 0, settings.limits.max_generations, calm + 1).mean()
        ),
        "mean_ps_of_a_replica": float(simulated_ps.mean()),
    }


def _share(flags: np.ndarray) -> dict[str, float | None]:
    share = fraction(flags, 0.95, Outcome.NOT_ENOUGH_FAILURES)
    return {"value": share.value, "low": share.low, "high": share.high}


def all_cells(settings: Settings, *, campaigns: int, seed: int) -> Iterator[dict[str, Any]]:
    """Simulate every rate, distribution of rates and size of bursts."""
    for number, (rate, shape, size) in enumerate(itertools.product(RATES, SHAPES, SIZES)):
        yield simulated(
            settings, shape=shape, size=size, rate=rate, campaigns=campaigns, seed=seed + number
        )


def table(cells: list[dict[str, Any]]) -> Table:
    """A row for each cell."""
    shown = Table("true rate, λ*", "shape", "burst", "called calm", "first generation", "formerly")
    shown.add_column("generations")
    shown.add_column("ps of a replica")
    for cell in cells:
        shares = (cell[key] for key in ("calm", "calm_first_generation", "formerly_calm"))
        shown.add_row(
            f"{cell['rate']:.3g}",
            "even" if cell["shape"] is None else f"{cell['shape']:g}",
            str(cell["burst"]),
            *(f"{share['value']:.1%} ({share['low']:.1%}–{share['high']:.1%})" for share in shares),
            f"{cell['mean_generations']:.1f}",
            f"{cell['mean_ps_of_a_replica']:.0f}",
        )
    return shown


def main() -> None:
    """Simulate, print a table, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--campaigns", type=int, default=400, help="campaigns of each cell")
    parser.add_argument("--replicas", type=int, help="by default that of the settings")
    parser.add_argument("--time-ps", type=float, help="of each replica; by default the settings'")
    parser.add_argument("--extended", type=float, help="exploration.extended_at_most")
    parser.add_argument("--seed", type=int, default=1, help="of all random numbers")
    parser.add_argument("--json", type=Path, help="file that the numbers are written to")
    parser.add_argument("--read", type=Path, metavar="JSON", help="simulate nothing: these numbers")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw simulated.png")
    arguments = parser.parse_args()
    content = files.read_json(arguments.read) if arguments.read else _content(arguments)
    Console(width=120).print(table(content["cells"]))
    if arguments.json:
        files.write_json(arguments.json, content)
    if arguments.plots:
        draw_simulated(content["cells"], arguments.plots)


def _content(arguments: argparse.Namespace) -> dict[str, Any]:
    """All numbers, and the settings that they are of."""
    choices = {"replicas": arguments.replicas, "time_ps": arguments.time_ps}
    choices["extended_at_most"] = arguments.extended
    settings = Settings(exploration={key: value for key, value in choices.items() if value})
    return {
        "replicas": settings.exploration.replicas,
        "time_ps": settings.exploration.time_ps,
        "extended_at_most": settings.exploration.extended_at_most,
        "saturation": settings.saturation.model_dump(),
        "max_generations": settings.limits.max_generations,
        "seed": arguments.seed,
        "cells": list(all_cells(settings, campaigns=arguments.campaigns, seed=arguments.seed)),
    }


if __name__ == "__main__":
    main()
