"""The folder `final/`: a model with all that somebody else needs to use it, and to trust it or not.

    model.model            the MACE model; model-lammps.pt: the same for LAMMPS
    domain.json            what it knows
    structures/*.xyz       start structures, in the domain's order of atoms
    labels.parquet         what it learned from; with certificate.json and its traces
    card.json, README.md   the model card
    manifest.json          every file with its sha256

Not for: the LAMMPS export (`lammps_export`), or the card's words (`model_card`).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.io import write

from halcyon import files
from halcyon.final.certificate import hash_of
from halcyon.final.monitor.watch import Thresholds
from halcyon.frames import write_frames

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LABELS = "labels.parquet"
ROOM = 2.0
"""Runs 5 to 10 times as long reached 1.0 to 2.6 times the greatest λ, 13 of 15 less than twice."""


def clear(folder: Path) -> None:
    """Delete what an earlier manifest lists; what a person put there stays."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    for entry in files.read_json(manifest)["files"]:
        path = (folder / entry["path"]).resolve()
        if path.is_relative_to(folder.resolve()):
            path.unlink(missing_ok=True)
    manifest.unlink()


def copy(paths: Sequence[Path], folder: Path) -> None:
    """Copy files under their own names, atomically."""
    for path in paths:
        with files.replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def write_structures(structures: Mapping[str, Atoms], folder: Path) -> list[dict[str, Any]]:
    """Write start structures as extended XYZ.

    Returns:
        What the card says of each.
    """
    told = []
    for name, atoms in structures.items():
        path = folder / "structures" / f"{name}.xyz"
        with files.replacing(path) as temporary:
            write(temporary, atoms, format="extxyz")
        told.append(
            {
                "name": name,
                "file": path.relative_to(folder).as_posix(),
                "formula": atoms.get_chemical_formula(),
                "atoms": len(atoms),
                "charge": atoms.info["charge"],
                "multiplicity": atoms.info["multiplicity"],
                "periodic": bool(atoms.pbc.all()),
            }
        )
    return told


def write_labels(frames: Sequence[Atoms], folder: Path) -> None:
    """Write all labels of the campaign up to this model as one file."""
    write_frames(folder / LABELS, frames)


def write_manifest(folder: Path) -> dict[str, Any]:
    """List every file of the folder with its hash; written last."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    )
    content = {
        "schema": SCHEMA_VERSION,
        "files": [hash_of(path, folder).model_dump() for path in paths],
    }
    files.write_json(folder / MANIFEST, content)
    return content


def recommended(traces: pd.DataFrame, failed: Sequence[int], limits: Thresholds) -> Thresholds:
    """Thresholds for production: those replicas that lived would not have come near them.

    λ over the window may be `ROOM` times what it was at most in any replica that did not fail, and
    at least the threshold that is given: longer runs reach more (docs/production.md).

    Args:
        traces: of the last exploration, or of the certificate.
        failed: numbers of the replicas that failed.
        limits: thresholds that are the least.
    """
    greatest = 0.0
    for replica, mine in traces.groupby("replica"):
        if replica in failed:
            continue
        time, cli = mine["time"].to_numpy(), mine["cli_label"].to_numpy()
        begin = np.searchsorted(time, time - limits.window_ps + 1e-9, side="right")
        then = np.concatenate([[0.0], cli])[begin]
        greatest = max(greatest, float((cli - then).max()) / limits.window_ps)
    rate = min(1.0, max(limits.rate, ROOM * greatest))
    return Thresholds(**(vars(limits) | {"rate": rate}))
