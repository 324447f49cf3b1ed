"""Long runs with the final model of a campaign, for its certificate. A killed run goes on.

Every explored structure runs at every temperature, with a thermostat and without; each replica
starts from a frame that the model learned from, and has a thermostat for a while before it runs
without one (`exploration.equilibration_ps`). Failed replicas are not replaced, no bias drives
the replicas, and no frames are selected.

Not for: what the runs show (`evidence`), what follows from it (`certificate`), or writing the
certificate (`issuing`).
"""

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from halcyon import __version__, tables
from halcyon.config import (
    CertificateSettings,
    ExplorationSettings,
    NoBias,
    SaturationSettings,
)
from halcyon.errors import InputError
from halcyon.exploration.explore import Monitoring, RunControl, explore
from halcyon.exploration.starts import deal_to_each
from halcyon.exploration.traces import write_traces
from halcyon.final.certificate import Level, Runs, Software, hash_of
from halcyon.final.evidence import Criteria, ReplicaEnd, examine
from halcyon.labels.store import levels
from halcyon.models.batched import BatchedMace

PACKAGES = ("torch", "mace-torch", "torch-sim-atomistic", "ase", "numpy")

CANDIDATES_EVERY_FS = 1000.0
"""Interval of candidates, fs. They are not used here, and fewer cost less."""


def run_settings(
    exploration: ExplorationSettings, certificate: CertificateSettings, ensemble: str
) -> ExplorationSettings:
    """Settings of the runs of one ensemble.

    The time is rounded up to whole points of the traces, so that a replica that did not fail has
    its last point at its end.
    """
    timestep = certificate.timestep_fs or exploration.timestep_fs
    time_ps = certificate.time_ps if ensemble == "nvt" else certificate.nve_time_ps
    every = max(1, round(1000 / (certificate.trace_points_per_ps * timestep)))
    points = max(1, int(np.ceil(round(1000 * time_ps / (every * timestep), 6))))
    return exploration.model_copy(
        update={
            "temperatures_K": certificate.temperatures_K or exploration.temperatures_K,
            "ensemble": ensemble,
            "time_ps": points * every * timestep / 1000,
            "timestep_fs": timestep,
            "replacements": 0,
            "replicas": certificate.replicas,
            "trace_points_per_ps": certificate.trace_points_per_ps,
            "candidate_interval_fs": CANDIDATES_EVERY_FS,
            "candidates_per_replica": 1,
            "trajectory_every_fs": None,
            "bias": NoBias(kind="none"),
        }
    )


def criteria_of(
    system_kind: str,
    exploration: ExplorationSettings,
    saturation: SaturationSettings,
    certificate: CertificateSettings,
) -> Criteria:
    """Criteria that the model is tested against.

    Args:
        system_kind: `molecule`, `liquid`, `reactive`, `solid` or `slab`.
        exploration: limits that count as failures.
        saturation: greatest rate of events, and how it is measured.
        certificate: greatest drift of the total energy.
    """
    return Criteria(
        kind=system_kind,
        **saturation.model_dump(include=set(Criteria.model_fields)),
        **exploration.model_dump(
            include={
                "bond_stretch_A",
                "min_distance_A",
                "site_distance_A",
                "energy_drift_eV_per_atom",
            }
        ),
        max_drift_meV_per_atom_ps=certificate.max_drift_meV_per_atom_ps,
    )


def put_to_test(
    model: BatchedMace,
    train: Sequence[Atoms],
    structures: Sequence[str],
    *,
    settings: ExplorationSettings,
    monitoring: Monitoring,
    criteria: Criteria,
    control: RunControl,
    seed: int,
    traces: Path,
    relative_to: Path,
) -> Runs:
    """Run all replicas of one ensemble to their end, write their traces, and count.

    Args:
        model: the model under test.
        train: labelled frames that the model learned from.
        structures: names of the explored structures.
        settings: from `run_settings`.
        monitoring: domain of the model, signals, and kind of system.
        criteria: from `criteria_of`.
        control: folder of checkpoints; how the runs are stopped and followed.
        seed: seed of all random numbers.
        traces: file that the traces are written to.
        relative_to: folder of the certificate, to which the file's name is relative.

    Raises:
        InputError: a structure has no labelled training frame.
        Interrupted: the runs were stopped and saved; the same call continues them.
    """
    replicas, keys = deal_to_each(train, structures, settings, seed=seed)
    result = explore(model, replicas, settings, monitoring, control, seed=seed)
    write_traces(traces, result.traces)
    ends = [
        ReplicaEnd(
            start_key=keys[end.replica],
            **end.model_dump(include=set(ReplicaEnd.model_fields)),
        )
        for end in result.replicas
    ]
    conserved = settings.ensemble == "nve"
    return Runs(
        ensemble="nve" if conserved else "nvt",
        traces=hash_of(traces, relative_to),
        temperatures_K=settings.temperatures_K,
        time_ps=settings.time_ps,
        equilibration_ps=settings.thermostatted_ps,
        timestep_fs=settings.timestep_fs,
        friction_per_ps=None if conserved else settings.friction_per_ps,
        seed=seed,
        replicas=ends,
        # From the file, not from memory: `checks.verify` will read the same numbers.
        findings=examine(
            tables.read(traces).to_pandas(),
            ends,
            criteria,
            time_ps=settings.time_ps,
            conserved=conserved,
        ),
    )


def software(model: BatchedMace, threads: int) -> Software:
    """Versions of packages and the machine that this process runs with."""
    device = str(model.device)
    if model.device.type == "cuda":
        device = torch.cuda.get_device_name(model.device)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return Software(
        versions={"halcyon": __version__, "python": platform.python_version()} | versions,
        machine=f"{platform.system()} {platform.release()}, {platform.machine()}",
        device=device,
        threads=threads,
        dtype=str(model.dtype).removeprefix("torch."),
    )


def level_of(frames: Sequence[Atoms], store: Path) -> Level:
    """The level of theory of labels, as the label store describes it.

    Raises:
        InputError: the labels are of several levels, or of one that the store does not have.
    """
    names = sorted({str(frame.info.get("level")) for frame in frames})
    stored = levels(store)
    if len(names) != 1 or names[0] not in stored:
        raise InputError(
            f"{store}: the campaign's labels have the levels of theory {', '.join(names)}; "
            f"expected one level, and one of this store, which has {', '.join(stored) or 'none'}"
        )
    return Level(hash=names[0], description=stored[names[0]])
