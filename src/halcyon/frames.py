"""Frames: structures with their labels, as ASE `Atoms` in memory and Parquet on disk; their hashes.

A row is a frame. Positions and forces are list columns. The file's metadata has the unit and
meaning of every column and the version of the schema.

In memory the scalar columns are in `atoms.info` under the same names, `VECTORS` and `PER_ATOM`
in `atoms.arrays`. A name that is not declared in `INFO` is refused, so that no typo loses data.

A stress is a list of six numbers in ASE's order xx, yy, zz, yz, xz, xy, in eV/Å³ and with ASE's
sign: positive where the cell would shrink (tension), so that the pressure is minus a third of the
trace. It is the derivative of the energy by strain, over the volume. Only frames that are periodic
in three directions have one.

Not for: trajectories of every step (see `exploration.trajectory`), or whether a label can be
trusted (see `labels.sanity`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files, tables
from halcyon.errors import InputError

SCHEMA_VERSION = 3
"""Version 2 has the columns `stress`, `model_stress` and `limits`, version 3 those of atomic
properties (`atomic_…`); files of earlier versions lack them."""


@dataclass(frozen=True)
class Column:
    """A column's Arrow type, unit and meaning."""

    type: pa.DataType
    unit: str
    meaning: str


STRUCTURE: dict[str, Column] = {
    "numbers": Column(pa.list_(pa.int16()), "", "atomic numbers, in the frame's own order"),
    "positions": Column(pa.list_(pa.float64()), "Å", "x, y, z of each atom, 3N values"),
    "cell": Column(pa.list_(pa.float64()), "Å", "three cell vectors, 9 values; zeros: no cell"),
    "pbc": Column(pa.list_(pa.bool_()), "", "periodic along each cell vector"),
}
VECTORS: dict[str, Column] = {
    "forces": Column(pa.list_(pa.float64()), "eV/Å", "x, y, z of each atom, 3N values"),
    "model_forces": Column(
        pa.list_(pa.float64()),
        "eV/Å",
        "as predicted by the model that visited the frame, before it learned from it; 3N values",
    ),
    "second_forces": Column(
        pa.list_(pa.float64()),
        "eV/Å",
        "of the reference, as a second Hamiltonian expects them (audit.second_opinion); 3N values",
    ),
}
"""Vectors of each atom that a frame may have; in memory in `atoms.arrays`, shape (N, 3)."""
PER_ATOM: dict[str, Column] = {
    "scores": Column(pa.list_(pa.float32()), "", "score of each atom: distance outside / width"),
    "cli_atoms": Column(
        pa.list_(pa.float32()), "ps", "atomic cumulative latent instability of each atom"
    ),
    "expected_error": Column(
        pa.list_(pa.float32()),
        "eV/Å",
        "force error of each atom that the domain of the model that visited the frame expects",
    ),
    "atomic_charges": Column(pa.list_(pa.float64()), "e", "partial charge of each atom"),
    "atomic_energies": Column(
        pa.list_(pa.float64()), "eV", "energy of each atom; they add up to that of `atomic_method`"
    ),
    "atomic_bond_orders": Column(pa.list_(pa.float64()), "", "sum of the bond orders of each atom"),
} | {
    f"distance_{signal}": Column(
        pa.list_(pa.float32()), "", f"raw distance of each atom by the signal {signal}"
    )
    for signal in (
        "node_energy",
        "guard",
        "latent",
        "latent_guard",
        "committee",
        "potential_energy",
        "bond_stretch",
    )
}
"""Values of each atom that a frame may have; in memory in `atoms.arrays`, shape (N,)."""
INFO: dict[str, Column] = {
    "charge": Column(pa.int32(), "e", "total charge"),
    "multiplicity": Column(pa.int32(), "", "spin multiplicity 2S+1"),
    "structure": Column(pa.string(), "", "name of the start structure it came from"),
    "energy": Column(pa.float64(), "eV", "total energy"),
    "stress": Column(
        pa.list_(pa.float64()),
        "eV/Å³",
        "xx, yy, zz, yz, xz, xy; tension positive; null: the label has none",
    ),
    "key": Column(pa.string(), "", "hash of the structure, see structure_key"),
    "split": Column(pa.string(), "", "train, validation or test; never changes"),
    "origin": Column(pa.string(), "", "how the frame was made"),
    "temperature": Column(pa.float64(), "K", "thermostat temperature the frame was drawn at"),
    "generation": Column(pa.int32(), "", "generation that produced the frame; -1: seed"),
    "replica": Column(pa.int32(), "", "replica number"),
    "time": Column(pa.float64(), "ps", "simulated time in the replica"),
    "atom": Column(pa.int32(), "", "index of the atom that selected the frame"),
    "score": Column(pa.float64(), "", "largest atomic score: distance outside the domain / width"),
    "cli": Column(pa.float64(), "ps", "global cumulative latent instability at that time"),
    "cli_atom": Column(pa.float64(), "ps", "atomic cumulative latent instability of `atom`"),
    "cli_gain": Column(pa.float64(), "ps", "largest atomic CLI gained in the frame's interval"),
    "force_max": Column(pa.float64(), "eV/Å", "largest force the model predicts on the frame"),
    "fps_distance": Column(
        pa.float64(),
        "",
        "distance to the nearest frame labelled or selected before, when it was selected, of mean "
        "descriptors per class of atoms in their standard deviations",
    ),
    "reason": Column(pa.string(), "", "why the frame was proposed or dropped"),
    "role": Column(
        pa.string(),
        "",
        "why the frame was labelled. audit: drawn at random from the dynamics; selected: the index "
        "saw trouble; diverse: unlike the labelled ones. A frame of the seed has none",
    ),
    "draw": Column(
        pa.float64(),
        "",
        "0 to 1, drawn at random when the frame was visited: the least are the audit's",
    ),
    "model_energy": Column(
        pa.float64(),
        "eV",
        "energy predicted by the model that visited the frame, before it learned from it",
    ),
    "atomic_method": Column(pa.string(), "", "the Hamiltonian of the columns `atomic_…`"),
    "second_opinion": Column(pa.string(), "", "the Hamiltonian of `second_forces`: gfn1 or gfn2"),
    "model_stress": Column(
        pa.list_(pa.float64()),
        "eV/Å³",
        "stress predicted by the model that visited the frame, before it learned from it",
    ),
    "status": Column(
        pa.string(),
        "",
        "ok, unconverged, crashed, timeout or rejected; not computed: the budget was spent",
    ),
    "xtb_shift": Column(pa.float64(), "eV", "energy minus that of GFN2-xTB"),
    "xtb_force": Column(
        pa.float64(), "eV/Å", "root mean square difference of forces from GFN2-xTB's"
    ),
    "flag": Column(pa.string(), "", "why a good label is worth a look, see sanity"),
    "message": Column(pa.string(), "", "the program's own words where status is not ok"),
    "limits": Column(pa.string(), "", "limits that a failed calculation had, JSON"),
    "level": Column(pa.string(), "", "hash of the level of theory"),
    "scf_steps": Column(pa.int32(), "", "SCF steps"),
    "rung": Column(pa.int32(), "", "rung of the rescue ladder that succeeded; 0: as configured"),
    "seconds": Column(pa.float64(), "s", "wall time of the calculation"),
    "core_seconds": Column(pa.float64(), "s", "wall time times cores"),
    "paid": Column(
        pa.float64(),
        "s",
        "core-seconds that this campaign paid for the frame; 0: its label was in the store",
    ),
    "host": Column(pa.string(), "", "machine the label was computed on"),
    "campaign": Column(pa.string(), "", "campaign that paid for the label"),
    "system": Column(pa.string(), "", "system that asked for the label"),
}


def write_frames(path: Path | str, frames: Sequence[Atoms]) -> None:
    """Write frames to a Parquet file, atomically.

    Raises:
        KeyError: a frame has an `info` key that is not declared in `INFO`.
    """
    with files.replacing(path) as temporary:
        pq.write_table(table_of(frames), temporary, compression="zstd")


def table_of(frames: Sequence[Atoms]) -> pa.Table:
    """Frames as a table, one row each.

    Args:
        frames: any number of frames, even none. Columns are the union of their `info` keys; a
            value that a frame does not have is null.

    Raises:
        KeyError: a frame has an `info` key that is not declared in `INFO`.
    """
    used = {name for atoms in frames for name in atoms.info}
    if unknown := used - INFO.keys():
        raise KeyError(f"undeclared frame columns {sorted(unknown)}; declare them in frames.INFO")
    columns: dict[str, pa.Array] = {
        "numbers": _column(STRUCTURE["numbers"], [atoms.numbers for atoms in frames]),
        "positions": _column(STRUCTURE["positions"], [atoms.positions.ravel() for atoms in frames]),
        "cell": _column(STRUCTURE["cell"], [atoms.cell.array.ravel() for atoms in frames]),
        "pbc": _column(STRUCTURE["pbc"], [atoms.pbc for atoms in frames]),
    }
    fields = dict(STRUCTURE)
    for name, column in VECTORS.items():
        if any(name in atoms.arrays for atoms in frames):
            vectors = [atoms.arrays.get(name) for atoms in frames]
            fields[name] = column
            columns[name] = _column(column, [None if v is None else v.ravel() for v in vectors])
    for name, column in PER_ATOM.items():
        if any(name in atoms.arrays for atoms in frames):
            fields[name] = column
            columns[name] = _column(column, [atoms.arrays.get(name) for atoms in frames])
    for name, column in INFO.items():
        if name in used:
            fields[name] = column
            columns[name] = pa.array([atoms.info.get(name) for atoms in frames], type=column.type)
    schema = pa.schema(
        [
            pa.field(name, column.type, metadata={"unit": column.unit, "meaning": column.meaning})
            for name, column in fields.items()
        ],
        metadata={"halcyon.frames": str(SCHEMA_VERSION)},
    )
    return pa.table(columns, schema=schema)


def read_frames(path: Path | str) -> list[Atoms]:
    """Read frames from a Parquet file that `write_frames` wrote.

    Raises:
        InputError: the file is missing, damaged, not a frames file, or of a newer schema.
    """
    table = tables.read(path)
    check_schema(table.schema, path)
    return frames_of(table)


def check_schema(schema: pa.Schema, path: Path | str) -> None:
    """Refuse a table that does not hold frames, or that a newer Halcyon wrote.

    Raises:
        InputError: the message names `path`.
    """
    version = (schema.metadata or {}).get(b"halcyon.frames")
    if version is None:
        raise InputError(f"{path}: a Parquet file, but not one of Halcyon's frames")
    if int(version) > SCHEMA_VERSION:
        raise InputError(
            f"{path}: frames schema {int(version)}, and this Halcyon reads up to {SCHEMA_VERSION}. "
            "Use a newer Halcyon"
        )


def frames_of(table: pa.Table) -> list[Atoms]:
    """Rows of a table as frames; the inverse of `table_of`."""
    return [_atoms(row) for row in table.to_pylist()]


def canonical_order(atoms: Atoms) -> np.ndarray:
    """An order of the atoms that does not depend on the order in the frame.

    Returns:
        Indices, shape (N,): sorted by atomic number, then rounded wrapped x, y, z.
    """
    x, y, z = _rounded_positions(atoms).T
    return np.lexsort((z, y, x, atoms.numbers))


def structure_key(atoms: Atoms) -> str:
    """Hash of a structure: of all that a label depends on besides the level of theory.

    It covers species and wrapped coordinates (rounded to 1e-6 Å) in canonical order, cell,
    periodicity, charge and multiplicity. The order of the atoms and translations by cell vectors do
    not change it.

    Returns:
        32 hexadecimal digits.

    Raises:
        KeyError: the frame has no charge or multiplicity.
    """
    order = canonical_order(atoms)
    digest = hashlib.sha256()
    digest.update(atoms.numbers[order].astype("<i2").tobytes())
    digest.update(_integers(_rounded_positions(atoms)[order]))
    digest.update(_integers(atoms.cell.array))
    digest.update(atoms.pbc.tobytes())
    digest.update(f"{atoms.info['charge']:d};{atoms.info['multiplicity']:d}".encode())
    return digest.hexdigest()[:32]


def canonical_frame(atoms: Atoms) -> Atoms:
    """Copy of a frame with all its data, in the canonical order of atoms."""
    order = canonical_order(atoms)
    ordered = atoms[order]
    ordered.info = dict(atoms.info)
    if "atom" in atoms.info:
        ordered.info["atom"] = int(np.flatnonzero(order == atoms.info["atom"])[0])
    return ordered


def structure_only(atoms: Atoms) -> Atoms:
    """Copy of a frame without labels: species, positions, cell, charge, multiplicity, structure."""
    copy = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    for name in ("charge", "multiplicity", "structure"):
        if name in atoms.info:
            copy.info[name] = atoms.info[name]
    return copy


FAR_A = 20.0
"""A molecule with an atom further from the origin is moved there before float32 sees it, Å: at this
distance float32 still tells 2e-6 Å apart, at 1e5 Å only 8e-3 Å."""


def near_origin(atoms: Atoms) -> Atoms:
    """The frame, or where it is not periodic and far away a copy with its centre at the origin.

    No energy or force depends on where a molecule is, but float32 loses the digits of coordinates
    that are large.
    """
    if atoms.pbc.any() or not np.abs(atoms.positions).max(initial=0.0) > FAR_A:
        return atoms
    moved = atoms.copy()
    moved.positions -= moved.positions.mean(axis=0)
    return moved


def _rounded_positions(atoms: Atoms) -> np.ndarray:
    positions = atoms.get_positions()
    if atoms.pbc.any():
        fractional = np.linalg.solve(atoms.cell.complete().array.T, positions.T).T
        # Round before wrapping, so that 0 and 1 - 1e-16 become the same number.
        fractional[:, atoms.pbc] = np.round(fractional[:, atoms.pbc], 9) % 1.0
        positions = fractional @ atoms.cell.complete().array
    return np.round(positions, 6) + 0.0  # + 0.0 turns -0.0 into 0.0


def _integers(lengths: np.ndarray) -> bytes:
    return np.rint(lengths * 1e6).astype("<i8").tobytes()


def _column(column: Column, values: Iterable[np.ndarray | None]) -> pa.Array:
    return pa.array([None if value is None else value.tolist() for value in values], column.type)


def _atoms(row: dict) -> Atoms:
    atoms = Atoms(
        row.pop("numbers"),
        positions=np.reshape(row.pop("positions"), (-1, 3)),
        cell=np.reshape(row.pop("cell"), (3, 3)),
        pbc=row.pop("pbc"),
    )
    for name in VECTORS:
        values = row.pop(name, None)
        if values is not None:
            atoms.arrays[name] = np.reshape(values, (-1, 3))
    for name in PER_ATOM:
        values = row.pop(name, None)
        if values is not None:
            atoms.arrays[name] = np.array(values)
    atoms.info = {name: value for name, value in row.items() if value is not None}
    return atoms
