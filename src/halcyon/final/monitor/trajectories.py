"""Trajectories of other programs, frame by frame: LAMMPS dumps, XYZ, DCD, XTC, TRR and more.

    from pathlib import Path
    from halcyon.final.monitor.trajectories import frames_of

    for frame in frames_of(Path("set.xyz")):
        print(frame.number, frame.atoms.get_chemical_formula())

chemfiles reads them, a frame at a time.

Not for: labels (`labels.published`), or what a frame is worth (`judging`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import chemfiles
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from halcyon.errors import InputError

SUFFIXES = {
    ".lammpstrj": "LAMMPS",
    ".dump": "LAMMPS",
    ".xyz": "XYZ",
    ".extxyz": "XYZ",
    ".dcd": "DCD",
    ".xtc": "XTC",
    ".trr": "TRR",
    ".nc": "Amber NetCDF",
    ".gro": "GRO",
    ".pdb": "PDB",
}
"""What a file is, by its suffix."""
WITH_TIME = ("XTC", "TRR")
"""Formats whose frames have a time, ps."""


@dataclass(frozen=True)
class Frame:
    """A frame of a trajectory.

    Attributes:
        number: from 0.
        atoms: positions in Å, with its cell where it is periodic.
        step: of the dynamics, where the file says it; else the frame's number.
        time_ps: where the file says it; else None.
        of: how many frames the trajectory has; None: not known.
    """

    number: int
    atoms: Atoms
    step: int
    time_ps: float | None
    of: int | None = None


def frames_of(
    path: Path, *, elements: Mapping[str, str] | None = None, topology: Path | None = None
) -> Iterator[Frame]:
    """Read a trajectory.

    Args:
        path: its file; the suffix says what it is.
        elements: chemical symbols by the names or types of atoms that the file has instead.
        topology: a structure file with the elements, for formats that have none (DCD, XTC).

    Raises:
        InputError: the file or the topology cannot be read, or an atom has no element.
    """
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{path}: suffix {path.suffix or '(none)'}: expected one of {', '.join(SUFFIXES)}"
        )
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    chemfiles.set_warnings_callback(lambda _message: None)
    numbers: np.ndarray | None = None
    periodic = _dump_is_periodic(path) if kind == "LAMMPS" else None
    try:
        with chemfiles.Trajectory(str(path), "r", kind) as trajectory:
            if topology is not None:
                trajectory.set_topology(str(topology))
            for number in range(trajectory.nsteps):
                read = trajectory.read_step(number)
                if numbers is None or len(numbers) != len(read.atoms):
                    names = _names(read, elements or {}, by_name=kind == "LAMMPS")
                    numbers = _numbers(path, names)
                time = _time(read) if kind in WITH_TIME else None
                yield Frame(
                    number,
                    _atoms(read, numbers, periodic=periodic),
                    int(read.step),
                    time,
                    trajectory.nsteps,
                )
    except chemfiles.ChemfilesError as error:
        raise InputError(f"{path}: cannot be read as {kind} ({error})") from error


def _dump_is_periodic(path: Path) -> bool:
    """Whether the box of a LAMMPS dump is periodic, which chemfiles does not tell.

    Raises:
        InputError: it is in some directions only, or the file is no dump.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        header = next((line for line in lines if line.startswith("ITEM: BOX BOUNDS")), "")
    flags = [word for word in header.split()[3:] if len(word) == 2 and set(word) <= set("pfsm")]
    if len(flags) != 3:
        raise InputError(f"{path}: expected a text dump of LAMMPS, with ITEM: BOX BOUNDS pp pp pp")
    directions = [flag == "pp" for flag in flags]
    if any(directions) != all(directions):
        raise InputError(
            f"{path}: its box is periodic in some directions only ({' '.join(flags)}); expected "
            "all or none"
        )
    return all(directions)


def _names(read: chemfiles.Frame, elements: Mapping[str, str], *, by_name: bool) -> list[str]:
    """Each atom's element, or what the file has instead.

    Of a LAMMPS dump chemfiles makes the column `element` the name, and leaves the type a number;
    elsewhere a name may be that of a place in a residue, such as CA.
    """
    names = []
    for atom in read.atoms:
        own = atom.name if by_name and atom.name else atom.type
        names.append(elements.get(atom.type, elements.get(atom.name, own)))
    return names


def _numbers(path: Path, names: list[str]) -> np.ndarray:
    unknown = sorted({name for name in names if name not in atomic_numbers})
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:5])
        raise InputError(
            f"{path}: {shown}: no chemical symbol. Let LAMMPS write the column `element`, give "
            "--elements 1=O,2=H for its types, or --topology FILE for a format without elements"
        )
    return np.array([atomic_numbers[name] for name in names])


def _atoms(read: chemfiles.Frame, numbers: np.ndarray, *, periodic: bool | None) -> Atoms:
    if periodic is None:
        periodic = read.cell.shape != chemfiles.CellShape.Infinite
    cell = np.array(read.cell.matrix).T if periodic else None
    return Atoms(numbers, positions=np.array(read.positions), cell=cell, pbc=periodic)


def _time(read: chemfiles.Frame) -> float | None:
    names = read.list_properties()
    return float(read["time"]) if "time" in names else None
