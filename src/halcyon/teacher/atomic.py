"""Atomic properties of the teacher's frames: charges, energies and bond orders by tight binding.

    from halcyon.teacher.atomic import add_properties

    missing = add_properties(frames, "GFN2-xTB")
    frames[0].arrays["atomic_charges"]  # e

A force field gives a frame its energy and forces, but says nothing of its electrons. A single point
of extended tight binding, some milliseconds for a small molecule, does: Mulliken charges, a
partition of the energy over the atoms, and of each atom the sum of its bond orders (Mayer's, from
the density and overlap matrices: I. Mayer, Chem. Phys. Lett. 97, 270 (1983)).

Not for: learning them (see `models.atomic`), or labels (see `labels.reference.xtb`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.units import Hartree

from halcyon.errors import InputError, Interrupted
from halcyon.frames import read_frames, write_frames
from halcyon.teacher import tight_binding

COLUMNS = ("atomic_charges", "atomic_energies", "atomic_bond_orders")
SAVE_EVERY = 200
"""Frames after which the properties so far are saved: what a kill can cost."""


def add_properties(
    frames: Sequence[Atoms],
    method: str,
    *,
    saved: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Compute atomic properties of frames, and add them.

    A frame that tblite cannot compute gets none. The same frames get the same numbers, also where
    the work was broken off and is done again with the same `saved`.

    Args:
        frames: with `info` keys charge and multiplicity; changed: `arrays` of `COLUMNS`, shape
            (N,) each, charges in e, energies in eV; and `info["atomic_method"]`.
        method: the Hamiltonian. Open shells are spin-polarised.
        saved: file that keeps what is done, for the next call; None: nothing is kept.
        progress: called with the numbers of frames done and of all frames; may raise to stop.

    Returns:
        Number of frames that have no properties.

    Raises:
        InputError: no frame at all could be computed; the message has tblite's reason.
    """
    before = _read(saved)
    missing, reason = 0, ""
    for done, frame in enumerate(frames, start=1):
        if done <= len(before) and _same(before[done - 1], frame, method):
            columns = {name: before[done - 1].arrays[name] for name in COLUMNS}
        else:
            columns, fault = _properties(frame, method)
            missing, reason = missing + bool(fault), reason or fault
        frame.arrays.update(columns)
        frame.info["atomic_method"] = method
        try:
            progress(done, len(frames))
        except Interrupted:
            _write(saved, frames[:done])
            raise
        if done % SAVE_EVERY == 0:
            _write(saved, frames[:done])
    if frames and missing == len(frames):
        raise InputError(
            f"pretraining.atomic: {method} could compute none of {len(frames)} frames of the "
            f"teacher ({reason}): expected a system that tblite can compute. Set "
            "pretraining.atomic to []"
        )
    return missing


def _properties(atoms: Atoms, method: str) -> tuple[dict[str, np.ndarray], str]:
    """The properties of a frame by column; or none, and why."""
    if fault := tight_binding.fault(atoms, method):
        return {}, fault
    try:
        result = tight_binding.calculator(
            atoms, method, spin_polarized=atoms.info["multiplicity"] > 1
        ).singlepoint()
    except RuntimeError as error:  # tblite's own
        return {}, str(error)
    n = len(atoms)
    # First those of both spins together, then of their difference, whatever shape the array has.
    orders = np.asarray(result.get("bond-orders")).ravel()[: n * n].reshape(n, n)
    charges, energies = (np.array(result.get(key)) for key in ("charges", "energies"))
    values = (charges, energies * Hartree, orders.sum(axis=1))
    if not all(np.isfinite(column).all() for column in values):
        return {}, "a property is not a finite number"
    return dict(zip(COLUMNS, values, strict=True)), ""


def _same(kept: Atoms, frame: Atoms, method: str) -> bool:
    """Whether what was kept is of this frame, and has its properties by this method."""
    return (
        kept.info.get("atomic_method") == method
        and all(name in kept.arrays for name in COLUMNS)
        and kept == frame  # species, positions, cell and periodicity
    )


def _read(saved: Path | None) -> list[Atoms]:
    """Frames that an earlier call has kept; none where there is no file, or a damaged one."""
    try:
        return read_frames(saved) if saved is not None and saved.exists() else []
    except InputError:
        return []


def _write(saved: Path | None, frames: Sequence[Atoms]) -> None:
    if saved is not None:
        write_frames(saved, frames)
