"""What the cells of `atomic_pretraining` say: each way, and against the force field alone.

Not for: computing cells (see `atomic_pretraining`).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import stats

from halcyon.verdict.survival import restricted_mean_ps

AGAINST = "forcefield"
"""The way that others are compared with, seed by seed."""
REACHED = 1.1
"""Steps are counted until the validation error is so many times the least of `AGAINST`."""


def summarised(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with intervals, and paired differences from `AGAINST`, by system and way."""
    systems: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell in cells:
        systems.setdefault(cell["system"], {}).setdefault(cell["group"], []).append(cell)
    return {name: _system(ways) for name, ways in systems.items()}


def _system(ways: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    base = {cell["seed"]: cell for cell in ways.get(AGAINST, [])}
    least = [min(cell["curve"]["forces_mae_meV_per_A"]) for cell in base.values()]
    goal = REACHED * float(np.mean(least)) if least else None
    return {
        "goal_meV_per_A": goal,
        "ways": {way: _way(found, base, goal) for way, found in ways.items()},
    }


def _way(
    found: Sequence[dict[str, Any]], base: dict[int, dict[str, Any]], goal: float | None
) -> dict[str, Any]:
    rows = [row for cell in found for row in cell["replicas"]]
    ends, failed = [r["end_ps"] for r in rows], [r["failure"] is not None for r in rows]
    mean = restricted_mean_ps(ends, failed, horizon_ps=max(ends), seed=1)
    pairs = [
        (_numbers(cell), _numbers(base[cell["seed"]])) for cell in found if cell["seed"] in base
    ]
    names = _numbers(found[0])
    return {
        "seeds": len(found),
        "numbers": {name: interval([_numbers(c)[name] for c in found]) for name in names},
        "differences": {
            name: interval([first[name] - second[name] for first, second in pairs])
            for name in names
        }
        if pairs and found[0]["group"] != AGAINST
        else {},
        "failed": [sum(failed), len(failed)],
        "failed_by_seed": [
            sum(row["failure"] is not None for row in cell["replicas"]) for cell in found
        ],
        "mean_time_ps": [mean.value, mean.low, mean.high],
        "steps_to_goal": [_steps(cell["curve"], goal) for cell in found],
        "cpu_s": {
            part: float(np.median([cell["cpu_s"][part] for cell in found]))
            for part in found[0]["cpu_s"]
        },
        "learned": found[-1]["pretraining"],
    }


def _numbers(cell: dict[str, Any]) -> dict[str, float]:
    """What is compared: errors, and the drift of features on frames that all models see alike."""
    numbers = {
        f"forces_{kelvin}K": errors["forces_mae_meV_per_A"]
        for kelvin, errors in cell["errors"].items()
    }
    for kelvin, classes in cell["drift_test"].items():
        for key in ("shift", "kurtosis_new"):
            values = [part[key] for part in classes.values() if part[key] is not None]
            numbers[f"{key}_{kelvin}K"] = float(np.mean(values))
    return numbers


def interval(values: Sequence[float]) -> list[float | None]:
    """Mean and 95 % interval of seeds, by Student's t; no interval of one."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return [mean, None, None]
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return [mean, mean - half, mean + half]


def _steps(curve: dict[str, Any], goal: float | None) -> int | None:
    """Steps of fine-tuning until the validation error is at the goal; None: it never is."""
    reached = [mae <= goal for mae in curve["forces_mae_meV_per_A"]] if goal is not None else []
    return (1 + reached.index(True)) * curve["steps_per_epoch"] if any(reached) else None


def lines(summary: dict[str, Any]) -> Iterator[str]:
    """A Markdown table for each system."""
    for system, found in summary.items():
        yield f"\n{system}: means of seeds (95 % interval); difference from `{AGAINST}` paired"
        yield (
            "| way | seeds | F 500 K, meV/Å | difference | F 1000 K | difference | shift 1000 K | "
            "difference | kurtosis 1000 K | failed | mean time, ps | steps to "
            f"{found['goal_meV_per_A'] or 0:.0f} meV/Å | CPU s: tblite, pre-, fine-tuning |"
        )
        yield "|---" * 13 + "|"
        for way, row in found["ways"].items():
            numbers, differences = row["numbers"], row["differences"]
            texts = [way, str(row["seeds"])]
            for name, digits in (("forces_500K", 1), ("forces_1000K", 1), ("shift_1000K", 2)):
                texts += [_text(numbers[name], digits), _text(differences.get(name), digits)]
            texts += [_text(numbers["kurtosis_new_1000K"], 2)]
            texts += ["{} of {}".format(*row["failed"]), _text(row["mean_time_ps"], 2)]
            texts += [", ".join("–" if n is None else str(n) for n in row["steps_to_goal"])]
            texts += [", ".join(f"{seconds:.1f}" for seconds in row["cpu_s"].values())]
            yield "| " + " | ".join(texts) + " |"


def _text(values: Sequence[float | None] | None, digits: int) -> str:
    if values is None:
        return ""
    value, low, high = values
    if low is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
