"""The one interface of all label backends, and the record that each frame gets.

    from pathlib import Path
    from halcyon.config import XtbReference
    from halcyon.labels.reference import make_reference

    reference = make_reference(XtbReference(backend="xtb"))
    for record in reference.label(frames, Path("work"), cores=1):
        print(record.status, record.energy, record.message)

Not for: deciding what is labelled (`exploration.selection`), or keeping labels (`store`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from ase import Atoms

from halcyon.errors import InputError

LevelOfTheory: TypeAlias = dict[str, Any]
"""All that determines a label besides the structure, as plain JSON values.

Backends differ in what they need to say; `program` and `version` are in all of them. The hash of
these values is the name of the level's folder in the label store, and they are its file
`level.json`.
"""


class NotStartedError(InputError):
    """The program that labels did not start: the launcher or the machine is at fault, no frame."""


class Status(StrEnum):
    """How a frame's calculation ended. Only `OK` may enter a training set."""

    OK = "ok"
    UNCONVERGED = "unconverged"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    REJECTED = "rejected"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of one frame's calculation; every frame gets exactly one.

    Attributes:
        status: how it ended.
        energy: total energy in eV; None unless the status is ok.
        forces: shape (N, 3), eV/Å, in the frame's own order; None unless ok.
        stress: xx, yy, zz, yz, xz, xy, eV/Å³, tension positive; None where the program gave none,
            or the frame is not periodic in three directions.
        message: the program's own message where the status is not ok.
        scf_steps: number of SCF steps, where the program reports it.
        rung: rung of the rescue ladder that led to the label; 0: none was needed.
        seconds: wall time, s.
        core_seconds: wall time times cores, s.
    """

    status: Status
    energy: float | None = None
    forces: np.ndarray | None = None
    stress: Sequence[float] | None = None
    message: str = ""
    scf_steps: int | None = None
    rung: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a record that is ok without a label, or has a label and is not ok."""
        if (self.status is Status.OK) == (self.energy is None or self.forces is None):
            raise ValueError(f"a record with the status {self.status}, energy {self.energy}")
        if self.stress is not None and (self.energy is None or len(self.stress) != 6):
            raise ValueError("a stress has six numbers and an energy beside it")
        for number in (self.energy, self.forces, self.stress):
            if number is not None and not np.isfinite(number).all():
                raise ValueError("a label must be finite")


class Reference(ABC):
    """A level of theory and the program that computes it."""

    @property
    @abstractmethod
    def level(self) -> LevelOfTheory:
        """What determines its labels, with the program's name and version.

        Two references with equal levels give the same labels; labels of different levels are
        never mixed.
        """

    @property
    def limits(self) -> Mapping[str, float | list[str]]:
        """What a calculation may take at most, by setting; see `labels.limits`. It is no level."""
        return {}

    @property
    def pool(self) -> Sequence[Atoms] | None:
        """The only frames that it can label, with charge and multiplicity; None: it labels any."""
        return None

    @abstractmethod
    def check(self, structures: Sequence[Atoms]) -> None:
        """Check that these structures can be labelled: in seconds, before any job starts.

        Args:
            structures: start structures with `info` keys charge, multiplicity and structure.

        Raises:
            InputError: it names the file or setting at fault, its value and what was expected.
        """

    def check_grid(self) -> None:  # noqa: B027 — few programs have a grid
        """Check that labels can pass the check of the net force, where a campaign has that check.

        Raises:
            InputError: the program's grid is so coarse that its forces cannot sum to zero.
        """

    def check_stress(self) -> None:  # noqa: B027 — most programs give one
        """Check that labels of periodic frames have a stress, where a campaign needs it.

        Raises:
            InputError: they have none; the message names the setting at fault.
        """

    def order(self, frames: Sequence[Atoms]) -> list[int]:
        """Order in which these frames are best labelled, as a permutation of their indices."""
        return list(range(len(frames)))

    @abstractmethod
    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another.

        Args:
            frames: with `info` keys charge and multiplicity.
            work: folder for scratch files. It exists, survives a kill, and no other process uses
                it.
            cores: number of cores to use.

        Yields:
            One record per frame, in the order of `frames`, as soon as it is known. A frame that
            cannot be labelled is a record with its status, never an exception.

        Raises:
            NotStartedError: the program did not start; that says nothing about the frame.
        """


def spin_fault(atoms: Atoms) -> str:
    """Say why a frame's charge and multiplicity are impossible; empty if they are possible."""
    charge, multiplicity = atoms.info["charge"], atoms.info["multiplicity"]
    electrons = int(atoms.numbers.sum()) - charge
    if electrons >= multiplicity - 1 and (electrons - multiplicity + 1) % 2 == 0:
        return ""
    return (
        f"charge = {charge}, multiplicity = {multiplicity}: impossible with {electrons} "
        f"electrons; expected an {'even' if electrons % 2 else 'odd'} multiplicity"
    )
