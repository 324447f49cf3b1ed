"""CP2K's input and output as text: nothing here starts CP2K."""

import json
import re
import shlex
import stat
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from halcyon.commands.new_system.crystal import D_METALS
from halcyon.config import Cp2kReference
from halcyon.errors import InputError
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.reference.cp2k.entries import Entry, read_entries
from halcyon.labels.reference.cp2k.input import frame_input
from halcyon.labels.reference.cp2k.level import read_level
from halcyon.labels.reference.cp2k.output import abort_message, read_result
from halcyon.labels.reference.cp2k.program import Program

pytestmark = pytest.mark.usefixtures("cp2k_schema_read_once")

DATA = Path(__file__).parent.parent / "data" / "cp2k"
SHIPPED = sorted((Path(__file__).parent.parent.parent / "config" / "cp2k").glob("*.yaml"))

# Invented numbers in CP2K's layout: enough for what reads the files, useless for CP2K.
BASIS = """\
# a comment
 H  SMALL SMALL-q1
 1
 1 0 0 1 1
   0.5  1.0
O SMALL SMALL-q6 # another
 1
 2 0 1 1 1 1
   0.4  1.0 1.0
"""
POTENTIAL = """\
H GTH-X-q1 GTH-X
    1
     0.2    2    -4.1     0.7
    0
#
O GTH-X-q6 GTH-X
    2    4
     0.2    2   -16.5     2.4
 NLCC 1
    0.3 1 2.0
    0
He GTH-X-q2
    2
    0.2 0
    0
"""
LEVEL = """\
force_eval:
  dft:
    basis_set_file_name: BASIS
    potential_file_name: POTENTIAL
    mgrid: {cutoff: 100}
    poisson: {psolver: WAVELET}
    scf: {eps_scf: 1.0E-6, print: {restart: {_: OFF}}}
    xc: {xc_functional: {_: PBE}}
  subsys:
    kind:
      H: {basis_set: SMALL, potential: GTH-X}
      O: {basis_set: SMALL, potential: GTH-X-q6}
"""


@pytest.fixture
def data_dir(tmp_path):
    (tmp_path / "BASIS").write_text(BASIS)
    (tmp_path / "POTENTIAL").write_text(POTENTIAL)
    return tmp_path


@pytest.fixture
def write(tmp_path):
    def write_level(text, name="level.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write_level


def water(edge=8.0, charge=0, multiplicity=1):
    atoms = molecule("H2O", cell=None if edge is None else [edge] * 3)
    atoms.info = {"charge": charge, "multiplicity": multiplicity, "structure": "water"}
    return atoms


def section(text, name):
    return re.search(rf"&{name}\b.*?&END {name}", text, re.DOTALL)[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_level_is_valid_and_covers_organic_elements(path):
    level = read_level(path)
    assert {"H", "C", "N", "O", "F", "P", "S", "Cl"} <= level.kinds.keys()
    assert level.molecule_solver == "WAVELET"
    scf = level.dft["+SCF"]
    # Looser than 1e-6, two starts gave forces that differed by 1.5e-5 Ha/bohr.
    assert scf["EPS_SCF"] <= 1e-6
    assert scf.get("+OUTER_SCF", {}).get("EPS_SCF", 1e-6) == 1e-6


def test_the_level_for_metals_is_that_for_solids_with_smearing_and_a_finer_grid():
    metal, solid = (read_level(path) for path in SHIPPED if path.stem in ("pbe-metal", "pbe-solid"))
    assert metal.kinds.keys() - solid.kinds.keys() == D_METALS
    assert metal.dft["+SCF"]["ADDED_MOS"] == -1
    assert metal.dft["+SCF"]["+SMEAR"]["METHOD"] == "FERMI_DIRAC"
    assert metal.dft["+MGRID"]["CUTOFF"] > solid.dft["+MGRID"]["CUTOFF"]
    assert all(metal.kinds[element] == solid.kinds[element] for element in solid.kinds)


VALENCE = "Sc11 Ti12 V13 Cr14 Mn15 Fe16 Co17 Ni18 Cu11 Zn12 Pd18 Ag11 Pt18 Au11"


@pytest.mark.cp2k
@pytest.mark.parametrize(
    ("element", "electrons"), re.findall(r"(\D+)(\d+)", VALENCE.replace(" ", ""))
)
def test_the_basis_sets_and_pseudopotentials_of_metals_are_in_cp2k_s_own_files(element, electrons):
    (path,) = (path for path in SHIPPED if path.stem == "pbe-metal")
    level, data = read_level(path), Program(Cp2kReference(backend="cp2k", level=path)).data_dir
    assert len(level.entries(element, data)) == 2
    assert level.valence_electrons(element, data) == int(electrons)


def test_a_pbe_a_revpbe_a_hybrid_and_one_for_solids_are_shipped():
    molecular = ["pbe-d3-dzvp", "pbe0-d3-admm", "revpbe-d3-dzvp"]
    assert sorted(path.stem for path in SHIPPED) == sorted([*molecular, "pbe-metal", "pbe-solid"])
    paths = [path for path in SHIPPED if path.stem in molecular]
    pbe, pbe0, revpbe = (read_level(path).dft["+XC"] for path in paths)
    pairs = [xc["+VDW_POTENTIAL"]["+PAIR_POTENTIAL"][0] for xc in (pbe, pbe0, revpbe)]
    assert [(p["TYPE"], p["REFERENCE_FUNCTIONAL"]) for p in pairs] == [
        ("DFTD3(BJ)", "PBE"),
        ("DFTD3(BJ)", "PBE0"),
        ("DFTD3", "revPBE"),
    ]
    assert revpbe["+XC_FUNCTIONAL"]["+PBE"]["PARAMETRIZATION"] == "REVPBE"
    assert pbe0["+HF"][0]["FRACTION"] == 0.25
    assert pbe0["+XC_FUNCTIONAL"]["+PBE"]["SCALE_X"] == 0.75
    assert pbe0["+HF"][0]["+SCREENING"]["SCREEN_ON_INITIAL_P"] is False


def test_yaml_and_plain_input_are_the_same_level(write, data_dir):
    level = read_level(write(LEVEL))
    plain = """\
&GLOBAL
  PROJECT anything
&END
&FORCE_EVAL
  &DFT
    POTENTIAL_FILE_NAME POTENTIAL
    BASIS_SET_FILE_NAME BASIS
    &MGRID
      CUTOFF [Ry] 1.0e2
    &END
    &POISSON
      POISSON_SOLVER wavelet
    &END
    &SCF
      EPS_SCF 0.000001
    &END
    &XC
      &XC_FUNCTIONAL pbe
      &END
    &END
  &END
  &SUBSYS
    &KIND O
      BASIS_SET SMALL
      POTENTIAL GTH-X-q6
    &END
    &KIND h
      BASIS_SET SMALL
      POTENTIAL GTH-X
    &END
  &END
&END
"""
    other = read_level(write(plain, "level.inp"))
    assert other.identity(data_dir) == level.identity(data_dir)


@pytest.mark.parametrize(
    "change",
    [
        ("eps_scf: 1.0E-6", "eps_scf: 1.0E-5"),
        ("_: PBE", "_: BLYP"),
        ("psolver: WAVELET", "psolver: MT"),
        ("potential: GTH-X-q6", "potential: GTH-X"),
    ],
)
def test_another_input_is_another_level(write, data_dir, change):
    before = read_level(write(LEVEL)).identity(data_dir)
    assert read_level(write(LEVEL.replace(*change))).identity(data_dir) != before


def test_numbers_of_entries_identify_the_level_but_their_place_does_not(write, data_dir):
    level = read_level(write(LEVEL))
    before = level.identity(data_dir)
    (data_dir / "BASIS").write_text("Ne OTHER\n 1\n" + BASIS.replace("0.5  1.0", "0.5     1.0"))
    read_entries.cache_clear()
    assert level.identity(data_dir) == before
    (data_dir / "BASIS").write_text(BASIS.replace("0.5  1.0", "0.6  1.0"))
    read_entries.cache_clear()
    assert level.identity(data_dir) != before


def test_prints_paths_and_project_are_not_part_of_the_level(write, data_dir):
    before = read_level(write(LEVEL)).identity(data_dir)
    (data_dir / "elsewhere").write_text(BASIS)
    text = LEVEL.replace("BASIS\n", "elsewhere\n").replace("print: {restart: {_: OFF}}", "")
    text += "global: {project_name: x, print_level: HIGH, walltime: 100}\n"
    assert read_level(write(text)).identity(data_dir) == before
    json.dumps(before, allow_nan=False)


def test_unnamed_solver_is_the_default_solver(write, data_dir):
    before = read_level(write(LEVEL)).identity(data_dir)
    text = LEVEL.replace("    poisson: {psolver: WAVELET}\n", "")
    assert read_level(write(text)).identity(data_dir) == before


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("cutoff:", "cutof:"), r"FORCE_EVAL/DFT/MGRID: keyword CUTOF"),
        (("mgrid:", "mgird:"), r"MGIRD"),
        (("cutoff: 100", "cutoff: many"), r"section FORCE_EVAL/DFT/MGRID: .CUTOFF many."),
        (("_: PBE", "_: PBEE"), r"section FORCE_EVAL/DFT/XC: .*invalid keyword 'PBEE'"),
        (("eps_scf: 1.0E-6", "eps_scf: 1.0E-6, EPS_SCF: 1.0E-7"), r":7: EPS_SCF: is given twice"),
        (("  dft:", "  method: FIST\n  dft:"), r"METHOD = FIST: expected QS"),
        (
            ("    mgrid", "    charge: 1\n    mgrid"),
            r"keyword CHARGE = 1: belongs to the structure",
        ),
        (
            ("    mgrid", "    kpoints: {scheme: GAMMA}\n    mgrid"),
            r"KPOINTS.*set reference\.k_spacing_per_A",
        ),
        (("    mgrid", "    qs: {method: PM6}\n    mgrid"), r"METHOD = PM6: expected one of GPW"),
        (("  subsys:", "  subsys:\n    cell: {abc: [5, 5, 5]}"), r"SUBSYS/CELL: belongs to the"),
        (("  subsys:", "  subsys:\n    coord: {'*': [H 0 0 0]}"), r"SUBSYS/COORD: belongs to the"),
        (("psolver: WAVELET", "periodic: NONE"), r"keyword PERIODIC = NONE: belongs"),
        (
            ("    mgrid", "    wfn_restart_file_name: old.wfn\n    mgrid"),
            r"WFN_RESTART_FILE_NAME: a level of theory cannot start from a file",
        ),
        (
            ("_: PBE}", "_: PBE}, vdw_potential: {pair_potential: {type: DFTD3}}"),
            r"PARAMETER_FILE_NAME, usually dftd3.dat",
        ),
    ],
)
def test_faulty_level_is_refused_with_its_place(write, change, expected):
    assert change[0] in LEVEL
    path = write(LEVEL.replace(*change, 1))
    with pytest.raises(InputError, match=expected) as caught:
        read_level(path)
    assert str(path) in str(caught.value)


def test_missing_level_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.yaml: cannot be read \(No such file"):
        read_level(tmp_path / "nowhere.yaml")


def test_plain_input_fault_names_the_line(write):
    path = write("&FORCE_EVAL\n  &DFT\n    CUTOFF 3\n  &END\n&END\n", "level.inp")
    with pytest.raises(
        InputError, match=rf"{path}:3: section FORCE_EVAL/DFT: 'CUTOFF 3': invalid keyword"
    ):
        read_level(path)


def test_entries_are_read_with_all_their_lines(data_dir):
    potentials = read_entries(data_dir / "POTENTIAL")
    assert [entry.element for entry in potentials] == ["H", "O", "He"]
    oxygen = potentials[1]
    assert oxygen.names == ("GTH-X-Q6", "GTH-X")
    assert oxygen.text.splitlines()[2] == "NLCC 1"
    assert oxygen.valence_electrons == 6


def test_default_kind_serves_every_element_of_the_files(write, data_dir):
    text = (
        LEVEL[: LEVEL.index("      H:")] + "      DEFAULT: {basis_set: SMALL, potential: GTH-X}\n"
    )
    level = read_level(write(text))
    assert level.identity(data_dir)["entries"].keys() == {"DEFAULT H", "DEFAULT O"}
    assert "&KIND O" in frame_input(level, water(), data_dir)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("SMALL, potential: GTH-X-q6", "LARGE, potential: GTH-X"), r"BASIS_SET LARGE.*for O in"),
        (
            ("potential: GTH-X-q6", "potential: GTH-X-q2"),
            r"POTENTIAL GTH-X-q2.*have it for He",
        ),
        (("      O:", "      N:"), r"no section FORCE_EVAL/SUBSYS/KIND O; the file has H, N"),
        (("_file_name: BASIS", "_file_name: NONE"), r"data file NONE: not found in .*data_dir"),
        ((", potential: GTH-X-q6", ""), r"KIND O: expected the keyword POTENTIAL"),
    ],
)
def test_missing_entries_are_named(write, data_dir, change, expected):
    assert change[0] in LEVEL
    level = read_level(write(LEVEL.replace(*change, 1)))
    with pytest.raises(InputError, match=expected):
        frame_input(level, water(), data_dir)


def test_molecule_is_centred_in_its_box(write, data_dir):
    atoms = water()
    atoms.translate([30, -20, 7])
    text = frame_input(read_level(write(LEVEL)), atoms, data_dir)
    lines = [line.split() for line in section(text, "COORD").splitlines()[1:-1]]
    assert [line[0] for line in lines] == ["O", "H", "H"]
    positions = np.array([line[1:] for line in lines], dtype=float)
    assert np.allclose(positions.max(axis=0) + positions.min(axis=0), 8)
    assert np.allclose(np.diff(positions, axis=0), np.diff(atoms.positions, axis=0), atol=1e-11)
    assert "PERIODIC NONE" in section(text, "CELL")
    assert "POISSON_SOLVER WAVELET" in section(text, "POISSON")
    assert f"{data_dir}/BASIS" in text


def test_periodic_frame_keeps_cell_and_positions(write, data_dir):
    atoms = water()
    atoms.pbc = True
    atoms.cell[2, 0] = 0.25
    text = frame_input(read_level(write(LEVEL)), atoms, data_dir)
    assert "C 0.250000000000 0.000000000000 8.000000000000" in section(text, "CELL")
    assert "PERIODIC XYZ" in section(text, "CELL")
    assert "POISSON_SOLVER PERIODIC" in section(text, "POISSON")
    assert f"H 0.000000000000 {atoms.positions[1, 1]:.12f}" in section(text, "COORD")


HYBRID = "_: PBE}, hf: {fraction: 0.25, interaction_potential: {POTENTIAL}}"


@pytest.mark.parametrize(
    ("potential", "fault"),
    [
        ("{potential_type: COULOMB}", r"POTENTIAL_TYPE COULOMB: expected TRUNCATED .* 3.75 Å"),
        (
            "{potential_type: TRUNCATED, cutoff_radius: 4.5}",
            r"TRUNCATED, CUTOFF_RADIUS 4.5 Å: expected TRUNCATED with a radius of at most 3.75 Å",
        ),
        ("{potential_type: TRUNCATED, cutoff_radius: 3.7}", None),
        ("{potential_type: SHORTRANGE, omega: 0.11}", None),
    ],
)
def test_exchange_must_end_within_half_a_periodic_cell(write, data_dir, potential, fault):
    hybrid = HYBRID.replace("{POTENTIAL}", potential)
    level = read_level(write(LEVEL.replace("_: PBE}", hybrid)))
    frame_input(level, water(), data_dir)  # of molecules it may reach to infinity
    atoms = water()
    atoms.pbc = True
    atoms.cell[2, 0] = 3.0  # the height on the first vector: 8·8/√(8² + 3²) = 7.49 Å
    if fault is None:
        frame_input(level, atoms, data_dir)
    else:
        with pytest.raises(InputError, match=fault):
            frame_input(level, atoms, data_dir)


def test_orbitals_to_start_from_are_named(write, data_dir):
    level = read_level(write(LEVEL.replace("eps_scf", "scf_guess: ATOMIC, eps_scf")))
    text = frame_input(level, water(), data_dir)
    assert "SCF_GUESS ATOMIC" in text
    assert "WFN_RESTART" not in text
    text = frame_input(level, water(), data_dir, guess=True)
    assert "SCF_GUESS RESTART" in text
    assert "WFN_RESTART_FILE_NAME guess.wfn" in text
    assert level.dft["+SCF"]["SCF_GUESS"] == "ATOMIC"


def test_charge_and_spin_are_the_frames_own(write, data_dir):
    level = read_level(write(LEVEL))
    text = frame_input(level, water(), data_dir)
    assert "MULTIPLICITY 1" in text
    assert "UKS" not in text
    text = frame_input(level, water(charge=1, multiplicity=2), data_dir)
    assert "CHARGE 1" in text
    assert "MULTIPLICITY 2" in text
    assert "UKS .TRUE." in text


def test_frame_input_is_itself_valid_cp2k_input(write, data_dir):
    text = frame_input(read_level(write(LEVEL)), water(), data_dir)
    with pytest.raises(InputError, match="COORD: belongs to the structure"):
        read_level(write(text, "frame.inp"))


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (water(edge=None), r"structure water: no box.*`box_A`.*at least 5.5 Å"),
        (water(edge=5), r"structure water: box_A = 5: the molecule extends over 1.53 Å"),
        (water(charge=1), r"charge = 1, multiplicity = 1: impossible with 7 valence .* even"),
        (water(multiplicity=2), r"impossible with 8 valence electrons; expected an odd"),
        (water(charge=8, multiplicity=3), r"impossible with 0 valence electrons"),
    ],
)
def test_impossible_frames_are_refused(write, data_dir, atoms, expected):
    with pytest.raises(InputError, match=expected):
        frame_input(read_level(write(LEVEL)), atoms, data_dir)


def test_partial_periodicity_is_refused(write, data_dir):
    atoms = water()
    atoms.pbc = [True, True, False]
    with pytest.raises(InputError, match="expected periodic along all three vectors or none"):
        frame_input(read_level(write(LEVEL)), atoms, data_dir)


def test_mt_solver_needs_twice_the_molecule(write, data_dir):
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 5]], cell=[9.5] * 3)
    atoms.info = {"charge": 0, "multiplicity": 1}
    frame_input(read_level(write(LEVEL)), atoms, data_dir)
    with pytest.raises(InputError, match=r"expected at least 10.0 Å"):
        frame_input(read_level(write(LEVEL.replace("WAVELET", "MT"))), atoms, data_dir)


def test_good_output_becomes_a_label_in_ev():
    output = (DATA / "methanol_2023.1.out").read_text()
    outcome = read_result(output, (DATA / "methanol_2023.1.forces").read_text(), 6)
    assert outcome.status is Status.OK
    assert outcome.scf_steps == 22
    # CODATA 2014: 27.21138602 eV, 0.52917721067 Å. Numbers as the files show them.
    assert outcome.energy == pytest.approx(-24.021264269760195 * 27.21138602, abs=1e-6)
    first = (DATA / "methanol_2023.1.forces").read_text().split("\n")[4].split()[3:]
    expected = np.array(first, dtype=float) * 27.21138602 / 0.52917721067
    assert outcome.forces.shape == (6, 3)
    assert np.allclose(outcome.forces[0], expected, atol=1e-6)


def test_unconverged_output_is_no_label_although_it_has_energy_and_banner():
    output = (DATA / "unconverged_2023.1.out").read_text()
    assert "ENERGY|" in output
    assert "PROGRAM ENDED" in output
    outcome = read_result(output, (DATA / "methanol_2023.1.forces").read_text(), 6)
    assert outcome.status is Status.UNCONVERGED
    assert outcome.energy is None
    assert outcome.scf_steps == 2
    assert "SCF run NOT converged" in outcome.message


def test_abort_is_told_in_cp2k_words():
    output = (DATA / "abort_2023.1.out").read_text()
    outcome = read_result(output, "", 6)
    assert outcome.status is Status.CRASHED
    assert outcome.message.startswith("found an unknown keyword EPS_SCFX in section SCF")


def test_abort_after_nonconvergence_counts_as_unconverged():
    box = (DATA / "abort_2023.1.out").read_text()
    text = "SCF run NOT converged. To continue the calculation"
    box = box.replace("found an unknown keyword EPS_SCFX in section SCF".ljust(50), text)
    assert "NOT converged" in abort_message(box)
    assert read_result(box, "", 6).status is Status.UNCONVERGED


def test_output_of_2025_is_read():
    output = (DATA / "methanol_2023.1.out").read_text()
    output = output.replace("[a.u.]:", "[hartree]")
    outcome = read_result(output, (DATA / "forces_2025.txt").read_text(), 2)
    assert outcome.status is Status.OK
    assert np.allclose(outcome.forces[0] / outcome.forces[1], -1)
    assert outcome.forces[0, 0] == pytest.approx(-1.97e-3 * 51.4220670, rel=1e-7)


def test_output_of_another_version_than_the_levels_is_no_label():
    output = (DATA / "methanol_2023.1.out").read_text()
    forces = (DATA / "methanol_2023.1.forces").read_text()
    named = (
        output
        if "CP2K| version string:" in output
        else (
            " CP2K| version string:                                          CP2K version 2023.1\n"
            + output
        )
    )
    for version in ("2023.1", "2023.1 git:abc123", ""):
        assert read_result(named, forces, 6, version=version).status is Status.OK
    outcome = read_result(named, forces, 6, version="2024.1")
    assert outcome.status is Status.CRASHED
    assert outcome.message == "the output is of CP2K 2023.1, the level of theory of 2024.1"


@pytest.mark.parametrize(
    ("stdout", "exit_status", "expected"),
    [
        ("", -9, "killed by SIGKILL (out of memory, perhaps, or ended by the queueing system)"),
        ("", -25, "killed by SIGXFSZ (a file became larger than the limit on files allows)"),
        (
            "At line 3 of x.F\nFortran runtime error: No space left on device\n#0 0x7f\n#1 0x7e\n",
            2,
            "Fortran runtime error: No space left on device",
        ),
        ("srun: error: node1: task 0: Out Of Memory\n", 137, ""),
        ("Error allocating 1073741824 bytes\nError termination: Out of memory\n", 1, "memory"),
    ],
)
def test_what_ended_cp2k_is_said(stdout, exit_status, expected):
    outcome = read_result(" SCF WAVEFUNCTION", "", 2, stdout=stdout, exit_status=exit_status)
    assert outcome.status is Status.CRASHED
    assert outcome.message.startswith("CP2K ended")
    assert expected in outcome.message


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda output, forces: (
                output + "\n ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]: 1.0",
                forces,
            ),
            "CP2K wrote 2 energies",
        ),
        (
            lambda output, forces: (output, forces.replace("[a.u.]", "[eV/A]")),
            "forces has an unknown format",
        ),
        (lambda output, forces: (output.replace("SCF run converged", ""), forces), "whether SCF"),
        (lambda output, forces: (output.split(" ENERGY|")[0], forces), "no energy"),
        (lambda output, forces: (output.replace("-24.0212642", "NaN"), forces), "energy is nan"),
        (lambda output, forces: (output, forces.rsplit("\n", 3)[0]), "5 forces for 6 atoms"),
        (lambda output, _forces: (output, ""), "0 forces for 6 atoms"),
        (lambda output, forces: (output, forces.replace("0.1", "***")), "not a finite number"),
        (lambda _output, forces: ("", forces), "last lines: nothing"),
    ],
)
def test_incomplete_output_is_never_a_label(spoil, expected):
    output = (DATA / "methanol_2023.1.out").read_text()
    forces = (DATA / "methanol_2023.1.forces").read_text()
    outcome = read_result(*spoil(output, forces), 6)
    assert outcome.status is Status.CRASHED
    assert expected in outcome.message


def test_entry_hash_does_not_depend_on_names():
    first, second = Entry("H", ("A",), "1\n2"), Entry("H", ("B", "C"), "1\n2")
    assert first.sha256 == second.sha256
    assert first.sha256 != Entry("He", ("A",), "1\n2").sha256


@pytest.fixture
def program(tmp_path):
    """Build a stand-in for CP2K that only tells its version."""

    def make(says="CP2K version 2099.1", name="cp2k.fake"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\nprintf '%s\\n' {shlex.quote(says)}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


def reference(level, **settings):
    return make_reference(Cp2kReference(backend="cp2k", level=level, **settings))


def test_level_has_program_and_version(write, data_dir, program):
    level = reference(write(LEVEL), command=program(), data_dir=data_dir).level
    assert (level["program"], level["version"]) == ("CP2K", "2099.1")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("no-such-cp2k", r"command = 'no-such-cp2k': no program 'no-such-cp2k'"),
        ("mpirun-missing -n 2 cp2k.psmp", r"no program 'mpirun-missing'"),
        ("cat", r"does not name a CP2K version"),
    ],
)
def test_wrong_command_is_refused(write, data_dir, command, expected):
    with pytest.raises(InputError, match=expected):
        reference(write(LEVEL), command=command, data_dir=data_dir).check([water()])


def test_launcher_without_cp2k_is_refused(write, data_dir, program):
    launcher = program(name="mpirun")
    with pytest.raises(InputError, match=r"mpirun is there, but not 'cp2k.nowhere'"):
        reference(write(LEVEL), command=f"{launcher} -n 2 cp2k.nowhere", data_dir=data_dir).check(
            [water()]
        )


def test_unbalanced_quote_in_command_is_refused(write):
    with pytest.raises(InputError, match="No closing quotation"):
        reference(write(LEVEL), command="cp2k.psmp 'oops")


def test_missing_data_folder_is_refused(write, program, tmp_path, monkeypatch):
    settings = {"command": program(), "data_dir": tmp_path / "nowhere"}
    with pytest.raises(InputError, match=r"data_dir = .*nowhere': no such folder"):
        reference(write(LEVEL), **settings).check([water()])
    monkeypatch.setenv("CP2K_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match=r"CP2K_DATA_DIR = .*elsewhere': no such folder"):
        reference(write(LEVEL), command=program()).check([water()])


def test_compiled_in_data_folder_is_found_where_the_answer_wraps(
    write, program, data_dir, monkeypatch
):
    monkeypatch.delenv("CP2K_DATA_DIR", raising=False)
    half = len(str(data_dir)) // 2
    wrapped = f"{str(data_dir)[:half]}\n   {str(data_dir)[half:]}"
    command = program(f'CP2K version 2099.1\n compiler options:\n   -O2 -D __DATA_DIR="{wrapped}"')
    assert "H" in reference(write(LEVEL), command=command).level["entries"]


def test_input_that_cp2k_itself_refuses_is_refused(write, data_dir, program):
    with pytest.raises(InputError, match=r"CP2K 2099.1 does not accept it"):
        reference(write(LEVEL), command=program(), data_dir=data_dir).check([water()])
