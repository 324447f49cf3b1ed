"""The molecules in the page's 3D view: selected frames, and the CLI of each atom.

Not for: drawing them (`molecules.js` among the templates), or selecting frames
(`exploration.selection`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from halcyon.report import Generation, SystemReport
from halcyon.report.page.axes import rounded

MAX_ATOMS = 40_000
"""Atoms of all frames on the page; beyond this, frames of the oldest generations are left out."""

ROLES = {"audit": "random (audit)", "diverse": "diverse"}
"""Why a frame was labelled, where no index proposed it."""


def scenes(report: SystemReport) -> dict[str, Any]:
    """The scenes that a reader can choose, newest generation first.

    Returns:
        `symbols` of the atoms by structure, `scenes`, and how many frames were `selected` in all.
        A scene has plain values: `title`, `structure`, `positions` (3N, Å), `cell` (9, Å; None
        without periodicity), `atom` for which the frame was selected (or None), and values for the
        atoms' colours: `scores` (how far beyond the domain) and `cli` (ps).
    """
    shown: list[dict[str, Any]] = []
    symbols: dict[str, list[str]] = {}
    room = MAX_ATOMS
    for g in reversed(report.generations):
        for scene, atoms in [*_means(report, g), *_selected(g)]:
            room -= len(atoms)
            if room < 0 and shown:
                continue
            symbols[scene["structure"]] = atoms.get_chemical_symbols()
            shown.append(scene)
    selected = sum(len(g.selected) for g in report.generations)
    return {"symbols": symbols, "scenes": shown, "selected": selected}


def _geometry(atoms: Atoms) -> dict[str, Any]:
    return {
        "structure": atoms.info["structure"],
        "positions": [float(f"{value:.3f}") for value in atoms.positions.ravel()],
        "cell": [float(f"{v:.3f}") for v in atoms.cell.array.ravel()] if atoms.pbc.any() else None,
    }


def _means(report: SystemReport, g: Generation) -> list[tuple[dict[str, Any], Atoms]]:
    """Λ of each atom at the end, mean over replicas, on a geometry of the structure."""
    pairs = []
    for structure in dict.fromkeys(entry.structure for entry in g.replicas):
        measured = [
            entry.cli_atoms_ps
            for entry in g.replicas
            if entry.structure == structure and entry.cli_atoms_ps
        ]
        picture = _first([*report.teacher_frames, *g.selected], structure)
        if not measured or picture is None or len(picture) != len(measured[0]):
            continue
        scene = _geometry(picture) | {
            "kind": "mean",
            "generation": g.number,
            "title": f"Λ of each atom of {structure} when its replicas ended, mean of "
            f"{len(measured)}, generation {g.number}",
            "atom": None,
            "scores": None,
            "cli": rounded(np.mean(measured, axis=0)),
        }
        pairs.append((scene, picture))
    return pairs


def _first(frames: Sequence[Atoms], structure: str) -> Atoms | None:
    return next((frame for frame in frames if frame.info["structure"] == structure), None)


def _selected(g: Generation) -> list[tuple[dict[str, Any], Atoms]]:
    pairs = []
    for frame in g.selected:
        info = frame.info
        label = g.label_infos.get(info.get("key", ""), {})
        atom = info.get("atom")
        pairs.append(
            (
                _geometry(frame)
                | {
                    "kind": "selected",
                    "generation": g.number,
                    "title": f"{info['structure']}, generation {g.number}, replica "
                    f"{info.get('replica', '–')} at {info.get('time', float('nan')):.4g} ps",
                    "atom": atom,
                    "replica": info.get("replica"),
                    "time": info.get("time"),
                    "temperature": info.get("temperature"),
                    "reason": info.get("reason") or ROLES.get(info.get("role", ""), ""),
                    "score": _plain(info.get("score")),
                    "cli_atom": _plain(info.get("cli_atom")),
                    "status": label.get("status", "not labelled yet"),
                    "split": info.get("split", ""),
                    "scores": _values(frame, "scores"),
                    "cli": _values(frame, "cli_atoms"),
                },
                frame,
            )
        )
    return pairs


def _plain(value: float | None) -> float | None:
    return None if value is None else rounded([value])[0]


def _values(frame: Atoms, name: str) -> list[float | None] | None:
    return rounded(frame.arrays[name]) if name in frame.arrays else None
