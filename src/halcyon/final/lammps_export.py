"""A MACE model as LAMMPS reads it: TorchScript for `pair_style mace`, by MACE's own code.

MACE's command for this asks questions when a model has several heads and names its output itself;
the two calls that it makes are made here. Its other form (`--format=mliap`, for LAMMPS's ML-IAP
with Kokkos) is a pickle that needs cuEquivariance and LAMMPS's Python module to be made:

    mace_create_lammps_model model.model --format=mliap

Not for: writing LAMMPS input (see the model card).
"""

import contextlib
import copy
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from halcyon import files
from halcyon.errors import InputError
from halcyon.models.graphs import graphs, joined
from halcyon.models.mace import Predictions, evaluate

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    from e3nn.util import jit
    from mace.calculators import LAMMPS_MACE

LARGEST_DIFFERENCE = 1e-5
"""eV/atom and eV/Å, in double precision. Measured: 3e-7, by the table of radial functions."""


def export(model: torch.nn.Module, path: Path) -> None:
    """Write a model as TorchScript in double precision, atomically.

    Args:
        model: as `mace_model.load` returns it, of one head; it is not changed.
        path: of the file; its name must not end in `.model`.
    """
    plain = copy.deepcopy(model).double().cpu()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        compiled = jit.compile(LAMMPS_MACE(plain))
    with files.replacing(path) as temporary:
        compiled.save(str(temporary))


def predict(path: Path, model: torch.nn.Module, frames: Sequence[Atoms]) -> Predictions:
    """What an exported file says about frames, called as LAMMPS calls it.

    Args:
        path: from `export`.
        model: the same; only for its elements and cutoff.
        frames: labelled.
    """
    script = torch.jit.load(str(path), map_location="cpu")
    plain = copy.deepcopy(model).double().cpu()
    none = dict.fromkeys((int(z) for z in script.atomic_numbers), 0.0)
    energies, forces, nodes = [], [], []
    for frame, graph in zip(frames, graphs(frames, plain, none), strict=True):
        data = joined([graph])
        del data["energy"], data["forces"], data["n_atoms"]
        data["positions"].requires_grad_(True)
        output: dict[str, Any] = script(data, torch.ones(len(frame), dtype=torch.float64))
        energies.append(float(output["total_energy_local"].detach()))
        forces.append(output["forces"].detach().numpy())
        nodes.append(output["node_energy"].detach().numpy())
    return Predictions(np.array(energies), forces, nodes, [])


def check(path: Path, model: torch.nn.Module, frames: Sequence[Atoms]) -> float:
    """Largest difference between an exported file and the model, in double precision.

    Returns:
        The larger of those of energies (eV/atom) and force components (eV/Å).

    Raises:
        InputError: they differ by more than rounding.
    """
    exported = predict(path, model, frames)
    known = evaluate(copy.deepcopy(model).double().cpu(), frames)
    sizes = np.array([len(frame) for frame in frames])
    apart = max(
        float((np.abs(exported.energy - known.energy) / sizes).max()),
        *(
            float(np.abs(one - other).max())
            for one, other in zip(exported.forces, known.forces, strict=True)
        ),
    )
    if not apart <= LARGEST_DIFFERENCE:
        raise InputError(
            f"{path}: the LAMMPS export differs from the model by {apart:.3g} eV/atom or eV/Å; "
            f"expected at most {LARGEST_DIFFERENCE:g}: MACE's version may not fit the model"
        )
    return apart
