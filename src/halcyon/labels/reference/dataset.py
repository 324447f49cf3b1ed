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
from halcyon.labels.published import check_stress, read_set
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status
from halcyon.labels.stress import lacks

MISSING = "not in the data set"
LATER_KEYS = ("charge_key", "spin_key", "spin_is")
"""Keys of the layout that the first levels of theory did not have."""


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
        if not self._settings.stress_key:  # as before there was any
            layout = {k: v for k, v in layout.items() if not k.startswith("stress_")}
        # Keys of later versions count where they are used: labels of before keep their level.
        layout = {k: v for k, v in layout.items() if v or k not in LATER_KEYS}
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

        if self._settings.stress_key:
            for path, frames in self._by_file.items():
                check_stress(path, self._settings, frames)

    def check_stress(self) -> None:
        """Check that the set has stresses; see `Reference.check_stress`."""
        lacking = [frame for frame in self._frames.values() if lacks(frame)]
        if not self._settings.stress_key:
            raise InputError(
                "reference.stress_key is missing: no stress of the set is read. Name the entry "
                "that has it, with its unit and sign (stress_unit, stress_sign)"
            )
        if lacking:
            raise InputError(
                f"reference.files: {len(lacking)} of {len(self._frames)} frames have no entry "
                f"{self._settings.stress_key} (reference.stress_key), the first at "
                f"{lacking[0].info['place']}"
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
            yield Record(
                status=Status.OK,
                energy=published.info["energy"],
                forces=forces,
                stress=published.info.get("stress"),
            )

    @cached_property
    def _frames(self) -> dict[str, Atoms]:
        """The set by key; where a frame is in it twice, the first one."""
        frames: dict[str, Atoms] = {}
        for path, of_file in self._by_file.items():
            for number, frame in enumerate(of_file):
                frame.info["place"] = f"{path}: frame {number}"
                frames.setdefault(_key(frame), frame)
        return frames

    @cached_property
    def _by_file(self) -> dict[Path, list[Atoms]]:
        """Frames of each file."""
        return {path: list(read_set(path, self._settings)) for path in self._settings.files}


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
