"""The rungs of CP2K's rescue ladder as input, and who climbs it. Nothing here starts CP2K."""

import copy
import typing

import pytest

from halcyon.config.reference import Rung
from halcyon.labels.reference.base import Status
from halcyon.labels.reference.cp2k.calculation import may_be_rescued
from halcyon.labels.reference.cp2k.output import Cp2kResult
from halcyon.labels.reference.cp2k.rescue import RUNGS, STEPS, rescue_tree


def tree(**scf):
    return {
        "+GLOBAL": {"RUN_TYPE": "ENERGY_FORCE"},
        "+FORCE_EVAL": [
            {
                "+DFT": {
                    "MULTIPLICITY": 1,
                    "+MGRID": {"CUTOFF": 300.0},
                    "+SCF": {"EPS_SCF": 1e-6, "MAX_SCF": 2, "SCF_GUESS": "ATOMIC", **scf},
                    "+XC": {"+XC_FUNCTIONAL": {"_": "PBE"}},
                },
                "+SUBSYS": {"+COORD": {"*": ["H 0 0 0"]}},
                "+PRINT": {"+FORCES": {"_": "ON"}},
            }
        ],
    }


def test_the_configuration_knows_every_rung():
    assert set(typing.get_args(Rung)) == set(RUNGS)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_changes_the_road_and_not_the_frame(rung):
    before = tree()
    kept = copy.deepcopy(before)
    changed = rescue_tree(before, rung)
    assert before == kept  # the label is computed from it, later
    assert changed["+GLOBAL"]["RUN_TYPE"] == "ENERGY"
    dft, own = changed["+FORCE_EVAL"][0]["+DFT"], kept["+FORCE_EVAL"][0]["+DFT"]
    assert changed["+FORCE_EVAL"][0]["+SUBSYS"] == kept["+FORCE_EVAL"][0]["+SUBSYS"]
    assert dft["+XC"] == own["+XC"]
    assert dft["+SCF"]["EPS_SCF"] == own["+SCF"]["EPS_SCF"]
    loops = dft["+SCF"].get("+OUTER_SCF", {}).get("MAX_SCF", 1)
    assert dft["+SCF"]["MAX_SCF"] * loops == STEPS
    assert dft != own
    assert (dft["+MGRID"] == own["+MGRID"]) == (rung != "finer_grid")


def test_more_steps_keep_the_minimiser():
    minimiser = {"_": True, "MINIMIZER": "DIIS"}
    scf = rescue_tree(tree(**{"+OT": minimiser}), "more_steps")["+FORCE_EVAL"][0]["+DFT"]["+SCF"]
    assert scf["+OT"] == minimiser
    assert scf["+OUTER_SCF"]["EPS_SCF"] == scf["EPS_SCF"]


def test_smearing_keeps_the_multiplicity():
    before = tree()
    before["+FORCE_EVAL"][0]["+DFT"] |= {"UKS": True, "MULTIPLICITY": 3}
    smear = rescue_tree(before, "smearing")["+FORCE_EVAL"][0]["+DFT"]["+SCF"]["+SMEAR"]
    assert smear["FIXED_MAGNETIC_MOMENT"] == 2.0


@pytest.mark.parametrize(
    ("outcome", "rescued"),
    [
        (Cp2kResult(status=Status.UNCONVERGED), True),
        (Cp2kResult(status=Status.CRASHED, message="Cholesky decompose failed"), True),
        (
            Cp2kResult(status=Status.CRASHED, message="GEOMETRY wrong or EMAX_SPLINE too small!"),
            False,
        ),
        (Cp2kResult(status=Status.TIMEOUT), False),
        (Cp2kResult(status=Status.REJECTED), False),
    ],
)
def test_only_what_another_road_may_help_is_rescued(outcome, rescued):
    assert may_be_rescued(outcome) is rescued
