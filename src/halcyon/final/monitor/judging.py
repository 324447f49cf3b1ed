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

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from ase import Atoms

from halcyon.errors import InputError
from halcyon.final.monitor.ase import MonitoredMace
from halcyon.final.monitor.trajectories import Frame
from halcyon.final.monitor.watch import DECIDING, Watch

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
    progress: Callable[[int], None] = lambda _number: None,
) -> Judged:
    """Score every frame, accumulate Λ, and keep the worst frames.

    Of consecutive frames with an atom outside only the worst is kept, since its neighbours are
    nearly the same.

    Args:
        calculator: model and domain.
        frames: of one trajectory.
        interval_ps: time between two frames; None: the frames say their time.
        most_worst: how many frames are kept.
        progress: called with the number of frames done.

    Raises:
        InputError: there is no frame, the time between frames is not known or not even, atoms are
            none of the domain's structures, or positions are not in Å.
    """
    rows: list[dict[str, object]] = []
    watch: Watch | None = None
    run: tuple[float, Atoms] | None = None  # the worst of consecutive frames outside
    kept: list[tuple[float, Atoms]] = []
    for frame, interval in _timed(frames, interval_ps):
        atoms = frame.atoms
        if watch is None:
            _refuse_other_units(atoms)
            window = max(calculator.thresholds.window_ps, interval)
            thresholds = replace(calculator.thresholds, window_ps=window)
            watch = Watch(calculator.watched(atoms), thresholds, timestep_ps=interval)
        get = calculator.get_property
        scores = np.stack([get(f"score_{name}", atoms) for name in watch.watched.columns])
        energy = float(get("energy", atoms))
        alarms = watch.step(atoms, energy, get("forces", atoms), scores)
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
        progress(len(rows))
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
