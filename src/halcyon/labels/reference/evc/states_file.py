"""The file of a set of training states: plain arrays, and a hash that names the set.

    from pathlib import Path
    from halcyon.labels.reference.evc import states_file

    continuation, about = states_file.read(Path("water.npz"))
    about["hash"]  # part of the level of theory

Coefficients of states are not kept: they are large, and interpolation needs densities only.

Not for: making a set (see `growth`).
"""

import hashlib
import json
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon import files
from halcyon.errors import InputError
from halcyon.labels.reference.evc.continuation import Continuation
from halcyon.labels.reference.evc.growth import Grown

SCHEMA = 1
ARRAYS = ("geometries", "energies", "overlap", "singles", "doubles")


def write(path: Path, grown: Grown, **more: Any) -> None:
    """Write a set, atomically.

    Args:
        path: of the file, .npz.
        grown: the set.
        more: what else to remember of how it was made.
    """
    continuation = grown.continuation
    molecule = continuation.molecule
    about = {
        "schema": SCHEMA,
        "basis": continuation.basis,
        "charge": int(molecule.info.get("charge", 0)),
        "multiplicity": int(molecule.info.get("multiplicity", 1)),
        "pyscf": version("pyscf"),
        "converged": grown.converged,
        "exact_calculations": grown.exact_calculations,
        "errors_meV": grown.errors_meV,
        "forces_rmse_meV_per_A": grown.forces_rmse_meV_per_A,
        "history": grown.history,
        **more,
    }
    arrays = {name: getattr(continuation, name) for name in ARRAYS}
    arrays |= {"numbers": molecule.numbers, "positions": molecule.positions}
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as unfinished, unfinished.open("wb") as opened:
        np.savez(opened, about=np.array(json.dumps(about)), **arrays)


def read(path: Path) -> tuple[Continuation, dict[str, Any]]:
    """Read a set, and what is known of it; `hash` is that of its contents.

    Raises:
        InputError: the file is missing, broken, or another kind of file.
    """
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in (*ARRAYS, "numbers", "positions")}
            about: dict[str, Any] = json.loads(str(loaded["about"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected a set of training states ({error}); `halcyon states --configfile "
            "CAMPAIGN` makes it"
        ) from error
    if about.get("schema") != SCHEMA:
        raise InputError(f"{path}: schema {about.get('schema')}, expected {SCHEMA}: make it again")
    info = {"charge": about["charge"], "multiplicity": about["multiplicity"]}
    molecule = Atoms(arrays["numbers"], arrays["positions"], info=info)
    continuation = Continuation(
        molecule=molecule, basis=about["basis"], **{name: arrays[name] for name in ARRAYS}
    )
    hashed = hashlib.sha256(json.dumps([about["basis"], info], sort_keys=True).encode())
    for name in sorted(arrays):
        hashed.update(np.ascontiguousarray(arrays[name]).tobytes())
    return continuation, about | {"hash": hashed.hexdigest()}
