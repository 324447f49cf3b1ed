"""Labels that one has already: which of a file's frames a campaign can use, and in which set.

    from pathlib import Path
    from halcyon.config import DatasetLayout
    from halcyon.labels.imported import sort_out

    sorted_out = sort_out([Path("set.npz")], DatasetLayout(), starts, bonds={"water": None})
    print(len(sorted_out.frames), sorted_out.left_out)

Each frame becomes one of a start structure, in its order of atoms. What cannot be used is left out
and counted by its reason.

Not for: whether these labels are of the campaign's level (`agreement`), or labels of the label
store (`store_tools.import_sets`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import ClassVar

from ase import Atoms
from pydantic import Field

from halcyon.config import DatasetLayout
from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.frames import structure_key
from halcyon.labels import seed
from halcyon.labels.agreement import Agreement
from halcyon.labels.pool import ordered
from halcyon.labels.published import read_set
from halcyon.labels.reference.base import Status
from halcyon.systems.graphs import Bonds
from halcyon.verdict.forms import File
from halcyon.wording import count, listed

IMPORTED = "imported from "
"""Beginning of the `origin` of labels that were imported."""
LEAST_HELD_OUT = 5
"""Least validation frames, and least test frames, of a structure."""
SAME_eV = 1e-4
"""Two labels of one structure whose energies differ by less are one label."""


@dataclass
class SortedOut:
    """Frames of some files that a campaign can use.

    Attributes:
        frames: with energy and forces, `info` keys structure, charge, multiplicity, key, status
            and origin, in the order of the files.
        left_out: how many others there are, by reason.
        read: number of all frames.
    """

    frames: list[Atoms] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    read: int = 0

    @property
    def words(self) -> str:
        """How many frames were left out for which reason."""
        return in_words(self.left_out)


class ImportedLabels(File):
    """What became of the labels of files that a campaign started from."""

    REMEDY: ClassVar[str] = "Delete this file and run the same command: it is made again."

    files: list[str] = Field(description="The files.")
    frames: int = Field(description="Number of frames in them.")
    used: dict[str, int] = Field(description="Frames that the campaign uses, by structure.")
    left_out: dict[str, int] = Field(description="All other frames, by reason.")
    stored_before: int = Field(
        description="How many of those in use had a label in the label store; that label holds."
    )
    level: str = Field(description="campaign or theirs: see `seed_labels.level`.")
    agreement: Agreement | None = Field(
        description="How labels that were computed again compare; null: of another level, none was."
    )

    @property
    def words(self) -> str:
        """The numbers in a sentence."""
        words = f"{sum(self.used.values())} of {count(self.frames, 'frame')} used"
        if self.left_out:
            words += f"; left out: {in_words(self.left_out)}"
        if self.stored_before:
            words += f"; {count(self.stored_before, 'label')} in the label store before, kept"
        if self.agreement is None:
            return f"{words}; of a level of their own: the model is only pre-trained on them"
        return f"{words}; {self.agreement.words}"

    @property
    def sentence(self) -> str:
        """The files and the numbers in a sentence."""
        return f"Labels from {listed(self.files)}: {self.words}."


def in_words(left_out: Mapping[str, int]) -> str:
    """`3 duplicate, 1 other elements (Cl)`; counts by their reasons."""
    return ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))


def sort_out(
    paths: Sequence[Path],
    layout: DatasetLayout,
    starts: Sequence[Atoms],
    *,
    bonds: Mapping[str, Bonds | None],
    first: int | None = None,
) -> SortedOut:
    """Read files, and keep the frames that are frames of a start structure.

    Args:
        paths: files of `read_set`.
        layout: how they are written.
        starts: start structures with `info` keys structure, charge and multiplicity.
        bonds: of each structure, the pairs of bonded atoms; None where bonds may break.
        first: how many frames of each file are looked at; None: all.

    Raises:
        InputError: a file cannot be read, or it is ambiguous.
    """
    result = SortedOut()
    seen: dict[str, float] = {}

    def leave_out(reason: str) -> None:
        result.left_out[reason] += 1
        result.read += 1

    for path in paths:
        for published in islice(read_set(path, layout, leave_out), first):
            frame, reason = _of_structure(published, starts, bonds)
            if frame is None:
                leave_out(reason)
                continue
            frame.info |= {"origin": f"{IMPORTED}{path.name}", "key": structure_key(frame)}
            frame.info["status"] = Status.OK.value
            key, energy = frame.info["key"], frame.info["energy"]
            if key in seen:
                same = abs(seen[key] - energy) < SAME_eV
                leave_out("duplicate" if same else "duplicate with another energy")
                continue
            seen[key] = energy
            result.read += 1
            result.frames.append(frame)
    return result


def _of_structure(
    published: Atoms, starts: Sequence[Atoms], bonds: Mapping[str, Bonds | None]
) -> tuple[Atoms | None, str]:
    """The frame as one of a start structure, with its label; or None, and why it is of none."""
    other_bonds = False
    for start in starts:
        structure = start.info["structure"]
        for _, order in ordered([published], start, bonds[structure]):
            if order is None:
                other_bonds = True
                continue
            frame = published[order]
            if not published.pbc.any():
                frame.set_cell(start.cell)
            frame.info = {**published.info, "structure": structure}
            return frame, ""
    return None, "other bonds" if other_bonds else _why_none(published, starts)


def _why_none(published: Atoms, starts: Sequence[Atoms]) -> str:
    """Why a frame is of no start structure, with what sets it apart."""
    known = {symbol for start in starts for symbol in start.symbols}
    if others := sorted({*published.symbols} - known):
        return f"other elements ({', '.join(others)})"
    alike = [s for s in starts if sorted(s.numbers) == sorted(published.numbers)]
    if not alike:
        return f"other composition ({published.get_chemical_formula()})"
    for key in ("charge", "multiplicity"):
        if all(start.info[key] != published.info[key] for start in alike):
            return f"other {key} ({published.info[key]})"
    if all((start.pbc != published.pbc).any() for start in alike):
        return "other periodicity"
    return "other charge and multiplicity"


def split(
    frames: Sequence[Atoms],
    structures: Sequence[str],
    settings: SeedSettings,
    seeds: Mapping[str, int],
) -> list[Atoms]:
    """Divide imported frames into training, validation and test set for good.

    Args:
        frames: from `sort_out`.
        structures: names of the structures that need labels.
        settings: numbers of frames that are held out.
        seeds: of the random numbers, for each structure.

    Returns:
        Frames without labels, with the `info` keys of a seed's frames; see `seed.from_dynamics`.

    Raises:
        InputError: a structure has so few frames that nothing is left to train on or to hold out,
            and the campaign labels none of its own.
    """
    selected = []
    for structure in structures:
        of_structure = [frame for frame in frames if frame.info["structure"] == structure]
        validation, test = _held_out(len(of_structure), settings)
        train = len(of_structure) - validation - test
        if not settings.further and (
            train < 1 or validation < LEAST_HELD_OUT or test < LEAST_HELD_OUT
        ):
            raise InputError(
                f"seed_labels.from: {count(len(of_structure), 'frame')} of structure {structure}: "
                f"expected at least {2 * LEAST_HELD_OUT + 1} of each structure that is labelled "
                f"({listed(structures)}): add files, or let the campaign label frames of its own "
                "too (seed_labels.further: true)"
            )
        numbers = {"train": train, "validation": validation, "test": test}
        for frame, part in seed.drawn(of_structure, numbers, seeds[structure]):
            selected.append(seed.selected_frame(frame, part, {"origin": frame.info["origin"]}))
    return selected


def _held_out(frames: int, settings: SeedSettings) -> tuple[int, int]:
    """Validation and test frames out of so many frames of a structure."""
    if frames >= settings.frames:
        return settings.validation, settings.test
    least = 0 if settings.further else LEAST_HELD_OUT
    validation, test = (
        max(min(least, frames // 2), frames * part // settings.frames)
        for part in (settings.validation, settings.test)
    )
    return validation, test


def is_imported(frame: Atoms) -> bool:
    """Whether a frame's label was imported: it costs nothing of the label budget."""
    return str(frame.info.get("origin", "")).startswith(IMPORTED)
