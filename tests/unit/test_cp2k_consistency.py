"""Levels of theory that contradict themselves are refused while they are read."""

from pathlib import Path

import pytest

from halcyon.campaign.campaign import Campaign
from halcyon.errors import InputError
from halcyon.labels.reference.cp2k.consistency import check_grid, functional
from halcyon.labels.reference.cp2k.level import read_level

pytestmark = pytest.mark.usefixtures("cp2k_schema_read_once")

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "config/cp2k").glob("*.yaml"))
SMALL = ROOT / "tests/data/cp2k/small.yaml"
PBE = (ROOT / "config/cp2k/pbe-d3-dzvp.yaml").read_text()
REVPBE = (ROOT / "config/cp2k/revpbe-d3-dzvp.yaml").read_text()
PBE0 = (ROOT / "config/cp2k/pbe0-d3-admm.yaml").read_text()
BLYP = (
    PBE.replace("_: PBE", "_: BLYP")
    .replace("reference_functional: PBE", "reference_functional: BLYP")
    .replace("GTH-PBE", "GTH-BLYP")
)
OWN_NUMBERS = "reference_functional: PBE\n          d3bj_scaling: [1.0, 0.4289, 0.7875, 4.4407]"


@pytest.fixture
def read(tmp_path):
    def read(text, *changes):
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / "level.yaml"
        path.write_text(text)
        return read_level(path)

    return read


@pytest.mark.parametrize("path", [*SHIPPED, SMALL], ids=lambda path: path.stem)
def test_levels_of_this_repository_are_accepted(path):
    level = read_level(path)
    check_grid(path, level.dft, level.kinds)


def test_functionals_are_recognised(read):
    names = [functional(read(text).dft) for text in (PBE, REVPBE, PBE0, BLYP)]
    assert names == ["PBE", "revPBE", "PBE0", "BLYP"]
    libxc = ("        _: PBE\n", "        mgga_x_r2scan: {}\n        mgga_c_r2scan: {}\n")
    r2scan = ("reference_functional: PBE", "reference_functional: r2SCAN")
    assert functional(read(PBE, libxc, r2scan).dft) == "r2SCAN"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (BLYP, []),
        (PBE, [("reference_functional: PBE", OWN_NUMBERS)]),
        (PBE, [("reference_functional: PBE", "reference_functional: pbe")]),
        (PBE, [("eps_scf: 1.0E-6", "eps_scf: 1.0E-5")]),
        # There are no pseudopotentials of B3LYP, revPBE0 and PBEsol for most elements.
        (PBE, [("_: PBE", "_: B3LYP"), ("reference_functional: PBE", "verbose_output: false")]),
        (
            PBE0,
            [
                ("scale_x: 0.75", "scale_x: 0.75\n          parametrization: REVPBE"),
                ("reference_functional: PBE0", "reference_functional: revPBE0"),
            ],
        ),
        (REVPBE, [("REVPBE", "PBESOL"), ("l: revPBE", "l: PBEsol")]),
        # A quarter of exact exchange is PBE0; of another hybrid we know no name, so say nothing.
        (PBE0, [("fraction: 0.25", "fraction: 0.3")]),
        (PBE, [("GTH-PBE", "GTH-GGA")]),
    ],
)
def test_what_the_field_does_is_accepted(read, text, changes):
    read(text, *changes)


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        (
            PBE,
            [("reference_functional: PBE", "reference_functional: BLYP")],
            r"PAIR_POTENTIAL: REFERENCE_FUNCTIONAL = BLYP: contradicts XC_FUNCTIONAL, which is "
            r"PBE.*write REFERENCE_FUNCTIONAL PBE, or",
        ),
        (
            REVPBE,
            [("reference_functional: revPBE", "reference_functional: PBE")],
            r"REFERENCE_FUNCTIONAL = PBE: contradicts .*revPBE.*write REFERENCE_FUNCTIONAL revPBE",
        ),
        (
            PBE0,
            [("reference_functional: PBE0", "reference_functional: PBE")],
            r"REFERENCE_FUNCTIONAL = PBE: contradicts .*write REFERENCE_FUNCTIONAL PBE0",
        ),
        (
            BLYP,
            [("reference_functional: BLYP", OWN_NUMBERS.split("\n")[1].strip())],
            r"D3BJ_SCALING = 1 0.4289 0.7875 4.4407: those are the parameters of PBE, .*is BLYP",
        ),
        (
            BLYP,
            [("reference_functional: BLYP", "d3_scaling: [1.0, 1.217, 0.722]")],
            r"D3_SCALING = 1 1.217 0.722: those are the parameters of PBE, .*is BLYP",
        ),
        (
            PBE,
            [("potential: GTH-PBE-q6", "potential: GTH-BLYP-q6")],
            r"KIND [OS]: POTENTIAL = GTH-BLYP-q6: was made for BLYP, which contradicts "
            r"XC_FUNCTIONAL, which is PBE; write GTH-PBE-q6",
        ),
        (BLYP, [("GTH-BLYP-q1", "GTH-PBE-q1")], r"KIND H: POTENTIAL = GTH-PBE-q1.*GTH-BLYP-q1"),
        (PBE, [("GTH-PBE-q4", "GTH-PADE-q4")], r"KIND C: .*made for PADE.*write GTH-PBE-q4"),
        (REVPBE, [("GTH-PBE-q4", "GTH-BLYP-q4")], r"KIND C: .*which is revPBE; write GTH-PBE-q4"),
        (
            PBE,
            [("eps_scf: 1.0E-6", "eps_scf: 1.0E-3")],
            r"DFT/SCF: EPS_SCF = 0.001: too loose for forces.*Write 1.0E-6",
        ),
        (
            PBE,
            [("outer_scf:\n        eps_scf: 1.0E-6", "outer_scf:\n        eps_scf: 1.0E-4")],
            r"DFT/SCF/OUTER_SCF: EPS_SCF = 0.0001: too loose",
        ),
    ],
)
def test_a_contradiction_is_refused_with_what_to_write(read, tmp_path, text, changes, expected):
    with pytest.raises(InputError, match=expected) as caught:
        read(text, *changes)
    assert str(caught.value).startswith(f"{tmp_path}/level.yaml: FORCE_EVAL/")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("cutoff: 300", "cutoff: 150"), r"MGRID: CUTOFF = 150 Ry.*C, N, O and F.*least 200 Ry"),
        (("rel_cutoff: 50", "rel_cutoff: 20"), r"MGRID: REL_CUTOFF = 20 Ry.*at least 30 Ry"),
    ],
)
def test_a_coarse_grid_is_refused_where_net_forces_are_checked(
    tmp_path, monkeypatch, change, expected
):
    level = tmp_path / "level.yaml"
    level.write_text(PBE.replace(*change))
    monkeypatch.chdir(ROOT)

    def campaign(**sanity):
        return Campaign.resolve(
            {
                "campaign": "coarse",
                "systems": ["ethanol"],
                "reference": {"backend": "cp2k", "level": str(level)},
                **({"sanity": sanity} if sanity else {}),
            },
            "config.yaml",
        )

    with pytest.raises(InputError, match=expected):
        campaign().reference()
    campaign(net_force_eV_per_A=None).reference()


def test_grids_of_all_electron_levels_and_of_hydrogen_are_left_alone(read):
    gapw = read(
        PBE,
        ("cutoff: 300", "cutoff: 120"),
        ("      eps_default", "      method: GAPW\n      eps_default"),
    )
    check_grid(gapw.path, gapw.dft, gapw.kinds)
    small = read_level(SMALL)
    assert small.dft["+MGRID"]["CUTOFF"] == 120
    check_grid(SMALL, small.dft, small.kinds)
