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
from halcyon.labels.stress import GPA

SCHEMA = 1
MAX_POINTS = 5_000
"""Points of one quantity. More are thinned by a draw that depends only on their number."""
UNITS = {"energy": "eV/atom", "force": "eV/Å", "stress": "GPa"}
"""Quantities; `stress` is absent where no label has one."""


def write(path: Path, frames: Sequence[Atoms], predictions: Any) -> None:
    """Write a row per point: `quantity`, `element`, `frame`, `reference`, `predicted`.

    `frame` counts the frames from 0: errors within one are alike, so intervals draw whole frames.
    Energies are per atom, counted from the mean reference of the frames of the same composition,
    so that single meV remain visible; `element` is 0 for them. Forces are components; so are
    stresses, six of each frame whose label has one, in GPa, tension positive.

    Args:
        path: Parquet file, written atomically. Units stand in the fields' metadata.
        frames: with `info["energy"]` (eV), `arrays["forces"]` (eV/Å) and, where the label has
            one, `info["stress"]` (eV/Å³).
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
    stressed = [i for i, atoms in enumerate(frames) if "stress" in atoms.info]
    if stressed:
        stresses, predicted_stresses = (
            np.array(values).ravel() / GPA
            for values in (
                [frames[i].info["stress"] for i in stressed],
                [predictions.stress[i] for i in stressed],
            )
        )
        of_frame = np.repeat(stressed, 6)
        parts.append(("stress", 0 * of_frame, of_frame, stresses, predicted_stresses))
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
    unit = {
        "unit": "energies: eV/atom from their composition's mean reference; forces: eV/Å; "
        "stresses: GPa, tension positive"
    }
    schema = pa.schema(
        [
            pa.field("quantity", pa.string(), metadata={"meaning": "energy, force or stress"}),
            pa.field(
                "element", pa.int16(), metadata={"meaning": "atomic number, of forces; else 0"}
            ),
            pa.field("frame", pa.int32(), metadata={"meaning": "number of the frame, from 0"}),
            pa.field("reference", pa.float32(), metadata=unit),
            pa.field("predicted", pa.float32(), metadata=unit),
        ],
        metadata={
            "halcyon_parity": str(SCHEMA),
            "energy_zeros_eV_per_atom": json.dumps(zeros),
            "points": str(sum(len(reference) for *_, reference, _ in parts)),
        },
    )
    with files.replacing(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def read(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What `write` wrote, by quantity: its columns by name, each of shape (n,).

    Tables of early releases have no column `frame`. A quantity without points is absent.

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
        if (quantity == name).any()
    }


def _thinned(n: int) -> np.ndarray:
    """At most `MAX_POINTS` of n indices, ascending."""
    if n <= MAX_POINTS:
        return np.arange(n)
    return np.sort(np.random.default_rng(n).choice(n, MAX_POINTS, replace=False))
