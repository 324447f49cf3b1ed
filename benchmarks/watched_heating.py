"""Does the monitor stop a run that is heated out of the model's domain before a bond breaks?

A finished campaign's model is heated in ASE from a temperature that it knows, at a constant rate,
until it fails, once per seed. Monitors look and do not interfere, so that one run is both the
watched one (up to the first alarm) and its own control (on to the failure).

    python benchmarks/watched_heating.py results/quickstart/ethanol/final --json heating.json
    python benchmarks/watched_heating.py … --kelvin 500 --heating 0 --time 10     calm: false alarms

Not for: foretelling failures at one temperature (see `cli_validity`).
"""

import argparse
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import units
from ase.io import iread
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from halcyon import files
from halcyon.final.monitor.ase import CliMonitor, MonitoredMace, UnreliableDynamicsWarning
from halcyon.final.monitor.watch import DECIDING

FS = 0.5
"""Time step."""
THRESHOLDS: dict[str, dict[str, float]] = {
    "rate 0.1": {"rate": 0.1},
    "rate 0.05": {"rate": 0.05},
}
"""What is compared, all on the same runs."""


def run(
    folder: Path, seed: int, *, kelvin: float, heating_K_per_ps: float, time_ps: float
) -> dict[str, Any]:
    """One run until it fails, at most `time_ps`; where each monitor spoke up first.

    Returns:
        `failed` and, by name of `THRESHOLDS`, the first alarm before it: `ps`, `kelvin` (of the
        thermostat) and `stretch_A`, the furthest that a bond was off its mean; None where there
        was none; `cause` of the alarm or failure. `greatest`: λ of each monitor's window.
    """
    (path,) = sorted(folder.glob("structures/*.xyz"))
    random = np.random.default_rng(seed)
    (atoms,) = iread(path)
    atoms.calc = calculator = MonitoredMace(folder)
    thermalize_momenta(atoms, temperature_K=kelvin, rng=random)
    friction = 0.005 / units.fs
    dynamics = Langevin(
        atoms, FS * units.fs, temperature_K=kelvin, friction=friction, fixcm=False, rng=random
    )
    monitors = {
        name: CliMonitor(atoms, dynamics, action="warn", frame=None, **limits)
        for name, limits in THRESHOLDS.items()
    }
    bonds = calculator.domain.bonds[path.stem]
    told: dict[str, Any] = {"seed": seed, "failed": None} | dict.fromkeys(THRESHOLDS)
    greatest = dict.fromkeys(THRESHOLDS, 0.0)
    while dynamics.nsteps * FS < time_ps * 1000 and told["failed"] is None:
        now = kelvin + heating_K_per_ps * dynamics.nsteps * FS / 1000
        dynamics.set_temperature(temperature_K=now)
        dynamics.run(1)
        for name, monitor in monitors.items():
            greatest[name] = max(greatest[name], float(monitor.watch.rate[DECIDING]))
            for alarm in monitor.alarms:
                seen = {
                    "ps": alarm.time_ps,
                    "kelvin": now,
                    "stretch_A": max(abs(atoms.get_distance(i, j) - r) for i, j, r in bonds),
                    "cause": alarm.cause,
                }
                entry = "failed" if alarm.cause == "failure" else name
                told[entry] = told[entry] or seen
            monitor.alarms.clear()
    return told | {"greatest": greatest, "ran_ps": dynamics.nsteps * FS / 1000}


def summary(runs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """How often an alarm came before the failure, with its exact interval, and how long before."""
    broke = [each for each in runs if each["failed"]]
    before = [r for r in broke if r[name] and r[name]["ps"] < r["failed"]["ps"]]
    leads = [r["failed"]["ps"] - r[name]["ps"] for r in before]
    # C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934).
    sure = binomtest(len(before), len(broke)).proportion_ci(0.95, "exact") if broke else None
    return {
        "failed": len(broke),
        "alarmed_before": len(before),
        "interval": None if sure is None else [sure.low, sure.high],
        "lead_ps": [min(leads), float(np.median(leads)), max(leads)] if leads else None,
        "alarms_without_failure": sum(r[name] is not None for r in runs if not r["failed"]),
        "ran_ps": sum(r["ran_ps"] for r in runs),
    }


def shown(runs: list[dict[str, Any]], console: Console) -> None:
    """The runs as a table, and a line per set of thresholds."""
    table = Table(title="first alarm, and the failure: ps, K, furthest bond in Å")
    for heading in ("seed", *THRESHOLDS, "failed"):
        table.add_column(heading, justify="right")
    for each in runs:
        cells = [
            f"{e['ps']:.2f} {e['kelvin']:.0f} {e['stretch_A']:.2f} {e['cause']}" if e else "–"
            for e in (each[name] for name in (*THRESHOLDS, "failed"))
        ]
        table.add_row(str(each["seed"]), *cells)
    console.print(table)
    for name in THRESHOLDS:
        found = summary(runs, name)
        low, high = found["interval"] or (math.nan, math.nan)
        console.print(
            f"{name}: {found['alarmed_before']} of {found['failed']} before the failure "
            f"({low:.0%} to {high:.0%}), {found['alarms_without_failure']} alarms in "
            f"{len(runs) - found['failed']} runs without one, {found['ran_ps']:.4g} ps in all; "
            f"lead {found['lead_ps']} ps"
        )


def main(words: list[str] | None = None) -> None:
    """Run and show it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="a campaign's `final`, of one molecule")
    parser.add_argument("--seeds", type=int, default=8, help="runs")
    parser.add_argument("--kelvin", type=float, default=300.0, help="thermostat at the start")
    parser.add_argument("--heating", type=float, default=200.0, metavar="K/ps", help="its rate")
    parser.add_argument("--time", type=float, default=20.0, metavar="PS", help="longest run")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    asked = parser.parse_args(words)
    warnings.simplefilter("ignore", UnreliableDynamicsWarning)
    runs, console = [], Console()
    for seed in range(1, asked.seeds + 1):
        runs.append(
            run(
                asked.folder,
                seed,
                kelvin=asked.kelvin,
                heating_K_per_ps=asked.heating,
                time_ps=asked.time,
            )
        )
        if asked.json:
            found = {
                "schema": 1,
                "kelvin": asked.kelvin,
                "heating_K_per_ps": asked.heating,
                "thresholds": THRESHOLDS,
                "card": vars(MonitoredMace(asked.folder).thresholds),
                "summary": {name: summary(runs, name) for name in THRESHOLDS},
                "runs": runs,
            }
            files.write_json(asked.json, found)
    shown(runs, console)


if __name__ == "__main__":
    main()
