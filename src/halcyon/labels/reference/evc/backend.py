"""Labels by eigenvector continuation: interpolated between exact states of few geometries.

    from pathlib import Path
    from halcyon.config import EvcReference
    from halcyon.labels.reference.evc.backend import Evc

    reference = Evc(EvcReference(backend="evc", basis="sto-3g", states=Path("water.npz")))
    records = list(reference.label(frames, Path("work"), cores=1))

The set of training states is part of the level of theory, by its hash: labels of two sets are never
mixed. A set is made before the campaign, by `halcyon states`.

Not for: the method (see `continuation`), or making the set (see `growth`).
"""

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.config import EvcReference
from halcyon.errors import InputError
from halcyon.labels.reference.base import LevelOfTheory, Record, Reference, Status, spin_fault
from halcyon.labels.reference.evc import states_file
from halcyon.labels.reference.evc.continuation import Continuation


class Evc(Reference):
    """Single points interpolated from a file of training states."""

    def __init__(self, settings: EvcReference) -> None:
        """Keep the settings; nothing is read yet."""
        self._settings = settings

    @cached_property
    def _set(self) -> tuple[Continuation, dict[str, Any]]:
        continuation, about = states_file.read(self._settings.states)
        if about["basis"] != self._settings.basis:
            raise InputError(
                f"reference.basis = {self._settings.basis}, and the states of "
                f"{self._settings.states} are of {about['basis']}: set that basis, or make the "
                "states again"
            )
        return continuation, about

    @property
    def level(self) -> LevelOfTheory:
        """Method, basis and the hash of the training states; see `Reference.level`."""
        continuation, about = self._set
        return {
            "program": "pyscf",
            "version": about["pyscf"],
            "method": "eigenvector continuation of full configuration interaction",
            "basis": about["basis"],
            "training_states": len(continuation.energies),
            "states": about["hash"],
        }

    def check(self, structures: Sequence[Atoms]) -> None:
        """Check that each structure is the molecule of the training states."""
        continuation, about = self._set
        if not about["converged"]:
            raise InputError(
                f"{self._settings.states}: the states did not reach the tolerance they were made "
                f"for (off by {max(about['errors_meV']):.3g} meV on new frames): make them with "
                "more states (`halcyon states --most-states`), or a larger tolerance"
            )
        for atoms in structures:
            if fault := _fault(continuation, atoms):
                raise InputError(f"structure {atoms.info.get('structure', '?')}: {fault}")

    def label(self, frames: Sequence[Atoms], work: Path, cores: int) -> Iterator[Record]:
        """Label frames one after another; `work` is not used. See `Reference.label`."""
        del work
        for atoms in frames:
            yield self._label(atoms, cores)

    def _label(self, atoms: Atoms, cores: int) -> Record:
        continuation, _ = self._set
        start = time.monotonic()
        status, message, result = Status.REJECTED, _fault(continuation, atoms), None
        if not message:
            try:
                result, status = continuation.results(atoms)[0], Status.OK
            except (InputError, np.linalg.LinAlgError) as error:
                status, message = Status.CRASHED, str(error)
        seconds = time.monotonic() - start
        return Record(
            status=status,
            energy=result.energy if result else None,
            forces=result.forces if result else None,
            message=message,
            seconds=seconds,
            core_seconds=seconds * cores,
        )


def _fault(continuation: Continuation, atoms: Atoms) -> str:
    """Why the frame cannot be labelled; empty if it can."""
    if not np.isfinite(atoms.positions).all():
        return "a position is not a finite number"
    if atoms.pbc.any():
        return "the frame is periodic, and the training states are of a molecule alone"
    return spin_fault(atoms) or continuation.fault(atoms)
