"""What a label costs by each of the references that need no data: processor seconds on one core.

The same frames of the shipped force field's dynamics are labelled by GFN1- and GFN2-xTB, by PySCF
and by CP2K at their shipped levels of theory, in turns frame by frame, so that what else the
machine does falls on all. A campaign labels the same way; CP2K starts from the orbitals of the
frame before.

    python benchmarks/label_cost.py                           5 frames of ethanol: some minutes
    python benchmarks/label_cost.py --frames 2 --json cost.json
    python benchmarks/label_cost.py --only xtb pyscf          without CP2K

`ratio_vs_gfn2` is of processor time. The levels of theory are not the same: PBE-D3(BJ) with
def2-SVP by PySCF, in vacuum, and with DZVP-MOLOPT and pseudopotentials by CP2K, in a box.

Not for: which of them is right, or what reused orbitals save (see `labelling_speed`).
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from halcyon.config import Cp2kReference, PyscfReference, XtbReference
from halcyon.config.reference import ReferenceSettings
from halcyon.labels.reference import Status
from labelling_speed import ROOT, Labelling, frames_of

REFERENCES: dict[str, ReferenceSettings] = {
    "xtb GFN1-xTB": XtbReference(backend="xtb", method="GFN1-xTB"),
    "xtb GFN2-xTB": XtbReference(backend="xtb", method="GFN2-xTB"),
    "pyscf PBE-D3(BJ)/def2-SVP": PyscfReference(
        backend="pyscf", level=ROOT / "config/pyscf/pbe-d3bj-def2-svp.yaml"
    ),
    "cp2k PBE-D3(BJ)/DZVP-MOLOPT-SR-GTH": Cp2kReference(
        backend="cp2k", level=ROOT / "config/cp2k/pbe-d3-dzvp.yaml"
    ),
}


def measure(ways: Mapping[str, Labelling], frames: int) -> dict[str, dict]:
    """Label all frames, in turns; processor and wall seconds of each, in order.

    Raises:
        SystemExit: a frame was not labelled.
    """
    for number in range(1, frames + 1):
        for name, way in ways.items():
            way.next()
            record = way.records[-1]
            if record.status is not Status.OK:
                raise SystemExit(f"{name}: frame {number} was not labelled: {record.message}")
            print(
                f"{number:3} {name}: {way.processor_s / number:.2f} s of processor a frame so far",
                file=sys.stderr,
                flush=True,
            )
    return {
        name: way.summary() | {"largest_force_eV_per_A": _largest(way)}
        for name, way in ways.items()
    }


def _largest(way: Labelling) -> float:
    labelled = [record.forces for record in way.records if record.forces is not None]
    return float(max(np.abs(forces).max() for forces in labelled))


def table(measured: dict) -> Table:
    """What a person looks at."""
    shown = Table(title=f"{measured['frames']} frames of {measured['system']}, one core")
    for column in ("reference", "processor s a label", "wall s", "SCF steps", "to GFN2-xTB"):
        shown.add_column(column)
    for name, way in measured["references"].items():
        ratio = way.get("ratio_vs_gfn2")
        shown.add_row(
            name,
            f"{way['processor_s']:.3g}",
            f"{way['wall_s']:.3g}",
            f"{way['scf_steps']:.1f}" if way["scf_steps"] else "",
            f"{ratio:.0f}" if ratio else "",
        )
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", default="ethanol", help="(default ethanol)")
    parser.add_argument("--frames", type=int, default=5, help="(default 5)")
    parser.add_argument("--kelvin", type=float, default=300.0, help="of the dynamics (300)")
    parser.add_argument("--only", nargs="+", metavar="START", help="references that begin so")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    arguments = parser.parse_args(command_line)
    starts = tuple(arguments.only or [""])
    chosen = {name: made for name, made in REFERENCES.items() if name.startswith(starts)}
    if not chosen:
        parser.error(
            f"--only {' '.join(starts)}: expected the start of one of: {', '.join(REFERENCES)}"
        )
    frames = frames_of(arguments.system, arguments.frames, arguments.kelvin)
    with tempfile.TemporaryDirectory(prefix="halcyon-cost-") as temporary:
        ways = {
            name: Labelling(settings, frames, Path(temporary) / str(number), 1)
            for number, (name, settings) in enumerate(chosen.items())
        }
        references = measure(ways, len(frames))
    if gfn2 := references.get("xtb GFN2-xTB"):
        for way in references.values():
            way["ratio_vs_gfn2"] = way["processor_s"] / gfn2["processor_s"]
    measured = {
        "system": arguments.system,
        "frames": len(frames),
        "kelvin": arguments.kelvin,
        "references": references,
        "machine": {"processor": platform.machine(), "cores": os.cpu_count()},
    }
    Console().print(table(measured))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
