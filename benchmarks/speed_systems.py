"""What the speed benchmark simulates: systems, a model that holds them together, a domain.

Not for: accuracy. The model has the default size and is fitted to MMFF94 energies of displaced
frames, just well enough for the few hundred steps that are timed.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ase.units
import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.geometry import get_distances
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from rdkit.Geometry import Point3D

from halcyon.config import ModelSettings, StructureSettings, TrainingSettings
from halcyon.domain.calibration import fit_normal
from halcyon.domain.curves import Curve
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.intervals import Calibration, Domain, LatentSet, Normal, PackedArray, SignalData
from halcyon.domain.margins import Margin
from halcyon.models import training
from halcyon.systems.structures import atom_classes, bonds, start_structure

SEED = 20261121
SMILES = {"ethanol": "CCO", "aspirin": "CC(=O)Oc1ccccc1C(=O)O"}
WATER_VOLUME_A3 = 29.9  # of one molecule, at 1 g/cm³
WATERS = {"water64": 64, "water1000": 1000}
SYSTEMS = (*SMILES, *WATERS)
USUAL = (*SMILES, "water64")
"""Systems of a run that names none."""
APART_A = 1.7
"""Molecules of water begin no closer to each other."""
CLUSTER = 8  # waters in each of the frames that teach water
FRAMES_PER_SYSTEM = 40
OUTSIDE = 0.02
"""Fraction of atomic energies, and of latent distances, outside the domain that is made up here."""
TOLERANCE = 0.5
"""Of an atom's force, eV/Å. No errors are known here: it is put at the quantile above."""


def made_start(system: str) -> Atoms:
    """Start frame of a system, with bonds in `info["bonds"]`."""
    if system in SMILES:
        settings = StructureSettings(name=system, smiles=SMILES[system], file=None, box_A=None)
        atoms = start_structure(settings)
        pairs = bonds(settings, atoms)
    else:
        atoms = waters(WATERS[system], np.random.default_rng(SEED))
        atoms.info = {"charge": 0, "multiplicity": 1, "structure": system}
        pairs = [(3 * i, 3 * i + k) for i in range(WATERS[system]) for k in (1, 2)]
    atoms.info["bonds"] = pairs
    return atoms


def waters(number: int, random: np.random.Generator) -> Atoms:
    """Molecules of water on a cubic grid of the liquid's density, turned at random.

    Each is turned until no other is within `APART_A`: what begins closer may fail at once.
    """
    edge = WATER_VOLUME_A3 ** (1 / 3)
    side = round(number ** (1 / 3))
    atoms = Atoms(cell=[side * edge] * 3, pbc=True)
    for i in range(number):
        while True:
            one = molecule("H2O")
            one.euler_rotate(*random.uniform(0, 360, size=3), center="COM")
            one.translate(edge * (np.array([i % side, i // side % side, i // side**2]) + 0.5))
            if not i:
                break
            _, away = get_distances(one.positions, atoms.positions, cell=atoms.cell, pbc=True)
            if away.min() > APART_A:
                break
        atoms += one
    return atoms


def teaching_frames(system: str, number: int, random: np.random.Generator) -> list[Atoms]:
    """Displaced frames with energies and forces of MMFF94."""
    if system in SMILES:
        base = made_start(system)
        mol = Chem.AddHs(Chem.MolFromSmiles(SMILES[system]))
    else:
        base = waters(CLUSTER, random)
        mol = Chem.AddHs(Chem.MolFromSmiles(".".join("O" * CLUSTER)))
        # RDKit lists the hydrogens after all oxygens.
        hydrogens = [3 * i + k for i in range(CLUSTER) for k in (1, 2)]
        base = base[[*range(0, 3 * CLUSTER, 3), *hydrogens]]
    mol.AddConformer(Chem.Conformer(len(base)))
    terms = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    frames = []
    for _ in range(number):
        scale = random.uniform(0.01, 0.1)
        positions = base.positions + random.normal(scale=scale, size=base.positions.shape)
        for i, xyz in enumerate(positions):
            mol.GetConformer().SetAtomPosition(i, Point3D(*map(float, xyz)))
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, terms, ignoreInterfragInteractions=False
        )
        unit = ase.units.kcal / ase.units.mol
        frame = Atoms(base.numbers, positions=positions)
        frame.info["energy"] = field.CalcEnergy() * unit
        frame.arrays["forces"] = -np.array(field.CalcGrad()).reshape(-1, 3) * unit
        frames.append(frame)
    return frames


def fitted_model(out: Path, *, systems: Sequence[str], epochs: int, device: str) -> dict[str, Any]:
    """Fit a model of the default size to all systems at once."""
    random = np.random.default_rng(SEED)
    frames = [
        frame for name in systems for frame in teaching_frames(name, FRAMES_PER_SYSTEM, random)
    ]
    held_out = frames[::8]
    with contextlib.redirect_stdout(sys.stderr):
        summary = training.train(
            [frame for i, frame in enumerate(frames) if i % 8],
            held_out,
            training.Recipe(
                elements=[1, 6, 8],
                model=ModelSettings(),
                fit=TrainingSettings(epochs=epochs, updates=None, batch_size=8, learning_rate=0.03),
                seed=SEED,
                device=device,
            ),
            out=out,
            work=out.parent,
        )
    best = summary.epochs[summary.best_epoch - 1]
    return {
        "fitted_to": "MMFF94, displaced frames",
        "epochs": epochs,
        "frames": len(frames),
        "forces_mae_meV_per_A": round(best.forces_mae_meV_per_A, 1),
    }


def made_domain(case_start: Atoms, outputs: Sequence[Mapping[str, torch.Tensor]]) -> Domain:
    """A domain that ordinary motion leaves now and then: its quantiles, as bounds.

    The latent distance decides, as by default; each class has a distribution of its own.

    Args:
        case_start: start frame of each replica, with its bonds.
        outputs: of the model at some steps of the motion: `node_energy` and `descriptors`.
    """
    pairs, name = case_start.info["bonds"], case_start.info["structure"]
    mode: Literal["element", "symmetry"] = "element" if case_start.pbc.all() else "symmetry"
    classes = atom_classes(case_start, pairs, mode)
    # steps × replicas × atoms
    energies, descriptors = (
        torch.cat([output[key] for output in outputs]).double().cpu().numpy()
        for key in ("node_energy", "descriptors")
    )
    energies = energies.reshape(-1, len(case_start))
    descriptors = descriptors.reshape(len(energies), len(case_start), -1)
    label, guard, normals, distances = {}, {}, {}, []
    for kind in sorted(set(classes)):
        of_kind = [k == kind for k in classes]
        values = energies[:, of_kind]
        low, high = np.quantile(values, [OUTSIDE / 2, 1 - OUTSIDE / 2])
        label[kind] = (float(low), float(high))
        guard[kind] = (float(values.min()), float(values.max()))
        points = np.concatenate(list(descriptors[:, of_kind]))
        mean, whiten = fit_normal(points)
        normals[kind] = [Normal(mean=PackedArray.of(mean), whiten=PackedArray.of(whiten))]
        distances.append(np.linalg.norm((points - mean) @ whiten, axis=1))
    radius = margin(float(np.quantile(np.concatenate(distances), 1 - OUTSIDE)))
    latent = Calibration(
        threshold=radius, data=SignalData(sets=[LatentSet(radius=radius, normals=normals)])
    )
    curve = Curve(
        distance=[0.5, 1.0], error=[TOLERANCE / 2, TOLERANCE], source="class", pairs=0, limit=1.0
    )
    return Domain(
        classes={name: classes},
        label=label,
        guard=guard,
        margin=margin(0.0),
        bonds={name: [(i, j, case_start.get_distance(i, j, mic=True)) for i, j in pairs]},
        signals={"latent": latent},
        expected=ExpectedErrors(
            tolerance_eV_per_A=TOLERANCE,
            signals=["latent"],
            curves={"latent": dict.fromkeys(sorted(set(classes)), curve)},
        ),
    )


def margin(value: float) -> Margin:
    """A made-up margin."""
    return Margin(value=value, low=value, high=value, method="conformal", alpha=OUTSIDE, n=0)
