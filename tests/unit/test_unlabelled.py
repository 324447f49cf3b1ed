"""Structures that are pre-trained on and not labelled (`label: false`)."""

import pytest
from pydantic import ValidationError

from halcyon import config
from halcyon.campaign import work
from halcyon.campaign.campaign import SystemPlan
from halcyon.campaign.checks import check_numbers
from halcyon.campaign.identity import _structure_identity
from halcyon.errors import InputError

SETTINGS = config.Campaign(campaign="it", systems=["thing"], reference={"backend": "xtb"})
PEROXIDE = {"name": "peroxide", "smiles": "OO"}
HYDROGEN = {"name": "hydrogen", "smiles": "[H][H]", "label": False}


def plan(*structures, kind="reactive"):
    system = config.System(
        name="thing",
        kind=kind,
        forcefield={"kind": "forcefield_xml", "files": ["x.xml"]},
        structures=list(structures),
    )
    return SystemPlan(system, SETTINGS)


def test_it_is_sampled_and_nothing_else():
    with_it, without = plan(PEROXIDE, HYDROGEN), plan(PEROXIDE)
    assert with_it.sampled == ["peroxide", "hydrogen"]
    assert with_it.labelled == with_it.explored == ["peroxide"]
    assert with_it.seed_labels == without.seed_labels
    for stage in ("label", "train", "explore", "select"):
        assert work.units(with_it, stage, 0) == work.units(without, stage, 0)
    assert work.calculations(with_it, None) == work.calculations(without, None)
    assert work.units(with_it, "forcefield", None) == 2 * work.units(without, "forcefield", None)
    assert work.pretrained_frames(with_it) == 2 * work.pretrained_frames(without)


def test_a_part_of_a_box_need_not_be_sampled_at_all():
    box = {"name": "box", "pack": {"water": 3}, "density_g_per_cm3": 0.3}
    water = {"name": "water", "smiles": "O", "label": False, "pretrain": False}
    assert plan(box, water).sampled == ["box"]


@pytest.mark.parametrize(
    ("structure", "words"),
    [
        ({"explore": True}, "hydrogen: label = false: expected `explore: false`"),
        ({"pretrain": False}, "hydrogen: label = false, pretrain = false, .*nothing would be done"),
    ],
)
def test_what_does_not_go_together_is_refused(structure, words):
    with pytest.raises(ValidationError, match=words):
        plan(PEROXIDE, HYDROGEN | structure)


def test_something_must_be_labelled():
    with pytest.raises(ValidationError, match="at least one must have `explore: true`"):
        plan(HYDROGEN)


def test_each_element_needs_a_label():
    ammonia = {"name": "ammonia", "smiles": "N", "label": False}
    with pytest.raises(
        InputError, match=r"it\.yaml: .*ammonia: label = false: .* has N: the energy"
    ):
        check_numbers(plan(PEROXIDE, HYDROGEN, ammonia), "it.yaml")


def test_its_atoms_belong_to_the_domain_where_they_have_no_class_of_their_own():
    assert plan(PEROXIDE, HYDROGEN).classes_of_domain() == {
        "peroxide": ["O", "O", "H", "H"],
        "hydrogen": ["H", "H"],
    }
    by_symmetry = plan(PEROXIDE, HYDROGEN, kind="molecule").classes_of_domain()
    assert list(by_symmetry) == ["peroxide"]


def test_a_campaign_that_does_not_use_it_keeps_its_identity():
    assert "label" not in _structure_identity(config.StructureSettings(**PEROXIDE))
    assert _structure_identity(config.StructureSettings(**HYDROGEN))["label"] is False
