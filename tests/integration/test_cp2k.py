"""The real CP2K: a label against an independent calculation, and every way to fail.

H2 on a coarse grid: about a second each. For speed, not for accuracy.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
import typing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree

from halcyon.config import Cp2kReference
from halcyon.config.reference import Rung
from halcyon.errors import InputError
from halcyon.labels.reference import Status, make_reference

pytestmark = [
    pytest.mark.cp2k,
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
    (record,) = backend.label([atoms], work, 1)
    return record


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


def test_stress_is_the_slope_of_the_energy_by_strain_and_leaves_the_label_alone(tmp_path):
    # A cell that is much too small, so that the stress is large.
    atoms = Atoms("H2", [[0, 0, 0.1], [0, 0.2, 0.85]], pbc=True)
    atoms.set_cell([[2.8, 0, 0], [0, 3.0, 0], [0, 0.3, 2.8]])
    atoms.info = hydrogen().info
    with_stress = make_reference(Cp2kReference(backend="cp2k", level=SMALL_LEVEL), stress=True)
    step, strained = 0.005, []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.info = dict(atoms.info)
        moved.set_cell(atoms.cell.array @ np.diag([1, 1, 1 + sign * step]), scale_atoms=True)
        strained.append(moved)
    (record,) = with_stress.label([atoms], tmp_path, 1)
    ahead, behind = with_stress.label(strained, tmp_path, 1)
    slope = (ahead.energy - behind.energy) / (2 * step) / atoms.get_volume()
    # 0.005 eV/Å³: what the coarse grid costs.
    assert record.stress[2] == pytest.approx(slope, abs=0.005)
    assert abs(slope) > 0.03
    # Asking for it changes neither the level of theory nor what is stored at it.
    (plain,) = reference().label([atoms], tmp_path / "plain", 1)
    assert plain.stress is None
    assert plain.energy == pytest.approx(record.energy, abs=1e-9)
    assert np.allclose(plain.forces, record.forces, atol=1e-9)
    assert with_stress.level == reference().level


def test_unconverged_frame_is_told(tmp_path, changed):
    backend = reference(changed("    scf:\n", "    scf:\n      max_scf: 2\n"), rescue=[])
    record = label(backend, hydrogen(), tmp_path)
    assert record.status is Status.UNCONVERGED
    assert record.scf_steps == 2
    assert record.rung == 0
    assert "SCF run NOT converged" in record.message


@pytest.fixture(scope="module")
def converged(tmp_path_factory):
    """The label of H2 by the level itself, with steps enough."""
    return label(reference(), hydrogen(), tmp_path_factory.mktemp("converged"))


@pytest.mark.parametrize("rung", typing.get_args(Rung))
def test_rescue_changes_the_road_and_not_the_destination(tmp_path, changed, converged, rung):
    # Six steps are too few from an atomic guess, but enough from orbitals that are converged.
    impatient = changed("    scf:\n", "    scf:\n      max_scf: 6\n")
    record = label(reference(impatient, rescue=[rung]), hydrogen(), tmp_path)
    assert record.status is Status.OK
    assert record.rung == 1
    assert converged.rung == 0
    assert record.energy == pytest.approx(converged.energy, abs=1e-6 * Hartree)
    assert np.allclose(record.forces, converged.forces, atol=1e-5 * Hartree / Bohr)
    assert record.scf_steps > 6
    starts = (tmp_path / "cp2k_starts.log").read_text().splitlines()
    assert len(starts) == 3  # as configured; the rung; the label from the rung's orbitals
    assert not list(tmp_path.rglob("*.wfn"))


def test_a_ladder_that_does_not_help_is_told(tmp_path, changed):
    # Not even one step: converged orbitals cannot be told from others.
    backend = reference(
        changed("eps_scf: 1.0E-6", "eps_scf: 1.0E-16\n      max_scf: 2"), rescue=["finer_grid"]
    )
    record = label(backend, hydrogen(), tmp_path)
    assert record.status is Status.UNCONVERGED
    assert record.rung == 0
    assert record.message.endswith("; rescue tried: finer_grid")


def turned_water(angle, stretch):
    atoms = molecule("H2O", cell=[6.0] * 3)
    atoms.set_distance(0, 1, 0.97 + stretch, fix=0)
    atoms.rotate(angle, (1, 2, 3), center="COM")
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "water"}
    return atoms


@pytest.fixture
def with_oxygen(changed):
    return changed(
        "    kind:", "    kind:\n      O: {basis_set: DZVP-MOLOPT-SR-GTH, potential: GTH-PBE-q6}"
    )


def test_reused_orbitals_save_steps_and_leave_the_label_alone(tmp_path, with_oxygen):
    frames = [turned_water(0, 0.0), turned_water(140, 0.06)]
    (tmp_path / "reused").mkdir()
    (tmp_path / "alone").mkdir()
    backend = reference(with_oxygen)
    assert backend.order(frames) == [0, 1]
    labelling = backend.label(frames, tmp_path / "reused", 1)
    next(labelling)
    kept = list((tmp_path / "reused").rglob("*.wfn"))
    assert [path.parent.name for path in kept] == ["wavefunctions"]
    reused = next(labelling)
    assert list(labelling) == []
    assert not list((tmp_path / "reused").rglob("*.wfn"))
    alone = label(reference(with_oxygen, reuse_wavefunctions=False), frames[1], tmp_path / "alone")
    assert reused.energy == pytest.approx(alone.energy, abs=1e-6 * Hartree)
    assert np.allclose(reused.forces, alone.forces, atol=1e-5 * Hartree / Bohr)
    assert reused.scf_steps < 0.75 * alone.scf_steps


def test_an_open_shell_does_not_start_from_a_neighbour(tmp_path):
    frames = [hydrogen(bond, multiplicity=3) for bond in (1.5, 1.52)]
    list(reference().label(frames, tmp_path, 1))
    inputs = [path.read_text() for path in tmp_path.glob("*/cp2k.inp")]
    assert len(inputs) == 2
    assert not any("SCF_GUESS RESTART" in text for text in inputs)


def test_crash_is_told_in_cp2k_words_and_the_next_frame_is_labelled(tmp_path):
    records = list(reference().label([hydrogen(1e-4), hydrogen()], tmp_path, 1))
    assert [record.status for record in records] == [Status.CRASHED, Status.OK]
    assert records[0].message.startswith("GEOMETRY wrong")
    outputs = list(tmp_path.glob("*/cp2k.out"))
    assert any("GEOMETRY wrong" in path.read_text() for path in outputs)


@pytest.fixture
def wrapped(tmp_path):
    """A program that runs the real CP2K and does something before or after."""

    def write(before="", after=""):
        path = tmp_path / "cp2k.wrapper"
        path.write_text(
            "#!/bin/sh\n"
            'case "$*" in *--version*) exec cp2k.psmp --version;; esac\n'
            f'{before}\ncp2k.psmp "$@" &\nchild=$!\n{after}\nwait $child\n'
        )
        path.chmod(0o755)
        return str(path)

    return write


def only_record(backend, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (record,) = backend.label([hydrogen()], work, 1)
    assert record.energy is None
    assert len((work / "cp2k_starts.log").read_text().splitlines()) == 1
    return record


def test_cp2k_killed_by_a_signal_is_told(tmp_path, wrapped):
    # exec: the signal hits CP2K itself, at a moment when it is at work.
    kill = '(sleep 0.7; kill -9 $$) &\nexec cp2k.psmp "$@"'
    record = only_record(reference(command=wrapped(before=kill)), tmp_path)
    assert record.status is Status.CRASHED
    assert "killed by SIGKILL (out of memory, perhaps" in record.message
    assert str(tmp_path / "work") in record.message


def test_the_real_cp2k_out_of_time(tmp_path):
    record = only_record(reference(frame_timeout_s=0.3), tmp_path)
    assert record.status is Status.TIMEOUT
    assert record.message == "not done after 0.3 s (frame_timeout_s)"
    assert record.seconds < 15


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="no prlimit here")
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        # The memory that a process may have, and the size of a file: what a full disk looks like.
        ("--as=250000000", r"(?i)memory|alloc"),
        ("--fsize=3000", r"(?i)file too large|larger than the limit"),
    ],
)
def test_out_of_memory_and_of_disk_are_told(tmp_path, limit, expected):
    # MPI's own files are kept in memory: they would hit the limit first, in a race of processes.
    quiet = "env PMIX_MCA_gds=hash OMPI_MCA_btl=self"
    record = only_record(reference(command=f"{quiet} prlimit {limit} cp2k.psmp"), tmp_path)
    assert record.status is Status.CRASHED
    assert re.search(expected, record.message), record.message


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ("head -c 4000 /dev/urandom > cp2k.out", "ended without saying whether SCF converged"),
        ("head -c 4000 /dev/urandom > forces", "forces has an unknown format"),
        ("sed -i 's/a.u./eV/; s/hartree.bohr/eV/' forces", "forces has an unknown format"),
        ("sed -i 's/a.u./eV/; s/hartree/eV/' cp2k.out", "CP2K wrote no energy"),
        ("sed -i 's/CP2K version .*/CP2K version 1.0/' cp2k.out", "the output is of CP2K 1.0"),
    ],
)
def test_garbage_is_never_a_label(tmp_path, wrapped, spoil, expected):
    backend = reference(command=wrapped(after=f"wait $child\n{spoil}"))
    record = only_record(backend, tmp_path)
    assert record.status is Status.CRASHED
    assert expected in record.message


def test_data_that_vanish_after_the_check_are_told(tmp_path, wrapped):
    data = shutil.copytree("/usr/share/cp2k", tmp_path / "data")
    vanish = f"rm {data}/BASIS_MOLOPT"
    backend = reference(command=wrapped(before=vanish), data_dir=data)
    backend.check([])
    record = only_record(backend, tmp_path)
    assert record.status is Status.CRASHED
    assert "BASIS_MOLOPT" in record.message


def test_impossible_multiplicity_is_refused_before_cp2k_starts(tmp_path):
    record = label(reference(), hydrogen(multiplicity=2), tmp_path)
    assert record.status is Status.REJECTED
    assert "expected an odd multiplicity" in record.message
    assert not (tmp_path / "cp2k_starts.log").exists()


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
    assert time.monotonic() - start < 60  # of 300, on a busy machine
    assert record.status is Status.TIMEOUT
    assert "frame_timeout_s" in record.message
    ends(int((tmp_path / "pid").read_text()))


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
    ends(int((tmp_path / "pid").read_text()))


def ends(process):
    """Wait for the end of a process that was killed: it sleeps for 300 s if it was not."""
    deadline = time.monotonic() + 60
    while running(process):
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
