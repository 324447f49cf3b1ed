"""A MACE model as LAMMPS reads it: TorchScript for `pair_style mace`, by MACE's own code.

MACE's own command asks questions when a model has several heads, and it chooses the name of its
output; this module makes the same two calls. Not made here: MACE's other format, for LAMMPS's
ML-IAP with Kokkos. It is a pickle, and making it needs cuEquivariance and LAMMPS's Python module:

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
from halcyon.final.card import LammpsExport
from halcyon.models.graphs import graphs, joined
from halcyon.models.mace import Predictions, evaluate

with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    from e3nn.util import jit
    from mace.calculators import LAMMPS_MACE

LARGEST_DIFFERENCE = 1e-5
"""Tolerated in double precision, eV/atom and eV/Å. The table of radial functions makes 3e-7."""
CHECKED_FRAMES = 5
"""Labelled frames that an export is compared with the model on."""
FILE = "model-lammps.pt"
"""Name of the export in a `final` folder."""


def export_checked(model: torch.nn.Module, folder: Path, frames: Sequence[Atoms]) -> LammpsExport:
    """Export a model into a folder, and compare the file with the model.

    Args:
        model: as `mace.load` returns it; it is not changed.
        folder: that `FILE` is written into.
        frames: labelled; the first `CHECKED_FRAMES` are compared.

    Raises:
        InputError: the export and the model differ by more than rounding.
    """
    export(model, folder / FILE)
    compared = frames[:CHECKED_FRAMES]
    difference = check(folder / FILE, model, compared)
    return LammpsExport(file=FILE, frames=len(compared), largest_difference=difference)


def export(model: torch.nn.Module, path: Path) -> None:
    """Write a model as TorchScript in double precision, atomically.

    Args:
        model: as `mace.load` returns it, of one head; it is not changed.
        path: of the file; its name must not end in `.model`.
    """
    plain = copy.deepcopy(model).double().cpu()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        compiled = jit.compile(LAMMPS_MACE(plain))
    with files.replacing(path) as temporary:
        compiled.save(str(temporary))


def predict(path: Path, model: torch.nn.Module, frames: Sequence[Atoms]) -> Predictions:
    """Predictions of an exported file, which is called as LAMMPS calls it.

    Args:
        path: from `export`.
        model: that was exported; only its elements and cutoff are used.
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
        The largest difference of any energy (eV/atom) or force component (eV/Å).

    Raises:
        InputError: the difference is larger than `LARGEST_DIFFERENCE`.
    """
    exported = predict(path, model, frames)
    expected = evaluate(copy.deepcopy(model).double().cpu(), frames)
    sizes = np.array([len(frame) for frame in frames])
    difference = max(
        float((np.abs(exported.energy - expected.energy) / sizes).max()),
        *(
            float(np.abs(forces - right).max())
            for forces, right in zip(exported.forces, expected.forces, strict=True)
        ),
    )
    if not difference <= LARGEST_DIFFERENCE:
        raise InputError(
            f"{path}: the LAMMPS export differs from the model by {difference:.3g} eV/atom or "
            f"eV/Å; expected at most {LARGEST_DIFFERENCE:g}. This version of MACE may not fit the "
            "model: use the version that the model was trained with (envs/mace.yaml)"
        )
    return difference
