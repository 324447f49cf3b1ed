"""GFN-FF: a force field for all elements up to radon that finds its own bonds and charges.

    from halcyon.teacher.gfnff import GfnForceField, crash

    crash(start)  # "": it can be computed
    energy, forces = GfnForceField(start)(start)  # eV, eV/Å

Bonds are those of the start structure and stay: a bond that is pulled apart remains one. It knows
no spin. S. Spicher, S. Grimme, Angew. Chem. Int. Ed. 59, 15665 (2020); the library is that of the
package `gfnff`, P. Pracht.

Not for: choosing it (`commands.new_system`), or labels.
"""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import numpy as np
from ase import Atoms
from ase.neighborlist import natural_cutoffs, neighbor_list
from ase.units import Bohr, Hartree
from gfnff import GFNFFCalculator
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order

from halcyon.teacher import tight_binding

NAME = f"gfnff {version('gfnff')} GFN-FF"
NEAR = 1.3
"""Atoms nearer than this many times the sum of their covalent radii stay side by side."""
TRIAL_S = 120
"""The trial of a structure takes a second; one that hangs has failed."""
TRIAL = """
import json, sys
import numpy as np
from gfnff import GFNFFCalculator
numbers, positions, cell, charge = json.load(sys.stdin)
numbers, positions = np.array(numbers, np.int32), np.array(positions)
cell = None if cell is None else np.array(cell)
for _ in range(3):
    calculator = GFNFFCalculator(
        numbers, positions, charge=charge, lattice=cell, npbc=0 if cell is None else 3
    )
    calculator.singlepoint(numbers, positions, lattice=cell)
    calculator.deallocate()
"""
"""What `crash` runs: arrays that are overrun are noticed when they are freed."""


class GfnForceField:
    """GFN-FF with the bonds of a start structure."""

    name = NAME

    def __init__(self, start: Atoms) -> None:
        """Find bonds and charges.

        Args:
            start: the structure, periodic in all directions or in none, with its charge.

        Raises:
            ValueError: an element or a position that it cannot use.
            RuntimeError: the library fails. It may also end the process: see `crash`.
        """
        if fault := tight_binding.fault(start, "GFN-FF"):
            raise ValueError(fault)
        self.numbers = start.numbers.astype(np.int32)
        self.beside = _Beside(start) if start.pbc.all() else None
        cell = _cell(start)
        self.calculator = GFNFFCalculator(
            self.numbers,
            start.positions / Bohr,
            charge=start.info["charge"],
            lattice=cell,
            npbc=0 if cell is None else 3,
        )

    def __call__(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        """Energy, eV, and forces, eV/Å, shape (N, 3).

        Args:
            atoms: a frame of the start structure's atoms, in its order and in its cell.
        """
        positions = atoms.positions if self.beside is None else self.beside.moved(atoms)
        energy, gradient, _ = self.calculator.singlepoint(
            self.numbers, positions / Bohr, lattice=_cell(atoms)
        )
        return energy * Hartree, -gradient * Hartree / Bohr


class _Beside:
    """Moves atoms by whole cell vectors to where they are beside their neighbours of the start.

    GFN-FF remembers of each bond in which of the neighbouring cells its second atom lies: for an
    atom that was put back into the cell alone, the energy is wrong by electronvolts.
    """

    def __init__(self, start: Atoms) -> None:
        i, j, vectors = neighbor_list("ijD", start, natural_cutoffs(start, mult=NEAR))
        graph = coo_array((np.ones(len(i)), (i, j)), shape=(len(start), len(start))).tocsr()
        vector_of = {(a, b): vector for a, b, vector in zip(i, j, vectors, strict=True)}
        self.start = start.positions.copy()
        self.groups: list[np.ndarray] = []
        self.steps: list[tuple[int, int, np.ndarray]] = []
        left = np.ones(len(start), dtype=bool)
        while left.any():
            root = int(np.argmax(left))
            group, before = breadth_first_order(graph, root, directed=False)
            self.groups.append(group)
            self.steps += [(int(before[k]), int(k), vector_of[before[k], k]) for k in group[1:]]
            left[group] = False

    def moved(self, atoms: Atoms) -> np.ndarray:
        """Positions, Å, shape (N, 3)."""
        positions, cell = atoms.positions.copy(), atoms.cell.array
        inverse = np.linalg.inv(cell)
        for before, atom, vector in self.steps:
            moved = positions[atom] - positions[before] - vector
            positions[atom] -= np.round(moved @ inverse) @ cell
        for group in self.groups:
            moved = (positions[group] - self.start[group]).mean(axis=0)
            positions[group] -= np.round(moved @ inverse) @ cell
        return positions


def crash(start: Atoms) -> str:
    """Whether the library would end this process over a structure; empty: it would not.

    Version 0.3.1 writes beyond its arrays while it looks for bonds, in some geometries where many
    atoms crowd around one (SF₆, PF₅, PF₆⁻, crystals of MgO and copper). The same start structure
    does so each time; a process of its own, which checks its memory, finds out.

    Args:
        start: as for `GfnForceField`.
    """
    cell = _cell(start)
    content = [start.numbers.tolist(), (start.positions / Bohr).tolist()]
    content += [None if cell is None else cell.tolist(), start.info["charge"]]
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", TRIAL],
            input=json.dumps(content),
            env=os.environ | checked | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=TRIAL_S,
        )
    except subprocess.TimeoutExpired:
        return f"a trial of one energy took longer than {TRIAL_S} s"
    if done.returncode < 0:
        return (
            f"its library ends the process with {signal.Signals(-done.returncode).name}, as is "
            "known of it where many atoms crowd around one: SF6, PF5, dense crystals"
        )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return ""


def _cell(atoms: Atoms) -> np.ndarray | None:
    """Cell vectors, bohr, shape (3, 3); None: not periodic."""
    return np.ascontiguousarray(atoms.cell.array / Bohr) if atoms.pbc.all() else None
