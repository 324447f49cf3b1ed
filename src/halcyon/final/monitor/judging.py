"""A saved trajectory of any program, judged by a campaign's index.

    from ase.io import read
    from halcyon.final.monitor.ase import MonitoredMace
    from halcyon.final.monitor.judging import judge
    from halcyon.final.monitor.trajectories import Frame

    atoms = read("results/quickstart/ethanol/final/structures/ethanol.xyz")
    frames = [Frame(number, atoms, number, None) for number in range(3)]
    judged = judge(MonitoredMace("results/quickstart/ethanol/final"), frames, interval_ps=0.01)
    judged.frames[["time_ps", "worst_score", "failure"]], judged.atoms["cli_ps"]

Λ is then a sum over saved frames: an excursion that began and ended between two of them is not
seen.

Not for: stopping a run that goes wrong (`monitor.ase` and its neighbours).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms

from halcyon.errors import InputError
from halcyon.final.monitor.ase import MonitoredMace, alike
from halcyon.final.monitor.trajectories import Frame
from halcyon.final.monitor.watch import DECIDING, Watch

BATCH = 32
"""Frames that are evaluated at once."""
SHORTEST_A = 0.4
"""No two atoms of chemistry are nearer: positions in nm, or a broken file."""


@dataclass(frozen=True)
class Judged:
    """What the index says of a trajectory.

    Attributes:
        structure: which of the domain's structures it is.
        decides: name of the signal that decides.
        interval_ps: time between two frames.
        frames: a row per frame: `frame`, `step`, `time_ps`, `energy_eV`, `outside` (atoms beyond
            the tolerance), `worst_atom`, `worst_score` (in tolerances beyond it, or widths of the
            domain), `cli_ps` (mean of Λ over atoms), `cli_max_ps`, `failure` (why, or empty).
        atoms: a row per atom: `atom`, `element`, `cli_ps`, `excursions`.
        worst: frames worth a label, the worst first, with `info` keys frame, time_ps and why.
    """

    structure: str
    decides: str
    interval_ps: float
    frames: pd.DataFrame
    atoms: pd.DataFrame
    worst: list[Atoms]


def judge(
    calculator: MonitoredMace,
    frames: Iterable[Frame],
    *,
    interval_ps: float | None = None,
    most_worst: int = 20,
    batch: int = BATCH,
    progress: Callable[[int, int | None], None] = lambda _done, _of: None,
) -> Judged:
    """Score every frame, accumulate Λ, and keep the worst frames.

    Of consecutive frames with an atom outside only the worst is kept, since its neighbours are
    nearly the same.

    Args:
        calculator: model and domain.
        frames: of one trajectory.
        interval_ps: time between two frames; None: the frames say their time.
        most_worst: how many frames are kept.
        batch: how many frames are evaluated at once.
        progress: called with the number of frames done, and that of all where it is known.

    Raises:
        InputError: there is no frame, the time between frames is not known or not even, atoms are
            none of the domain's structures or change on the way, or positions are not in Å.
    """
    rows: list[dict[str, object]] = []
    watch: Watch | None = None
    run: tuple[float, Atoms] | None = None  # the worst of consecutive frames outside
    kept: list[tuple[float, Atoms]] = []
    for frame, interval, results in _evaluated(calculator, _timed(frames, interval_ps), batch):
        atoms = frame.atoms
        if watch is None:
            window = max(calculator.thresholds.window_ps, interval)
            thresholds = replace(calculator.thresholds, window_ps=window)
            watch = Watch(calculator.watched(atoms), thresholds, timestep_ps=interval)
        scores = np.stack([results[f"score_{name}"] for name in watch.watched.columns])
        energy = results["energy"]
        alarms = watch.step(atoms, energy, results["forces"], scores)
        failure = next((alarm.message for alarm in alarms if alarm.cause == "failure"), "")
        worst_atom = int(scores[DECIDING].argmax())
        score = float(scores[DECIDING, worst_atom])
        time_ps = frame.number * interval
        rows.append(
            {
                "frame": frame.number,
                "step": frame.step,
                "time_ps": time_ps,
                "energy_eV": energy,
                "outside": int((scores[DECIDING] > 0).sum()),
                "worst_atom": worst_atom,
                "worst_score": score,
                "cli_ps": float(watch.cli[DECIDING].mean()),
                "cli_max_ps": float(watch.cli[DECIDING].max()),
                "failure": failure,
            }
        )
        if score > 0 or failure:
            why = failure or f"{atoms.symbols[worst_atom]}{worst_atom} outside by {score:.3g}"
            if run is None or score > run[0]:
                copy = atoms.copy()
                copy.info = {"frame": frame.number, "time_ps": round(time_ps, 9), "why": why}
                run = (score, copy)
        elif run is not None:
            kept.append(run)
            run = None
        progress(len(rows), frame.of)
    if watch is None:
        raise InputError("the trajectory has no frame")
    kept += [] if run is None else [run]
    kept.sort(key=lambda pair: -pair[0])
    symbols = list(frame.atoms.symbols)
    return Judged(
        structure=watch.watched.structure,
        decides=watch.watched.columns[DECIDING],
        interval_ps=watch.timestep_ps,
        frames=pd.DataFrame(rows),
        atoms=pd.DataFrame(
            {
                "atom": range(len(symbols)),
                "element": symbols,
                "cli_ps": watch.cli[DECIDING],
                "excursions": watch.excursions[DECIDING],
            }
        ),
        worst=[atoms for _, atoms in kept[:most_worst]],
    )


def _evaluated(
    calculator: MonitoredMace, timed: Iterable[tuple[Frame, float]], batch: int
) -> Iterator[tuple[Frame, float, dict[str, Any]]]:
    """Each frame with the time between frames and the calculator's results, a batch at a time."""
    timed, first = iter(timed), None
    while together := list(islice(timed, batch)):
        if first is None:
            first = together[0][0]
            _refuse_other_units(first.atoms)
        for frame, _ in together:
            if not alike(first.atoms, frame.atoms):
                raise InputError(
                    f"frame {frame.number} has other atoms than frame {first.number}, or another "
                    "order or periodicity: expected a trajectory of the same atoms. Cut it there"
                )
        results = calculator.predict([frame.atoms for frame, _ in together])
        for (frame, interval), predicted in zip(together, results, strict=True):
            yield frame, interval, predicted


def _timed(frames: Iterable[Frame], interval_ps: float | None) -> Iterable[tuple[Frame, float]]:
    """Each frame with the time between frames, which must be the same all along."""
    before: Frame | None = None
    held: list[Frame] = []
    interval = interval_ps
    for frame in frames:
        if interval_ps is None and before is not None:
            if frame.time_ps is None or before.time_ps is None:
                raise InputError(
                    "the time between frames is not known, and Λ is in ps: give it, "
                    "--frame-interval-fs (of LAMMPS: dump interval times time step)"
                )
            apart = frame.time_ps - before.time_ps
            if interval is None:
                interval = apart
            if apart <= 0 or abs(apart - interval) > 1e-3 * interval:
                raise InputError(
                    f"frames {before.number} and {frame.number} are {apart:g} ps apart, others "
                    f"{interval:g}: expected one interval. Cut the trajectory, or give "
                    "--frame-interval-fs if the times are wrong"
                )
        before = frame
        if interval is None:
            held.append(frame)
            continue
        for each in [*held, frame]:
            yield each, interval
        held = []
    if held:
        raise InputError(
            "a single frame has no time between frames, and Λ is in ps: give --frame-interval-fs"
        )


def _refuse_other_units(atoms: Atoms) -> None:
    if len(atoms) < 2:
        return
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))
    nearest = float(distances[np.triu_indices(len(atoms), 1)].min())
    if not np.isfinite(nearest) or nearest < SHORTEST_A:
        raise InputError(
            f"the first frame's nearest atoms are {nearest:.3g} Å apart, expected over "
            f"{SHORTEST_A:g}: are its positions in nm, or scaled by the cell?"
        )
