"""Labels looked up in a published set: a campaign in retrospect, without any calculation.

    from pathlib import Path
    from halcyon.config import DatasetReference
    from halcyon.labels.reference.dataset import Dataset

    reference = Dataset(DatasetReference(backend="dataset", files=[Path("set.npz")]))
    records = list(reference.label(reference.pool, Path("work"), cores=1))

A frame that is in the set gets the set's label; any other is `rejected`. Two frames are the same if
they agree in species, positions (to 1e-6 Å, in any order of atoms), periodicity, cell, charge and
multiplicity. The cell of a molecule that is not periodic does not count: published sets have none.

The dynamics of a campaign never visit exactly a frame of the set. A campaign takes its frames from
`Dataset.pool`; see `halcyon.labels.pool`.

Not for: computing anything, or putting a set into the label store (`halcyon labels import`).
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from ase import Atoms

from halcyon.config import DatasetLayout, DatasetReference
from halcyon.errors import InputError
from halcyon.frames import canonical_order, structure_key
from halcyon.labels.published import read_set
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status

MISSING = "not in the data set"


class Dataset(Reference):
    """Labels from files, which are read when the first label is needed."""

    def __init__(self, settings: DatasetReference) -> None:
        """Keep the settings; nothing is read yet.

        Raises:
            InputError: a file is missing.
        """
        self._settings = settings
        if missing := [str(path) for path in settings.files if not path.is_file()]:
            raise InputError(f"reference.files: {', '.join(missing)}: no such file")

    @cached_property
    def level(self) -> LevelOfTheory:
        """Hash of the files' content, with the names and units that they are read by."""
        digest = hashlib.sha256()
        for content in sorted(_sha256(path) for path in self._settings.files):
            digest.update(content)
        layout = self._settings.model_dump(mode="json", include={*DatasetLayout.model_fields})
        return {
            "program": "dataset",
            "version": "1",
            "sha256": digest.hexdigest(),
            "layout": layout,
        }

    @property
    def pool(self) -> Sequence[Atoms]:
        """Frames of the set, with `info["place"]`, their file and number; see `Reference.pool`."""
        return list(self._frames.values())

    def check(self, structures: Sequence[Atoms]) -> None:
        """Read the set and check that it has frames of each structure; see `Reference.check`."""
        species = {_species(frame) for frame in self._frames.values()}
        for atoms in structures:
            if _species(atoms) not in species:
                name, charge, multiplicity = _species(atoms)
                available = ", ".join(sorted({f"{n} ({c:+d}, {m})" for n, c, m in species})[:20])
                raise InputError(
                    f"structure {atoms.info.get('structure', '?')}: {name}, charge = {charge}, "
                    f"multiplicity = {multiplicity}: {MISSING}, which has: {available}"
                )

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Look frames up; `work` and `cores` are not used. See `Reference.label`."""
        del work, cores
        for atoms in frames:
            published = self._frames.get(_key(atoms))
            if published is None:
                number = sum(_species(frame) == _species(atoms) for frame in self._frames.values())
                name, charge, multiplicity = _species(atoms)
                yield Record(
                    status=Status.REJECTED,
                    message=f"{MISSING}, which has {number} other frames of {name} with "
                    f"charge = {charge} and multiplicity = {multiplicity}",
                )
                continue
            forces = np.empty((len(atoms), 3))
            forces[canonical_order(_bare(atoms))] = published.arrays["forces"][
                canonical_order(_bare(published))
            ]
            yield Record(status=Status.OK, energy=published.info["energy"], forces=forces)

    @cached_property
    def _frames(self) -> dict[str, Atoms]:
        """The set by key; where a frame is in it twice, the first one."""
        frames: dict[str, Atoms] = {}
        for path in self._settings.files:
            for number, frame in enumerate(read_set(path, self._settings)):
                frame.info["place"] = f"{path}: frame {number}"
                frames.setdefault(_key(frame), frame)
        return frames


def _bare(atoms: Atoms) -> Atoms:
    """The frame as a published set has it: a molecule has no cell."""
    bare = Atoms(atoms.numbers, positions=atoms.positions, pbc=atoms.pbc)
    if atoms.pbc.any():
        bare.set_cell(atoms.cell)
    bare.info = {name: atoms.info[name] for name in ("charge", "multiplicity")}
    return bare


def _key(atoms: Atoms) -> str:
    return structure_key(_bare(atoms))


def _species(atoms: Atoms) -> tuple[str, int, int]:
    """Formula, charge and multiplicity."""
    return atoms.get_chemical_formula(), atoms.info["charge"], atoms.info["multiplicity"]


def _sha256(path: Path) -> bytes:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()
