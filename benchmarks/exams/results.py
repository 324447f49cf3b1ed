"""What the cells of an exam say together: a table, curves, failures and costs, with intervals.

    from exams.results import summarised

    summarised(exam, cells, of=len(grid(exam)))["table"]

All intervals are 95 %, from resampling replicas, which are independent; what a single replica did
has none. A difference resamples the replicas of both sides.

Not for: how it is shown (see `tables`, `page`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from exams import observables as measure
from exams.computing import ANGLES_DEG, FREQUENCIES_PER_CM, RADIAL_BINS
from exams.definitions import Barrier, Exam
from exams.observables import Interval, bootstrap, difference
from halcyon.verdict.survival import Ending, failure_rate

REFERENCE = "reference"
DIFFUSION_FIT_PS = (1.0, 3.0)
CURVE_RESAMPLES = 500

Statistic = Callable[[np.ndarray], float]
Rows = dict[int, list[dict[str, Any]]]
"""What was kept of each replica, by its number, segment after segment."""


def arm_of(cell: Mapping[str, Any]) -> str:
    """Whose dynamics a cell is of: reference, model, or model with its variant."""
    who = str(cell["run"]["who"])
    return f"{who} ({cell['variant']})" if cell["variant"] else who


def summarised(exam: Exam, known: Sequence[dict[str, Any]], of: int) -> dict[str, Any]:
    """All results of an exam.

    Args:
        exam: which.
        known: its cells, in the order of `computing.grid`.
        of: how many there are when all are done.
    """
    dynamics = [cell for cell in known if cell["kind"] == "dynamics"]
    rows: dict[tuple[str, str, str], Rows] = defaultdict(lambda: defaultdict(list))
    for cell in dynamics:
        place = cell["run"]["structure"], cell["run"]["ensemble"], arm_of(cell)
        for row in cell["replicas"]:
            rows[place][row["replica"]].append(row)
    table: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    for where in dict.fromkeys(key[:2] for key in rows):
        arms = {key[2]: of_arm for key, of_arm in rows.items() if key[:2] == where}
        _compare(exam, where, arms, table, curves)
    _add_errors(known, table)
    return {
        "exam": exam.name,
        "asks": exam.asks,
        "cells": {"done": len(known), "all": of},
        "campaigns": [_plain(cell) for cell in known if cell["kind"] == "campaign"],
        "dynamics": [_run(key, of_arm, dynamics) for key, of_arm in rows.items()],
        "table": table,
        "curves": curves,
        "seed": measure.SEED,
    }


def _plain(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in cell.items() if key not in ("run", "batch", "number")}


def _run(
    key: tuple[str, str, str], rows: Rows, dynamics: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Replicas, time, failures with their bound, unphysical products, and costs of a run."""
    structure, ensemble, arm = key
    ends = [
        Ending(
            time_ps=sum(row["ps"] for row in of_replica),
            cli_ps=0.0,
            failed=of_replica[-1]["failure"] is not None,
        )
        for of_replica in rows.values()
    ]
    rate = failure_rate(ends, confidence=0.95)
    of_run = [
        cell
        for cell in dynamics
        if (cell["run"]["structure"], cell["run"]["ensemble"], arm_of(cell)) == key
    ]
    unphysical: Counter[str] = Counter()
    for row in (row for of_replica in rows.values() for row in of_replica):
        unphysical.update(row.get("unphysical", {}))
    return {
        "arm": arm,
        "structure": structure,
        "ensemble": ensemble,
        "replicas": len(rows),
        "asked_replicas": of_run[0]["run"]["replicas"],
        "ps": sum(end.time_ps for end in ends),
        "asked_ps": of_run[0]["run"]["replicas"]
        * of_run[0]["run"]["segments"]
        * of_run[0]["run"]["segment_ps"],
        "seed": of_run[0]["run"]["seed"],
        "timestep_fs": of_run[0]["run"]["timestep_fs"],
        "failures": [
            {"replica": number, "ps": end.time_ps, "reason": of_replica[-1]["failure"]}
            for (number, of_replica), end in zip(rows.items(), ends, strict=True)
            if end.failed
        ],
        "failures_per_ns_bound": _finite(1000 * rate.bound_per_ps) if rate.bound_per_ps else None,
        "unphysical": dict(unphysical),
        "core_hours": sum(cell["core_s"] for cell in of_run) / 3600,
        "evaluations": sum(cell.get("evaluations", 0) for cell in of_run) or None,
    }


# Comparisons


def _compare(
    exam: Exam,
    place: tuple[str, str],
    arms: Mapping[str, Rows],
    table: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """Add what is measured of one structure in one ensemble, which are its place."""
    structure, ensemble = place
    where = f"{structure}, {ensemble}"

    def add(
        quantity: str, unit: str, values: Mapping[str, np.ndarray], statistic: Statistic
    ) -> None:
        table.append(_row(f"{quantity} ({where})", unit, values, statistic))

    def mean(key: str) -> dict[str, np.ndarray]:
        return _of_replicas(arms, lambda rows: float(np.mean([row[key] for row in rows])), key)

    add("temperature", "K", mean("temperature_K"), np.mean)
    if ensemble == "nve":
        drifts = mean("drift_meV_per_atom_ps")
        add(
            "drift of the energy, median of sizes",
            "meV/(atom ps)",
            {arm: np.abs(values) for arm, values in drifts.items()},
            np.median,
        )
    if exam.vibrations and ensemble == "nve":
        _distribution(
            f"vibrations ({where})",
            ("frequency, 1/cm", "share of power"),
            FREQUENCIES_PER_CM,
            _of_replicas(arms, lambda rows: _summed(rows, "vibrations"), "vibrations"),
            table=table,
            curves=curves,
        )
    for name in exam.torsions:
        _distribution(
            f"torsion {name}",
            ("angle, degrees", "share of frames"),
            ANGLES_DEG,
            _of_replicas(arms, lambda rows, name=name: _summed(rows, "torsions", name), "torsions"),
            table=table,
            curves=curves,
        )
    if exam.radial and ensemble != "npt":
        _radial(exam, where, arms, table, curves)
    if exam.track_every_ps and ensemble == "nve":
        _diffusion(exam, where, arms, table, curves)
    if ensemble == "npt":
        add("density", "g/cm³", mean("density_g_per_cm3"), np.mean)
        pressures = _of_replicas(
            arms,
            lambda rows: float(np.nanmean([row["reference_pressure_GPa"] for row in rows])),
            "reference_pressure_GPa",
        )
        add("reference's pressure at the model's density", "GPa", pressures, np.mean)
    if exam.barrier and exam.barrier.structure == structure:
        _free_energy(exam.barrier, arms, table, curves)


def _of_replicas(
    arms: Mapping[str, Rows], reduce: Callable[[list[dict[str, Any]]], Any], key: str
) -> dict[str, np.ndarray]:
    """A number or array of each replica that has it, by arm; arms without any are left out.

    Args:
        arms: what was kept.
        reduce: of a replica's segments; None: they are too few.
        key: which segments must have.
    """
    values = {}
    for arm, rows in arms.items():
        having = [[row for row in of_replica if key in row] for of_replica in rows.values()]
        having = [of_replica for of_replica in having if of_replica]
        reduced = [reduce(of_replica) for of_replica in having]
        if reduced := [each for each in reduced if each is not None]:
            values[arm] = np.array(reduced)
    return values


def _summed(rows: Sequence[Mapping[str, Any]], key: str, name: str | None = None) -> np.ndarray:
    """Mean over segments of a distribution of a replica, its sum 1."""
    each = np.array([row[key] if name is None else row[key][name] for row in rows], dtype=float)
    return each.sum(axis=0) / max(each.sum(), 1e-300)


def _row(
    quantity: str, unit: str, values: Mapping[str, np.ndarray], statistic: Statistic
) -> dict[str, Any]:
    """A line of the table: a statistic of each arm, and of the models minus the reference's."""
    reference = values.get(REFERENCE)
    return {
        "quantity": quantity,
        "unit": unit,
        "arms": {arm: _json(bootstrap(parts, statistic)) for arm, parts in values.items()},
        "minus_reference": {
            arm: _json(difference(parts, reference, statistic))
            for arm, parts in values.items()
            if arm != REFERENCE and reference is not None
        },
    }


def _curve(
    title: str, axes: tuple[str, str], x: np.ndarray, values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Mean of each arm's replicas, with its interval at each point."""
    arms = {}
    random = np.random.default_rng(measure.SEED)
    for arm, parts in values.items():
        mean = parts.mean(axis=0)
        arms[arm] = {"y": _list(mean), "low": None, "high": None, "replicas": len(parts)}
        if len(parts) > 1:
            draws = random.integers(len(parts), size=(CURVE_RESAMPLES, len(parts)))
            low, high = np.quantile([parts[d].mean(axis=0) for d in draws], (0.025, 0.975), axis=0)
            arms[arm] |= {"low": _list(low), "high": _list(high)}
    return {"title": title, "x_title": axes[0], "y_title": axes[1], "x": _list(x), "arms": arms}


def _distribution(
    title: str,
    axes: tuple[str, str],
    edges: np.ndarray,
    values: Mapping[str, np.ndarray],
    *,
    table: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """A curve, and what each arm's distribution shares with the reference's.

    Two halves of the reference's own replicas say what can be expected of so few.
    """
    if not values:
        return
    curves.append(_curve(title, axes, (edges[1:] + edges[:-1]) / 2, values))
    reference = values.get(REFERENCE)
    if reference is None:
        return
    whole = reference.mean(axis=0)

    def shared(parts: np.ndarray) -> float:
        return measure.overlap(parts.mean(axis=0), whole)

    arms = {a: _json(bootstrap(p, shared)) for a, p in values.items() if a != REFERENCE}
    if len(reference) > 1:
        halves = reference[::2].mean(axis=0), reference[1::2].mean(axis=0)
        own = Interval(measure.overlap(*halves), math.nan, math.nan, 1)
        arms["reference, one half with the other"] = _json(own)
    table.append({"quantity": f"overlap: {title}", "unit": "", "arms": arms, "minus_reference": {}})


def _radial(
    exam: Exam,
    where: str,
    arms: Mapping[str, Rows],
    table: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """Radial distribution functions, and the area between a model's and the reference's."""
    edges = np.linspace(0, exam.radial_A, RADIAL_BINS + 1)
    for name in exam.radial:
        values = _of_replicas(
            arms,
            lambda rows, name=name: np.mean([row["radial"][name] for row in rows], axis=0),
            "radial",
        )
        if not values:
            continue
        centres = (edges[1:] + edges[:-1]) / 2
        title = f"radial distribution {name} ({where})"
        curves.append(_curve(title, ("distance, Å", "g"), centres, values))
        reference = values.get(REFERENCE)
        if reference is None:
            continue
        whole = reference.mean(axis=0)

        def apart(parts: np.ndarray, whole: np.ndarray = whole) -> float:
            return float(np.abs(parts.mean(axis=0) - whole).sum() * (edges[1] - edges[0]))

        far = {a: _json(bootstrap(p, apart)) for a, p in values.items() if a != REFERENCE}
        if len(reference) > 1:
            own = Interval(apart(reference[::2], reference[1::2].mean(axis=0)), *2 * (math.nan,), 1)
            far["reference, one half from the other"] = _json(own)
        title = f"area between g and the reference's, {name} ({where})"
        table.append({"quantity": title, "unit": "Å", "arms": far, "minus_reference": {}})


def _diffusion(
    exam: Exam,
    where: str,
    arms: Mapping[str, Rows],
    table: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """Mean square displacement of oxygen, over all segments of a replica, and diffusion."""
    every = exam.track_every_ps

    def squares(rows: list[dict[str, Any]]) -> np.ndarray | None:
        tracks = np.concatenate([row["oxygen_A"] for row in rows])
        cell = rows[0]["cell_A"]
        found = measure.mean_square_displacement(measure.unwrapped(tracks, np.array(cell)))
        lags = round(DIFFUSION_FIT_PS[1] / every) + 1
        return found[:lags] if len(found) >= lags else None

    values = _of_replicas(arms, squares, "oxygen_A")
    if not values:
        return

    def coefficient(parts: np.ndarray) -> float:
        return measure.diffusion(parts.mean(axis=0), every_ps=every, fit_ps=DIFFUSION_FIT_PS)

    title = f"diffusion, not corrected for the size of the box ({where})"
    table.append(_row(title, "1e-9 m²/s", values, coefficient))
    lags_ps = every * np.arange(round(DIFFUSION_FIT_PS[1] / every) + 1)
    axes = "time, ps", "mean square displacement, Å²"
    curves.append(_curve(f"displacement of oxygen ({where})", axes, lags_ps, values))


def _free_energy(
    barrier: Barrier,
    arms: Mapping[str, Rows],
    table: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> None:
    """Free energies from the biases of the later half of the segments of each replica.

    A replica that failed has too few hills: it is left out, and counts as a failure elsewhere.
    """
    arms = {
        arm: {
            number: of_replica
            for number, of_replica in rows.items()
            if all(row["failure"] is None for row in of_replica)
        }
        for arm, rows in arms.items()
    }
    grid = np.linspace(*barrier.grid)
    factors = {
        row["bias_factor"]
        for rows in arms.values()
        for of_replica in rows.values()
        for row in of_replica
        if "bias_factor" in row
    }
    if not factors:
        return
    (factor,) = factors

    def late(rows: list[dict[str, Any]]) -> np.ndarray:
        bias = np.mean([row["bias_eV"] for row in rows[len(rows) // 2 :]], axis=0)
        # Biases of replicas differ by a constant that is nothing: each is 0 where it is least
        # deep in the first basin.
        basin = (grid >= barrier.first[0]) & (grid <= barrier.first[1])
        return np.asarray(bias - bias[basin].max())

    values = _of_replicas(arms, late, "bias_eV")

    def height(parts: np.ndarray) -> float:
        surface = measure.free_energy(parts.mean(axis=0), factor)
        return measure.barrier(grid, surface, barrier.first, barrier.second)

    def reaction(parts: np.ndarray) -> float:
        surface = measure.free_energy(parts.mean(axis=0), factor)
        first, second = (
            surface[(grid >= ends[0]) & (grid <= ends[1])].min()
            for ends in (barrier.first, barrier.second)
        )
        return float(second - first)

    table.append(_row(f"barrier along {barrier.variable}", "eV", values, height))
    table.append(_row(f"reaction free energy along {barrier.variable}", "eV", values, reaction))
    axes = f"{barrier.variable}{', ' * bool(barrier.unit)}{barrier.unit}", "free energy, eV"
    surfaces = {arm: -factor / (factor - 1) * parts for arm, parts in values.items()}
    curves.append(_curve("free energy", axes, grid, surfaces))


def _add_errors(known: Sequence[Mapping[str, Any]], table: list[dict[str, Any]]) -> None:
    """Force errors of the models on the reference's frames, by structure."""
    keys = {
        "forces_mae_meV_per_A": "force error on the reference's frames, MAE",
        "atom_error_p95_meV_per_A": "error of an atom's force, 95th percentile",
    }
    cells = [cell for cell in known if cell["kind"] == "errors"]
    for structure in dict.fromkeys(cell["run"]["structure"] for cell in cells):
        for key, words in keys.items():
            of_arm: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
            for cell in cells:
                if cell["run"]["structure"] == structure:
                    arm = f"model ({cell['variant']})" if cell["variant"] else "model"
                    for row in cell["replicas"]:
                        of_arm[arm][row["replica"]].append(row[key])
            values = {
                arm: np.array([np.mean(each) for each in replicas.values()])
                for arm, replicas in of_arm.items()
                if replicas
            }
            table.append(_row(f"{words} ({structure})", "meV/Å", values, np.mean))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _json(interval: Interval) -> dict[str, Any]:
    """An interval with null for what is not known."""
    return {k: _finite(v) if isinstance(v, float) else v for k, v in asdict(interval).items()}


def _list(values: np.ndarray) -> list[float]:
    return [float(f"{value:.5g}") for value in values]
