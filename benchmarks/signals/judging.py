"""A cell of `signal_truth`: one model at one place, every signal against the errors of its forces.

    content = judged(case, frames, work, plan)
    content["signals"]["latent"]["0.5 eV/A"]["auroc"]["value"]

Not for: what cells say together (see `summary`).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.domain.states import State
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from signals.described import Described, described
from signals.distances import SIGNALS, Known, Measure, committee, second_opinion
from signals.systems import Frames, seed_of
from signals.visits import Case, model_of, visited
from validity.detection import detection

FALSE_ALARMS = 0.05
REPEATS = 5
BUDGET_S = 1.0
"""Timings of a signal: the median counts. Dear ones are repeated only within the budget."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every cell shares.

    Attributes:
        resamples: bootstrap samples of each interval.
        committee: systems and kinds of models whose committee is watched.
        seeds: models of a recipe; those of a committee are these.
        timed: frames at once where costs are measured.
    """

    resamples: int = 200
    committee: tuple[str, ...] = ("ethanol scratch",)
    seeds: int = 3
    timed: int = 64


def judged(case: Case, frames: Frames, work: Path, plan: Plan) -> dict[str, Any]:
    """Train, visit, label, measure: the content of a cell."""
    begun = time.monotonic()
    path = model_of(case, frames, work)
    visit = visited(case, frames, work)
    model = mace.load(path, device="cpu")

    def seen(some: list[Atoms]) -> Described:
        return described(model, some, frames.classes)

    new = seen(visit.frames)
    known = Known(
        seen(frames.train[: case.labels]),
        seen(frames.validation),
        seen(frames.teacher) if case.group == "pretrained" else None,
        seed_of(case.name),
    )
    measures: dict[str, Measure] = {
        name: make(known)
        for name, make in SIGNALS.items()
        if name != "guard" or known.teacher is not None
    }
    some = [visit.frames[i] for i in range(min(plan.timed, len(visit.frames)))]
    step_s = _step_s(BatchedMace(model), some)
    values, costs = {}, {}
    few = seen(some)
    measures |= _dearer(case, frames, work, plan)
    for name, measure in measures.items():
        values[name] = measure(new)
        costs[name] = _cost(measure, few, step_s)
    replica = np.array([atoms.info["replica"] for atoms in visit.frames])[new.frame]
    errors = new.errors
    limits = thresholds(errors)
    return {
        "errors": {
            "median_eV_per_A": float(np.median(errors)),
            "validation_median_eV_per_A": float(np.median(known.validation.errors)),
            **mace.errors(mace.evaluate(model, visit.frames), visit.frames),
        },
        "frames": len(visit.frames),
        "atoms": len(errors),
        "labels_failed": visit.failed,
        "replicas_failed": list(visit.ended),
        "bad_atoms": {name: int((errors > limit).sum()) for name, limit in limits.items()},
        "signals": {
            name: {
                threshold: detected(value, errors > limit, replica, plan)
                for threshold, limit in limits.items()
            }
            | {"cost_fraction": costs[name]}
            for name, value in values.items()
        },
        "step_s": step_s / len(some),
        "seconds": round(time.monotonic() - begun, 1),
    }


def thresholds(errors: np.ndarray) -> dict[str, float]:
    """What counts as a wrong force, eV/Å, by name."""
    return {"0.5 eV/A": 0.5, "1 eV/A": 1.0, "3 medians": 3 * float(np.median(errors))}


def detected(value: np.ndarray, bad: np.ndarray, replica: np.ndarray, plan: Plan) -> dict[str, Any]:
    """AUROC, and recall at a false-alarm rate of 5 %, with intervals over replicas."""
    finite = np.nan_to_num(value, nan=np.inf, posinf=1e12, neginf=-1e12)
    detected_atoms = detection(
        finite,
        bad,
        replica,
        false_alarm_rate=FALSE_ALARMS,
        seed=1,
        resamples=plan.resamples,
    )
    return {"auroc": _short(detected_atoms.auroc), "recall": _short(detected_atoms.hit_rate)}


def _short(estimate: Any) -> dict[str, Any]:
    content = asdict(estimate)
    return {
        "outcome": str(content["outcome"]),
        **{
            name: None if content[name] is None else round(content[name], 4)
            for name in ("value", "low", "high")
        },
    }


def _step_s(model: BatchedMace, frames: list[Atoms]) -> float:
    """Time of a forward pass with forces over some frames, s."""
    state = State.of(frames, device=model.device, dtype=model.dtype)
    model(state)  # the first one prepares the batch
    return float(np.median(_times(lambda: model(state))))


def _cost(measure: Measure, frames: Described, step_s: float) -> dict[str, float]:
    """Time of a signal over that of a step of the same frames, with the range of the repeats."""
    times = _times(lambda: measure(replace(frames)))
    low, middle, high = np.quantile(times, [0, 0.5, 1]) / step_s
    return {"value": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}


def _times(work: Callable[[], Any]) -> list[float]:
    """Processor times, s, of one thread: other programs on the machine do not count."""
    times: list[float] = []
    while len(times) < REPEATS and (not times or sum(times) < BUDGET_S):
        begun = time.process_time()
        work()
        times.append(time.process_time() - begun)
    return times


def _dearer(case: Case, frames: Frames, work: Path, plan: Plan) -> dict[str, Measure]:
    """Signals that need other models, or another Hamiltonian."""
    published = case.system.channel and not case.system.relabelled
    measures = {"second_opinion": second_opinion("GFN2-xTB" if published else "GFN1-xTB")}
    if f"{case.system.name} {case.group}" in plan.committee:
        seeds = [seed for seed in range(1, plan.seeds + 1) if seed != case.seed]
        paths = [model_of(replace(case, seed=seed), frames, work) for seed in seeds]
        measures["committee"] = committee([mace.load(path, device="cpu") for path in paths])
    return measures
