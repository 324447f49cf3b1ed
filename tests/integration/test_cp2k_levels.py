"""The shipped levels of theory, through the real CP2K, against inputs that are written by hand.

Water in a small box; everything else is as shipped. The
labelled frame starts from the orbitals of another frame, the input by hand from an atomic guess.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.units import Bohr, Hartree

from conftest import ROOT
from halcyon.config import Cp2kReference
from halcyon.labels.reference import Status, make_reference

pytestmark = [
    pytest.mark.cp2k,
]

CUTOFF = 300  # Ry, as shipped
# Positions in the box as they stand in the input by hand: in its middle.
POSITIONS = [[3.0, 3.0, 3.24], [3.0, 3.78, 2.76], [3.0, 2.22, 2.79]]
HAND = """\
&GLOBAL
  PROJECT hand
  RUN_TYPE ENERGY_FORCE
&END
&FORCE_EVAL
  METHOD QS
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    BASIS_SET_FILE_NAME BASIS_ADMM
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &QS
      EPS_DEFAULT 1.0E-12
    &END
    &MGRID
      CUTOFF 300
      REL_CUTOFF 50
    &END
    &POISSON
      PERIODIC NONE
      PSOLVER WAVELET
    &END
    &SCF
      SCF_GUESS ATOMIC
      EPS_SCF 1.0E-6
      MAX_SCF 100
      &OT
        MINIMIZER DIIS
        PRECONDITIONER FULL_ALL
        ENERGY_GAP 0.1
      &END
    &END
@ADMM@
    &XC
@FUNCTIONAL@
      &XC_GRID
        XC_DERIV SPLINE2
      &END
      &VDW_POTENTIAL
        DISPERSION_FUNCTIONAL PAIR_POTENTIAL
        &PAIR_POTENTIAL
          TYPE @D3@
          PARAMETER_FILE_NAME dftd3.dat
          REFERENCE_FUNCTIONAL @NAME@
        &END
      &END
    &END
  &END
  &SUBSYS
    &CELL
      ABC 6 6 6
      PERIODIC NONE
    &END
    &COORD
      O 3.0 3.0 3.24
      H 3.0 3.78 2.76
      H 3.0 2.22 2.79
    &END
    &KIND H
      BASIS_SET DZVP-MOLOPT-SR-GTH
      @AUX@
      POTENTIAL GTH-PBE-q1
    &END
    &KIND O
      BASIS_SET DZVP-MOLOPT-SR-GTH
      @AUX@
      POTENTIAL GTH-PBE-q6
    &END
  &END
  &PRINT
    &FORCES ON
      NDIGITS 12
    &END
  &END
&END
"""
LEVELS = {
    "pbe-d3-dzvp": {
        "FUNCTIONAL": "&XC_FUNCTIONAL PBE\n&END",
        "D3": "DFTD3(BJ)",
        "NAME": "PBE",
    },
    "revpbe-d3-dzvp": {
        "FUNCTIONAL": "&XC_FUNCTIONAL\n&PBE\nPARAMETRIZATION REVPBE\n&END\n&END",
        "D3": "DFTD3",
        "NAME": "revPBE",
    },
    "pbe0-d3-admm": {
        "FUNCTIONAL": "&XC_FUNCTIONAL\n&PBE\nSCALE_X 0.75\nSCALE_C 1.0\n&END\n&END\n"
        "&HF\nFRACTION 0.25\n&SCREENING\nEPS_SCHWARZ 1.0E-10\nEPS_SCHWARZ_FORCES 1.0E-8\n&END\n"
        "&INTERACTION_POTENTIAL\nPOTENTIAL_TYPE COULOMB\n&END\n&END",
        "D3": "DFTD3(BJ)",
        "NAME": "PBE0",
        "ADMM": "&AUXILIARY_DENSITY_MATRIX_METHOD\nMETHOD BASIS_PROJECTION\n"
        "ADMM_PURIFICATION_METHOD NONE\nEXCH_CORRECTION_FUNC PBEX\n&END",
        "AUX": "BASIS_SET AUX_FIT cpFIT3",
    },
}


def by_hand(words, folder):
    """Energy in hartree and forces in hartree/bohr."""
    text = HAND
    for name in ("ADMM", "FUNCTIONAL", "D3", "NAME", "AUX"):
        text = text.replace(f"@{name}@", words.get(name, ""))
    (folder / "hand.inp").write_text(text)
    output = subprocess.run(
        ["cp2k.psmp", "hand.inp"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "SCF run converged" in output
    lines = output.splitlines()
    energy = float(next(line for line in lines if "ENERGY|" in line).split()[-1])
    start = lines.index(" ATOMIC FORCES in [a.u.]")
    forces = np.array([line.split()[3:6] for line in lines[start + 3 : start + 6]], dtype=float)
    return energy, forces


@pytest.mark.parametrize("name", LEVELS)
def test_label_agrees_with_an_input_written_by_hand(tmp_path, name):
    level = yaml.safe_load((ROOT / f"config/cp2k/{name}.yaml").read_text())
    level["force_eval"]["dft"]["mgrid"]["cutoff"] = CUTOFF
    (tmp_path / "level.yaml").write_text(yaml.safe_dump(level))
    frame = Atoms("OHH", POSITIONS, cell=[6.0] * 3)
    frame.info = {"charge": 0, "multiplicity": 1, "structure": "water"}
    other = frame.copy()
    other.set_distance(0, 1, 1.0, fix=0)
    other.rotate(70, (1, -2, 1), center="COM")
    backend = make_reference(Cp2kReference(backend="cp2k", level=tmp_path / "level.yaml"))
    first, second = backend.label([other, frame], tmp_path, 1)
    assert first.status is second.status is Status.OK
    assert second.scf_steps < first.scf_steps  # it did start from the other's orbitals
    energy, forces = by_hand(LEVELS[name], tmp_path)
    assert second.energy / Hartree == pytest.approx(energy, abs=1e-6)
    assert np.allclose(second.forces / (Hartree / Bohr), forces, atol=1e-5)


def test_a_coarse_grid_is_seen_by_one_frame_on_two(cheap_level):
    """CP2K's own forces of water at 120 and 180 Ry: eV/Å apart, where 0.01 is asked for."""
    config = cheap_level.configure(
        "coarse",
        systems=["water"],
        reference={"backend": "cp2k", "level": "cheap.yaml", "command": "cp2k.psmp"},
        sanity={"net_force_eV_per_A": None},
    )
    trial = f"{sys.executable} -m halcyon.commands.plan.trial grid --system water --configfile"
    done = subprocess.run(
        [*trial.split(), config],
        cwd=cheap_level.folder,
        env=cheap_level.environment | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["largest_force_difference_eV_per_A"] > 0.1
