"""Single atoms, ions mostly, as structures: packed with others, never sampled alone."""

from dataclasses import replace

import pytest
from ase import Atoms

from halcyon import config
from halcyon.campaign.campaign import SystemPlan
from halcyon.campaign.checks import check_numbers
from halcyon.commands.plan import trial
from halcyon.errors import InputError
from halcyon.teacher.forcefield import make_teacher

SETTINGS = config.Campaign(campaign="it", systems=["salty"], reference={"backend": "xtb"})


def salty(**ion) -> SystemPlan:
    system = config.System(
        name="salty",
        kind="liquid",
        forcefield={"kind": "forcefield_xml", "files": ["amber14/tip3p.xml"]},
        structures=[
            {"name": "box", "pack": {"ion": 1, "water": 8}, "box_A": 7.0, "charge": 1},
            {"name": "ion", "smiles": "[Na+]", "charge": 1, "explore": False} | ion,
            {"name": "water", "smiles": "O", "explore": False},
        ],
    )
    return SystemPlan(system, SETTINGS)


def test_no_frames_and_no_labels_of_an_atom_alone():
    plan = salty()
    assert plan.sampled == ["box", "water"]
    seed = plan.settings.seed_labels
    assert plan.seed_labels == 2 * (seed.train + seed.validation + seed.test)


def test_an_atom_is_not_explored():
    with pytest.raises(InputError, match="structure ion: a single atom has no dynamics"):
        check_numbers(salty(explore=True), "it.yaml")


def test_an_atom_alone_is_nothing_to_pretrain_on():
    plan = salty()
    structures = [
        s.model_copy(update={"pretrain": s.name == "ion"}) for s in plan.system.structures
    ]
    plan = replace(plan, system=plan.system.model_copy(update={"structures": structures}))
    with pytest.raises(InputError, match="nothing to pre-train on"):
        check_numbers(plan, "it.yaml")


def test_two_templates_for_one_ion_are_an_error_that_says_so():
    iron = Atoms("Fe", info={"structure": "iron"})
    files = config.XmlForceField(kind="forcefield_xml", files=["amber14/tip3p.xml"])
    with pytest.raises(InputError, match=r"structure iron: forcefield: .*FE, FE2.*Use a file"):
        make_teacher(files, iron, [])


def test_a_trial_of_the_force_field_leaves_an_atom_alone_out(monkeypatch):
    """The campaign's own job does not sample it, so no force field need know it by itself."""
    sampled = []
    monkeypatch.setattr(trial, "sampled", lambda _plan, names, _frames: sampled.append(names) or [])
    trial.forcefield(salty(), tiny=True)
    trial.forcefield(salty(), tiny=False)
    assert sampled == [["water"], ["box", "water"]]
