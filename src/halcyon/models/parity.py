"""Predicted against reference values, as a small table for a parity plot.

    from pathlib import Path
    from halcyon.models.mace import evaluate
    from halcyon.models.parity import read, write

    write(Path("parity.parquet"), frames, evaluate("m.model", frames))
    read(Path("parity.parquet"))["force"]["predicted"]  # eV/Å

Not for: errors (see `mace.errors`), or drawing (see `halcyon.report.page`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ase import Atoms

from halcyon import files, tables
from halcyon.errors import InputError

SCHEMA = 1
MAX_POINTS = 5_000
"""Points of one quantity. More are thinned by a draw that depends only on their number."""
UNITS = {"energy": "eV/atom", "force": "eV/Å"}


def write(path: Path, frames: Sequence[Atoms], predictions: Any) -> None:
    """Write a row per point: `quantity`, `element`, `frame`, `reference`, `predicted`.

    `frame` counts the frames from 0: errors within one are alike, so intervals draw whole frames.
    Energies are per atom, counted from the mean reference of the frames of the same composition,
    so that single meV remain visible; `element` is 0 for them. Forces are components.

    Args:
        path: Parquet file, written atomically. Units stand in the fields' metadata.
        frames: with `info["energy"]` (eV) and `arrays["forces"]` (eV/Å).
        predictions: of the frames, as `mace.evaluate` returns them.

    Raises:
        ValueError: no frames.
    """
    sizes = np.array([len(atoms) for atoms in frames])
    energies = np.array([atoms.info["energy"] for atoms in frames]) / sizes
    formulas = np.array([atoms.get_chemical_formula() for atoms in frames])
    zeros = {name: float(energies[formulas == name].mean()) for name in np.unique(formulas)}
    zero = np.array([zeros[name] for name in formulas])
    forces = np.concatenate([atoms.arrays["forces"].ravel() for atoms in frames])
    elements = np.concatenate([np.repeat(atoms.numbers, 3) for atoms in frames])
    predicted_forces = np.concatenate([part.ravel() for part in predictions.forces])
    order = np.arange(len(frames))
    no_element = np.zeros(len(frames), int)
    parts = [
        ("energy", no_element, order, energies - zero, predictions.energy / sizes - zero),
        ("force", elements, np.repeat(order, 3 * sizes), forces, predicted_forces),
    ]
    columns: dict[str, list[Any]] = {
        "quantity": [],
        "element": [],
        "frame": [],
        "reference": [],
        "predicted": [],
    }
    for quantity, element, frame, reference, predicted in parts:
        kept = _thinned(len(reference))
        columns["quantity"] += [quantity] * len(kept)
        columns["element"] += element[kept].tolist()
        columns["frame"] += frame[kept].tolist()
        columns["reference"] += reference[kept].tolist()
        columns["predicted"] += predicted[kept].tolist()
    unit = {"unit": "energies: eV/atom from their composition's mean reference; forces: eV/Å"}
    schema = pa.schema(
        [
            pa.field("quantity", pa.string(), metadata={"meaning": "energy or force"}),
            pa.field("element", pa.int16(), metadata={"meaning": "atomic number; 0 for energies"}),
            pa.field("frame", pa.int32(), metadata={"meaning": "number of the frame, from 0"}),
            pa.field("reference", pa.float32(), metadata=unit),
            pa.field("predicted", pa.float32(), metadata=unit),
        ],
        metadata={
            "halcyon_parity": str(SCHEMA),
            "energy_zeros_eV_per_atom": json.dumps(zeros),
            "points": str(len(energies) + len(forces)),
        },
    )
    with files.replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What `write` wrote, by quantity: its columns by name, each of shape (n,).

    Tables of early releases have no column `frame`.

    Raises:
        InputError: no such file, or not a parity table of this schema.
    """
    table = tables.read(path)
    if (table.schema.metadata or {}).get(b"halcyon_parity") != str(SCHEMA).encode():
        raise InputError(f"{path}: not a parity table of schema {SCHEMA}")
    quantity = np.array(table["quantity"].to_pylist())
    return {
        name: {
            column: table[column].to_numpy()[quantity == name]
            for column in ("element", "frame", "reference", "predicted")
            if column in table.column_names
        }
        for name in UNITS
    }


def _thinned(n: int) -> np.ndarray:
    """At most `MAX_POINTS` of n indices, ascending."""
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(n).choice(n, MAX_POINTS, replace=False))
