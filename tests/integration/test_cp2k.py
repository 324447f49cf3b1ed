"""The real CP2K: a label against an independent calculation, and every way to fail.

H2 on a coarse grid: about a second each. For speed, not for accuracy.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.reference import Status, make_reference

pytestmark = [
    pytest.mark.cp2k,
    pytest.mark.skipif(shutil.which("cp2k.psmp") is None, reason="no cp2k.psmp here"),
]

SMALL_LEVEL = Path(__file__).parent.parent / "data" / "cp2k" / "small.yaml"

# Written by hand, not by Halcyon: H2 of 0.8 Å in the centre of a 6 Å box.
INDEPENDENT = """\
&GLOBAL
  PROJECT hand
  RUN_TYPE ENERGY_FORCE
&END
&FORCE_EVAL
  METHOD QS
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    &MGRID
      CUTOFF 120
      REL_CUTOFF 40
    &END
    &POISSON
      PERIODIC NONE
      PSOLVER WAVELET
    &END
    &SCF
      EPS_SCF 1.0E-6
      &OT
        PRECONDITIONER FULL_ALL
      &END
    &END
    &XC
      &XC_FUNCTIONAL PBE
      &END
    &END
  &END
  &SUBSYS
    &CELL
      ABC 6 6 6
      PERIODIC NONE
    &END
    &COORD
      H 3 3 2.6
      H 3 3 3.4
    &END
    &KIND H
      BASIS_SET DZVP-MOLOPT-SR-GTH
      POTENTIAL GTH-PBE-q1
    &END
  &END
  &PRINT
    &FORCES ON
      NDIGITS 10
    &END
  &END
&END
"""


def hydrogen(bond=0.8, edge=6.0, charge=0, multiplicity=1):
    atoms = Atoms("H2", [[9, 9, 9], [9, 9, 9 + bond]], cell=[edge] * 3)
    atoms.info = {"charge": charge, "multiplicity": multiplicity, "structure": "hydrogen"}
    return atoms


def reference(level=SMALL_LEVEL, **settings):
    return make_reference(Cp2kReference(backend="cp2k", level=level, **settings))


def label(backend, atoms, work):
    return next(backend.label([atoms], work, 1))


@pytest.fixture
def changed(tmp_path):
    def write(old, new):
        text = SMALL_LEVEL.read_text()
        assert old in text
        path = tmp_path / "level.yaml"
        path.write_text(text.replace(old, new))
        return path

    return write


def test_label_agrees_with_an_input_written_by_hand(tmp_path):
    (tmp_path / "hand.inp").write_text(INDEPENDENT)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = subprocess.run(
        ["cp2k.psmp", "hand.inp"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = output.splitlines()
    energy = float(next(line for line in lines if "ENERGY|" in line).split()[-1])
    start = lines.index(" ATOMIC FORCES in [a.u.]")
    forces = np.array([line.split()[3:6] for line in lines[start + 3 : start + 5]], dtype=float)

    record = label(reference(), hydrogen(), tmp_path)
    assert record.status is Status.OK
    assert record.energy == pytest.approx(energy * 27.21138602, abs=1e-6)
    assert np.allclose(record.forces, forces * 27.21138602 / 0.52917721067, atol=1e-6)
    assert record.scf_steps > 3
    assert 0 < record.seconds == record.core_seconds
    assert len((tmp_path / "cp2k_starts.log").read_text().splitlines()) == 1


def test_force_is_minus_the_derivative_of_the_energy(tmp_path):
    # Whole bonds are stretched symmetrically, so that the grid moves with the molecule's centre.
    step = 0.01
    backend = reference()
    short, middle, long = backend.label(
        [hydrogen(0.9 - step), hydrogen(0.9), hydrogen(0.9 + step)], tmp_path, 1
    )
    slope = (long.energy - short.energy) / (2 * step)
    # 0.02 eV/Å: what the coarse grid costs; the force itself is 2 eV/Å.
    assert middle.forces[1, 2] == pytest.approx(-slope, abs=0.02)
    assert abs(slope) > 1


def test_unconverged_frame_is_told(tmp_path, changed):
    backend = reference(changed("    scf:\n", "    scf:\n      max_scf: 2\n"))
    record = label(backend, hydrogen(), tmp_path)
    assert record.status is Status.UNCONVERGED
    assert record.scf_steps == 2
    assert "SCF run NOT converged" in record.message


def test_crash_is_told_in_cp2k_words_and_the_next_frame_is_labelled(tmp_path):
    records = list(reference().label([hydrogen(1e-4), hydrogen()], tmp_path, 1))
    assert [record.status for record in records] == [Status.CRASHED, Status.OK]
    assert records[0].message.startswith("GEOMETRY wrong")
    outputs = list(tmp_path.glob("*/cp2k.out"))
    assert any("GEOMETRY wrong" in path.read_text() for path in outputs)


def test_timeout_ends_every_process(tmp_path):
    # A wrapper, so that CP2K is a grandchild: it must end as well.
    wrapper = tmp_path / "cp2k.wrapper"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) exec cp2k.psmp --version;; esac\n'
        f"sleep 300 & echo $! > {tmp_path}/pid; wait\n"
    )
    wrapper.chmod(0o755)
    start = time.monotonic()
    record = label(reference(command=str(wrapper), frame_timeout_s=1), hydrogen(), tmp_path)
    assert time.monotonic() - start < 15
    assert record.status is Status.TIMEOUT
    assert "frame_timeout_s" in record.message
    grandchild = int((tmp_path / "pid").read_text())
    assert not running(grandchild)


def test_stopped_labelling_leaves_no_process(tmp_path):
    wrapper = tmp_path / "cp2k.wrapper"
    wrapper.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--version*) exec cp2k.psmp --version;; esac\n'
        f"echo $$ > {tmp_path}/pid; exec sleep 300\n"
    )
    wrapper.chmod(0o755)

    def stop(*_):
        raise KeyboardInterrupt

    def stop_once_it_runs():
        for _ in range(1200):
            if (tmp_path / "pid").exists():
                break
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, stop)
    try:
        threading.Thread(target=stop_once_it_runs).start()
        with pytest.raises(KeyboardInterrupt):
            label(reference(command=str(wrapper)), hydrogen(), tmp_path)
    finally:
        signal.signal(signal.SIGALRM, previous)
    assert not running(int((tmp_path / "pid").read_text()))


def running(process):
    """Tell whether a process runs; one that only waits to be reaped does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_remains_of_a_killed_run_do_not_become_a_label(tmp_path):
    backend = reference()
    good = label(backend, hydrogen(), tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    (folder / "forces").write_text("leftover\n" + (folder / "forces").read_text())
    again = label(backend, hydrogen(), tmp_path)
    assert np.array_equal(again.forces, good.forces)
    assert len((tmp_path / "cp2k_starts.log").read_text().splitlines()) == 2


def test_check_accepts_the_level_and_a_launcher():
    reference().check([hydrogen(), hydrogen(multiplicity=3), hydrogen(charge=1, multiplicity=2)])
    reference(command="mpirun -n 2 cp2k.psmp").check([hydrogen()])


def test_launcher_whose_cp2k_is_missing_is_refused():
    with pytest.raises(InputError, match=r"mpirun is there, but not 'cp2k.nowhere'"):
        reference(command="mpirun -n 2 cp2k.nowhere").check([hydrogen()])


def test_keyword_that_only_a_newer_cp2k_knows_is_refused(changed):
    # cp2k-input-tools knows it, CP2K 2023.1 does not.
    version = reference().level["version"]
    backend = reference(changed("    scf:\n", "    scf:\n      ignore_convergence_failure: true\n"))
    if version == "2023.1":
        with pytest.raises(InputError, match=r"CP2K 2023.1 does not accept it: found an unknown"):
            backend.check([hydrogen()])
    else:
        backend.check([hydrogen()])


def test_element_without_basis_set_is_named(changed):
    backend = reference(
        changed("    kind:", "    kind:\n      Am: {basis_set: DZVP-MOLOPT-SR-GTH, potential: X}")
    )
    with pytest.raises(InputError, match=r"KIND Am: BASIS_SET DZVP-MOLOPT-SR-GTH: no such basis"):
        backend.check([hydrogen()])
