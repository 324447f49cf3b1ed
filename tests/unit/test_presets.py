"""Sizes of model that have a name: what they set, what overrules them, and what stays as it was."""

import pytest

from halcyon import config
from halcyon.config import ModelSettings, Settings, TrainingSettings
from halcyon.config.model_size import in_words
from halcyon.config.presets import PRESETS, recommended
from halcyon.errors import InputError

LEAST = {"campaign": "mine", "systems": ["water"], "reference": {"backend": "xtb"}}
WATER = {
    "name": "water",
    "forcefield": {"kind": "forcefield_xml", "files": ["water.xml"]},
    "structures": [{"name": "water", "smiles": "O"}],
}


def campaign(**changed):
    return config.parse_campaign(LEAST | changed, "mine.yaml")


def fault(**changed) -> str:
    with pytest.raises(InputError) as caught:
        campaign(**changed)
    return str(caught.value)


def settings_of(overrides, **changed) -> Settings:
    return config.settings_for(campaign(**changed), config.System(**WATER, overrides=overrides))


def test_without_a_preset_files_are_as_before():
    plain = campaign().model_dump(mode="json")
    assert "preset" not in plain["model"]
    assert "preset" not in ModelSettings(channels=8).model_dump()
    assert plain["model"] == {
        "channels": 16,
        "max_L": 0,
        "layers": 2,
        "correlation": 2,
        "r_max_A": 4.0,
        "radial_basis": 8,
        "dtype": "float32",
        "pair_repulsion": False,
    }
    assert plain["training"]["updates"] == [900, 4000]


def test_quick_is_the_default_by_name():
    named = campaign(model={"preset": "quick"})
    assert named.model.model_copy(update={"preset": None}) == campaign().model
    assert named.training == campaign().training
    assert named.pretraining == campaign().pretraining


@pytest.mark.parametrize(("preset", "channels", "max_L"), [("standard", 64, 0), ("large", 128, 1)])
def test_a_preset_sets_size_and_length_of_training(preset, channels, max_L):
    named = campaign(model={"preset": preset})
    assert (named.model.channels, named.model.max_L) == (channels, max_L)
    assert (named.model.correlation, named.model.r_max_A) == (3, 5.0)
    assert named.training.updates[0] > campaign().training.updates[0]
    assert ModelSettings(preset=preset).channels == channels
    again = config.parse_campaign(named.model_dump(mode="json"), "campaign.json")
    assert again == named


def test_a_setting_beside_a_preset_overrules_it_and_is_named():
    named = campaign(model={"preset": "standard", "channels": 32}, training={"epochs": 7})
    assert (named.model.channels, named.model.correlation) == (32, 3)
    assert (named.training.epochs, named.training.learning_rate) == (7, 0.01)
    words = in_words(named)
    assert "model.channels: 32, not 64" in words
    assert "training.epochs: 7, not 200" in words
    assert "differs" not in in_words(campaign(model={"preset": "standard"}))
    assert in_words(campaign()) == "16 × 0e, correlation 2, cutoff 4 Å"
    assert "128 × 0e + 128 × 1o" in in_words(campaign(model={"preset": "large"}))


def test_a_system_chooses_a_preset_of_its_own():
    alone = settings_of({"model": {"preset": "large"}})
    assert alone.model.channels == 128
    assert alone.training == campaign(model={"preset": "large"}).training
    changed = settings_of({"model": {"preset": "large"}}, model={"preset": "standard"})
    assert changed == alone
    chosen = settings_of(
        {"model": {"preset": "standard"}}, model={"channels": 24}, training={"batch_size": 3}
    )
    assert (chosen.model.channels, chosen.model.correlation) == (24, 3)
    assert (chosen.training.batch_size, chosen.training.epochs) == (3, 200)
    small = settings_of({"model": {"channels": 40}}, model={"preset": "standard"})
    assert (small.model.channels, small.model.r_max_A) == (40, 5.0)


def test_faults_are_explained():
    assert fault(model={"preset": "standart"}).endswith("did you mean 'standard'?")
    message = fault(model={"preset": "large"}, pretraining={"start": "off.model"})
    assert "model.preset = 'large': pretraining.start = 'off.model'" in message
    with pytest.raises(InputError, match=r"pretraining\.start"):
        settings_of({"pretraining": {"start": "off.model"}}, model={"preset": "large"})


def test_every_value_of_a_preset_is_a_key_with_another_default():
    for sections in PRESETS.values():
        for section, values in sections.items():
            fields = Settings.model_fields[section].annotation.model_fields
            assert set(values) <= set(fields)
    assert TrainingSettings(**PRESETS["standard"]["training"]).epochs == 200


@pytest.mark.parametrize(
    ("atoms", "device", "trial", "preset"),
    [
        (9, "cpu", True, "quick"),
        (9, "cpu", False, "standard"),
        (192, "cpu", False, "quick"),
        (192, "cuda", False, "large"),
        (3000, "cuda", False, "standard"),
    ],
)
def test_size_and_device_choose(atoms, device, trial, preset):
    name, why = recommended(atoms, device=device, trial=trial)
    assert name == preset
    assert trial or str(atoms) in why
