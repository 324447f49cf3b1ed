"""The folder `final/`: a model with all that somebody else needs to use it, and to judge it.

    model.model            the MACE model; model-lammps.pt: the same for LAMMPS
    domain.json            its domain: the atomic energies on which it can be trusted
    structures/*.xyz       start structures, in the domain's order of atoms
    labels.parquet         what it learned from; with certificate.json and its traces
    card.json, README.md   the model card
    manifest.json          every file with its sha256

Not for: the LAMMPS export (`lammps_export`), or what the card says (`card`, `model_card`).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write

from halcyon import files
from halcyon.final import model_card
from halcyon.final.card import Card, Structure
from halcyon.final.certificate import HANDED_ON, FileHash, hash_of
from halcyon.frames import write_frames
from halcyon.systems.fixed import fixed_atoms
from halcyon.verdict.forms import File

MANIFEST = "manifest.json"
LABELS = "labels.parquet"
CARD = "card.json"


class Manifest(File):
    """Every file of a folder `final/` with its hash."""

    REMEDY: ClassVar[str] = f"{HANDED_ON} delete this file and run `snakemake` again."

    files: list[FileHash]


def clear(folder: Path) -> None:
    """Delete the files that an earlier manifest lists; files that a person added stay."""
    path = folder / MANIFEST
    if not path.exists():
        return
    for entry in Manifest.read(path).files:
        listed = (folder / entry.path).resolve()
        if listed.is_relative_to(folder.resolve()):
            listed.unlink(missing_ok=True)
    path.unlink()


def copy(paths: Sequence[Path], folder: Path) -> None:
    """Copy files under their own names, atomically."""
    for path in paths:
        with files.replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def write_structures(structures: Mapping[str, Atoms], folder: Path) -> list[Structure]:
    """Write start structures as extended XYZ; fixed atoms are constraints there, as ASE's are.

    Returns:
        What the card says of each.
    """
    described = []
    for name, start in structures.items():
        path = folder / "structures" / f"{name}.xyz"
        held, atoms = np.flatnonzero(fixed_atoms(start)).tolist(), start.copy()
        if held:
            del atoms.arrays["fixed"]
            atoms.set_constraint(FixAtoms(held))
        with files.replacing(path) as temporary:
            write(temporary, atoms, format="extxyz")
        described.append(
            Structure(
                name=name,
                file=path.relative_to(folder).as_posix(),
                formula=atoms.get_chemical_formula(),
                atoms=len(atoms),
                charge=atoms.info["charge"],
                multiplicity=atoms.info["multiplicity"],
                periodic=bool(atoms.pbc.all()),
                fixed_atoms=held,
            )
        )
    return described


def write_labels(frames: Sequence[Atoms], folder: Path) -> None:
    """Write all labels of the campaign up to this model as one file."""
    write_frames(folder / LABELS, frames)


def write_card(card: Card, folder: Path) -> None:
    """Write the model card, as JSON and in words."""
    card.write(folder / CARD)
    files.write_text(folder / "README.md", model_card.markdown(card))


def write_manifest(folder: Path) -> Manifest:
    """List every file of the folder with its hash; the manifest is written last."""
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    )
    manifest = Manifest(files=[hash_of(path, folder) for path in paths])
    manifest.write(folder / MANIFEST)
    return manifest
