"""The exam of `label_efficiency`: is a model stable where it is hot, and right everywhere?

    subject = subject_of(cell, campaign, effort, work)
    tried = try_model(model, subject, effort, work / "trial", seed=1)
    tried["passed"]

Passed: 16 replicas of 20 ps at the highest temperature without a failure, and the error of force
components on frames of the reference's own dynamics within the goal. A model that fails within
5 ps, or is wrong, is not run for longer.

Not for: where models come from (see `arms`).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from scipy import stats

from efficiency.arms import Cell, Effort, Model
from efficiency.scans import Scan, judged, opinion_of, scans_of
from forgetting import dynamics
from fresh_start import error_of
from halcyon.campaign.campaign import Campaign
from halcyon.domain.intervals import Domain
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.explore import Exploration, Monitoring, RunControl, explore
from halcyon.frames import read_frames, structure_only, write_frames
from halcyon.models import mace
from halcyon.models.batched import BatchedMace

METHOD = "GFN2-xTB"
EVERY = 5
"""Of the reference's frames, which are 20 fs apart, every so many is kept."""
SCANNED = 3
"""Frames that scans begin from."""
ENERGY_INTERVAL_FS = 20.0
LOWER_EV = 0.1
THRESHOLD_EV = 10 * LOWER_EV


@dataclass(frozen=True)
class Subject:
    """What all models of a system are tried on.

    Attributes:
        campaign: of an arm; its reference and settings.
        system: its name.
        truth: by temperature (K) frames of the reference's own dynamics with its forces.
        scans: static scans.
        opinion: of the second Hamiltonian along them, eV.
    """

    campaign: Campaign
    system: str
    truth: dict[float, list[Atoms]]
    scans: list[Scan]
    opinion: list[np.ndarray]


def subject_of(cell: Cell, campaign: Campaign, effort: Effort, shared: Path) -> Subject:
    """Run the reference's own dynamics and the second Hamiltonian, or read what was run before.

    Args:
        cell: an arm.
        campaign: its campaign.
        effort: temperatures, and number of frames at each.
        shared: folder of what all arms and seeds share.
    """
    plan = campaign.systems[cell.system]
    name = plan.explored[0]
    start = plan.start(name)
    truth = {}
    for kelvin in effort.temperatures_K:
        path = shared / f"{cell.system}-{kelvin:.0f}K-{effort.frames}.parquet"
        if not path.exists():
            frames = dynamics(start, METHOD, kelvin, frames=EVERY * effort.frames, seed=int(kelvin))
            write_frames(path, _labelled(frames[EVERY - 1 :: EVERY], start, campaign, shared))
        truth[kelvin] = read_frames(path)
    domain = Domain.read(campaign.folder / cell.system / "gen000" / "domain.json")
    pairs = [(i, j) for i, j, _ in domain.bonds[name]]
    begin = truth[min(truth)][:SCANNED]
    scans = scans_of(begin, pairs, domain.classes[name])
    kept = shared / f"{cell.system}-opinion-{effort.frames}.npy"
    if not kept.exists():
        np.save(kept, np.concatenate(opinion_of(scans)))
    ends = np.cumsum([len(scan.frames) for scan in scans])[:-1]
    return Subject(campaign, cell.system, truth, scans, np.split(np.load(kept), ends))


def _labelled(frames: Sequence[Atoms], start: Atoms, campaign: Campaign, work: Path) -> list[Atoms]:
    """Frames with what the campaign's reference says of them; those where it fails are left out."""
    named = []
    for frame in frames:
        copy = structure_only(start)
        copy.positions = frame.positions
        named.append(copy)
    kept = []
    records = campaign.reference().label(named, work, 1)
    for frame, record in zip(named, records, strict=True):
        if record.forces is not None:
            frame.info["energy"] = record.energy
            frame.arrays["forces"] = record.forces
            kept.append(frame)
    return kept


def try_model(
    model: Model, subject: Subject, effort: Effort, work: Path, *, seed: int
) -> dict[str, Any]:
    """Errors, static scans and dynamics of a model."""
    plan = subject.campaign.systems[subject.system]
    loaded = mace.load(model.path, device="cpu", dtype=plan.settings.model.dtype)
    errors = {f"{kelvin:g}": error_of(loaded, frames) for kelvin, frames in subject.truth.items()}
    mean = float(np.mean(list(errors.values())))
    tried: dict[str, Any] = {
        "labels": model.labels,
        "decision": model.decision,
        "forces_mae_meV_per_A": errors | {"all": mean},
        "scans": judged(subject.scans, subject.opinion, loaded),
    }
    short = _run(loaded, model, subject, effort, work / "short", seed=seed)
    tried["short"] = _ends(short)
    tried["passed"] = False
    right = mean <= effort.goal_meV_per_A
    if right and not tried["short"]["failed"]:
        long = _run(loaded, model, subject, effort, work / "long", seed=seed + 1)
        tried["long"] = _ends(long) | accumulated(long, loaded, subject, work)
        tried["passed"] = not tried["long"]["failed"]
    return tried


def _run(
    loaded: torch.nn.Module,
    model: Model,
    subject: Subject,
    effort: Effort,
    work: Path,
    *,
    seed: int,
) -> Exploration:
    """New replicas at the highest temperature, from frames of the reference's dynamics there.

    Whether they run for a short or for a long time is the name of the folder `work`.
    """
    is_long = work.name == "long"
    plan = subject.campaign.systems[subject.system]
    kelvin = max(effort.temperatures_K)
    random = np.random.default_rng(seed)
    frames = subject.truth[kelvin]
    replicas = [
        Replica(n, kelvin, structure_only(frames[int(random.integers(len(frames)))]))
        for n in range(effort.trial_replicas)
    ]
    settings = plan.settings.exploration.model_copy(
        update={
            "temperatures_K": [kelvin],
            "replicas": len(replicas),
            "replacements": 0,
            "time_ps": effort.long_ps if is_long else effort.short_ps,
            "trajectory_every_fs": ENERGY_INTERVAL_FS if is_long else None,
        }
    )
    return explore(
        BatchedMace(loaded),
        replicas,
        settings,
        Monitoring(
            domain=Domain.read(model.domain),
            settings=plan.settings.domain,
            system_kind=plan.system.kind,
        ),
        RunControl(work=work, identity=f"{model.path} {model.labels}"),
        seed=seed,
    )


def _ends(run: Exploration) -> dict[str, Any]:
    """How many replicas failed, and when."""
    failed = [end.time_ps for end in run.replicas if end.failure is not None]
    last = run.traces.groupby("replica").last()["cli_error"]
    return {
        "replicas": len(run.replicas),
        "failed": len(failed),
        "failed_at_ps": sorted(round(time, 4) for time in failed),
        "cli_ps": float(last.mean()),
    }


def accumulated(
    run: Exploration, model: torch.nn.Module, subject: Subject, work: Path
) -> dict[str, Any]:
    """How long the model stays right, and whether Λ follows the error that accumulates.

    τ_acc is the time until the errors of the energy above 0.1 eV, looked at every 20 fs, add up to
    1 eV (T. A. Young, T. Johnston-Wood, V. L. Deringer, F. Duarte, Chem. Sci. 12, 10944, 2021).
    Energies are compared relative to the mean of all frames, since a model's zero means nothing.

    Returns:
        `tau_acc_ps`, median over replicas, None where most of them never get there;
        `tau_reached`, of how many replicas; `rho` with its p value: Spearman's correlation over
        replicas of Λ and of the accumulated error at the end.
    """
    frames = [frame for part in run.trajectory for frame in read_frames(part)]
    predicted = np.array(mace.evaluate(model, frames).energy, dtype=float)
    plan = subject.campaign.systems[subject.system]
    start = plan.start(plan.explored[0])
    named = []
    for frame in frames:
        copy = structure_only(start)
        copy.positions = frame.positions
        named.append(copy)
    records = subject.campaign.reference().label(named, work, 1)
    true = np.array([np.nan if r.energy is None else r.energy for r in records], dtype=float)
    errors = predicted - true
    errors -= np.nanmean(errors)
    by_replica: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for frame, error in zip(frames, errors, strict=True):
        by_replica[frame.info["replica"]].append((frame.info["time"], error))
    times = [tau_ps(sorted(rows)) for rows in by_replica.values()]
    sums = {n: np.nansum([abs(e) for _, e in rows]) for n, rows in by_replica.items()}
    cli = run.traces.groupby("replica").last()["cli_error"]
    shared = [n for n in sums if n in cli.index]
    rho = stats.spearmanr([cli[n] for n in shared], [sums[n] for n in shared])
    return {
        "energy_frames": len(frames),
        "tau_acc_ps": _median(times),
        "tau_reached": [sum(time is not None for time in times), len(times)],
        "rho": None if np.isnan(rho.statistic) else float(rho.statistic),
        "rho_p": None if np.isnan(rho.pvalue) else float(rho.pvalue),
    }


def tau_ps(rows: Sequence[tuple[float, float]]) -> float | None:
    """Time until the errors above 0.1 eV add up to 1 eV; None: they do not.

    Args:
        rows: time in ps and error in eV of the frames of a replica, in order.
    """
    total = 0.0
    for time, error in rows:
        total += max(0.0, abs(error) - LOWER_EV) if np.isfinite(error) else 0.0
        if total > THRESHOLD_EV:
            return float(time)
    return None


def _median(times: Sequence[float | None]) -> float | None:
    median = float(np.median([np.inf if time is None else time for time in times]))
    return median if np.isfinite(median) else None
