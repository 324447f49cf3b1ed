"""The configuration: generated files in sync, shipped files valid, messages that help."""

import json
import re

import jsonschema
import pytest
import yaml

import generate_config_docs as generator
from conftest import ROOT
from halcyon import config
from halcyon.errors import InputError

CAMPAIGNS = sorted((ROOT / "config").glob("*.yaml"))
SYSTEMS = sorted((ROOT / "config/systems").glob("*.yaml"))
LEAST = {"campaign": "mine", "systems": ["water"], "reference": {"backend": "xtb"}}
WATER = {
    "name": "water",
    "forcefield": {"kind": "forcefield_xml", "files": ["water.xml"]},
    "structures": [{"name": "water", "smiles": "O"}],
}


def schema(name):
    return json.loads((ROOT / f"config/schema/{name}.schema.json").read_text(encoding="utf-8"))


def campaign_fault(**changed) -> str:
    """The message about a campaign that differs from a good one."""
    with pytest.raises(InputError) as caught:
        config.parse_campaign(LEAST | changed, "mine.yaml")
    return str(caught.value)


def system_fault(tmp_path, file="water", **changed) -> str:
    """The message about a system's file that differs from a good one."""
    path = tmp_path / f"{file}.yaml"
    path.write_text(yaml.safe_dump(WATER | changed), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        config.read_system(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def override_fault(overrides) -> str:
    """The message about a system's overrides."""
    campaign = config.parse_campaign(LEAST, "mine.yaml")
    system = config.System(**WATER, overrides=overrides)
    with pytest.raises(InputError) as caught:
        config.settings_for(campaign, system, "config/systems/water.yaml")
    return str(caught.value)


# What is generated, and what is shipped.


def test_generated_files_are_in_sync():
    assert generator.out_of_date() == [], "run python scripts/generate_config_docs.py"


def test_check_names_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generator, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["generate_config_docs.py"])
    generator.main()
    (tmp_path / "config/config.yaml").write_text("campaign: other\n", encoding="utf-8")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["generate_config_docs.py", "--check"])
    with pytest.raises(SystemExit) as left:
        generator.main()
    assert left.value.code == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        "config/config.yaml"
    ]


def test_config_yaml_holds_every_default():
    content = config.read_yaml(ROOT / "config/config.yaml")
    least = {key: content[key] for key in ("campaign", "systems")}
    least["reference"] = {"backend": content["reference"]["backend"]}
    assert config.parse_campaign(content, "config.yaml") == config.parse_campaign(least, "least")
    assert content.keys() == config.Campaign.model_fields.keys()
    for name, section in config.Settings.model_fields.items():
        fields = section.annotation.model_fields.items()
        assert content[name].keys() == {field.alias or key for key, field in fields}


def test_commented_reference_of_config_yaml_is_valid():
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    block = re.search(r"^# Or, with cp2k:\n((?:#.*\n)+)", text, re.MULTILINE)[1]
    content = yaml.safe_load("\n".join(line[2:] for line in block.splitlines()))
    reference = config.parse_campaign(LEAST | content, "config.yaml").reference
    assert isinstance(reference, config.Cp2kReference)
    assert (ROOT / reference.level).exists()


@pytest.mark.parametrize("kind", ["ramp", "metadynamics"])
def test_commented_bias_of_config_yaml_is_valid(kind):
    text = (ROOT / "config/config.yaml").read_text(encoding="utf-8")
    block = re.search(rf"^  # Or, with {kind}:\n((?:  #.*\n)+)", text, re.MULTILINE)[1]
    content = yaml.safe_load("\n".join(line[4:] for line in block.splitlines()))
    campaign = config.parse_campaign(LEAST | {"exploration": content}, "config.yaml")
    assert campaign.exploration.bias.kind == kind
    jsonschema.validate(LEAST | {"exploration": content}, schema("campaign"))


@pytest.mark.parametrize("path", CAMPAIGNS, ids=lambda path: path.stem)
def test_shipped_campaigns_are_valid(path):
    content = config.read_yaml(path)
    jsonschema.validate(content, schema("campaign"))
    campaign = config.parse_campaign(content, str(path))
    assert all(
        (ROOT / campaign.systems_folder / f"{name}.yaml").exists() for name in campaign.systems
    )


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_shipped_systems_are_valid(path):
    jsonschema.validate(config.read_yaml(path), schema("system"))
    campaign = config.parse_campaign(LEAST, "mine.yaml")
    config.settings_for(campaign, config.read_system(path))


@pytest.mark.parametrize("path", CAMPAIGNS + SYSTEMS, ids=lambda path: path.stem)
def test_editors_find_the_schema(path):
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.partition("$schema=")[2]).exists()


@pytest.mark.parametrize("name", ["campaign", "system"])
def test_schema_itself_is_valid(name):
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_schema_refuses_what_the_models_refuse():
    valid = jsonschema.Draft202012Validator(schema("system")).is_valid
    assert valid(WATER | {"overrides": {"model": {"layers": 2}}})
    assert not valid(WATER | {"overrides": {"model": {"layer": 2}}})
    assert not valid(WATER | {"overrides": {"modell": {}}})
    assert not valid(WATER | {"kind": "gas"})


@pytest.mark.parametrize("model", [config.Campaign, config.System])
def test_every_key_is_described_with_its_unit(model):
    whole = generator.schema_of(model, "")
    for section in [whole, *whole["$defs"].values()]:
        for key, node in generator.keys_of(section, whole):
            assert node["description"], key
            wanted = generator.unit(key).replace("1/(atom ps)", "1/ps")
            assert wanted in node["description"], key


# Messages: file, key, value, expectation.


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"limit": {}}, "limit: unknown key; did you mean 'limits'?"),
        ({"label_budget": 9}, "label_budget = 9: unknown key; did you mean 'limits.label_budget'?"),
        (
            {"teacher": {"temperature_K": 300}},
            "teacher.temperature_K = 300: unknown key; did you mean 'temperatures_K'?",
        ),
        ({"model": {"layers": "two"}}, "model.layers = 'two': expected an integer"),
        ({"model": {"layers": 9}}, "model.layers = 9: expected at most 4"),
        ({"exploration": {"time_ps": 0}}, "exploration.time_ps = 0: expected greater than 0"),
        ({"pretraining": {"enabled": "si"}}, "pretraining.enabled = 'si': expected true or false"),
        ({"teacher": [1]}, "teacher = [1]: expected a section of `key: value` lines"),
        ({"systems": "water"}, "systems = 'water': expected a list, e.g. [water]"),
        ({"systems": []}, "systems = []: expected at least 1 in the list"),
        ({"systems": ["../a"]}, "systems.0 = '../a': expected a name of letters, digits, _ and -"),
        (
            {"teacher": {"displacement_A": [0.1]}},
            "teacher.displacement_A = [0.1]: expected more values, got 1",
        ),
        (
            {"teacher": {"displacement_A": [0.3, 0.1]}},
            "teacher: displacement_A: expected [low, high], got (0.3, 0.1)",
        ),
        (
            {"domain": {"classes": "elements"}},
            "domain.classes = 'elements': expected 'auto', 'symmetry', 'element' or 'environment'; "
            "did you mean 'element'?",
        ),
        (
            {"domain": {"signals": ["latent", "committee"]}},
            "domain: committee: the signal `committee` needs the files of other models",
        ),
        (
            {"domain": {"signals": ["latnet"]}},
            "domain.signals.0 = 'latnet': expected 'node_energy', 'guard', 'latent', "
            "'latent_guard', 'committee', 'potential_energy' or 'bond_stretch'; "
            "did you mean 'latent'?",
        ),
        (
            {"reference": {"backend": "cp2kk"}},
            "reference.backend = 'cp2kk': expected 'cp2k' or 'pyscf' or 'xtb' or 'ase' or "
            "'dataset' or 'evc'; did you mean 'cp2k'?",
        ),
        (
            {"reference": {}},
            "reference.backend: missing; expected 'cp2k' or 'pyscf' or 'xtb' or 'ase' or 'dataset' "
            "or 'evc'",
        ),
        ({"reference": "xtb"}, "reference = 'xtb': expected a section of `key: value` lines"),
        (
            {"reference": {"backend": "xtb", "metod": "GFN1-xTB"}},
            "reference.metod = 'GFN1-xTB': unknown key; did you mean 'method'?",
        ),
    ],
)
def test_campaign_messages(changed, message):
    assert campaign_fault(**changed) == f"mine.yaml: {message}"


TORSION = {"kind": "torsion", "atoms": [0, 1, 2, 3], "sigma_deg": 20}
COORDINATION = {"kind": "coordination", "group_a": [0], "group_b": [1], "r0_A": 2, "sigma": 0.1}


def metadynamics(*variables, **changed):
    return {"bias": {"kind": "metadynamics", "variables": variables} | changed}


@pytest.mark.parametrize(
    ("exploration", "message"),
    [
        ({"bias": {}}, ".kind: missing; expected 'none' or 'ramp' or 'metadynamics'"),
        ({"bias": "ramp"}, " = 'ramp': expected a section of `key: value` lines"),
        (
            {"bias": {"kind": "metadynamic"}},
            ".kind = 'metadynamic': expected 'none' or 'ramp' or 'metadynamics'; "
            "did you mean 'metadynamics'?",
        ),
        ({"bias": {"kind": "none", "to_K": 4}}, ".to_K = 4: unknown key; expected one of kind"),
        ({"bias": {"kind": "ramp", "to_K": 0}}, ".to_K = 0: expected greater than 0"),
        (metadynamics(), ".variables = (): expected at least 1 in the list"),
        (metadynamics(TORSION, bias_factor=1), ".bias_factor = 1: expected greater than 1"),
        (
            metadynamics(TORSION, TORSION | {"kind": "angle"}),
            ".variables.1.kind = 'angle': expected 'distance' or 'coordination' or 'torsion'",
        ),
        (
            metadynamics({"atoms": [1, 2]}),
            ".variables.0.kind: missing; expected 'distance' or 'coordination' or 'torsion'",
        ),
        (metadynamics("x"), ".variables.0 = 'x': expected a section of `key: value` lines"),
        (
            metadynamics(TORSION | {"sigma": 9}),
            ".variables.0.sigma = 9: unknown key; did you mean 'sigma_deg'?",
        ),
        (
            metadynamics(TORSION | {"atoms": [0, 1, 2]}),
            ".variables.0.atoms = [0, 1, 2]: expected more values, got 3",
        ),
        (
            metadynamics(TORSION | {"atoms": [0, 1, 2, -3]}),
            ".variables.0.atoms.3 = -3: expected at least 0",
        ),
        (
            metadynamics(TORSION | {"atoms": [0, 1, 2, 0]}),
            ".variables.0: atoms: each may be named once, got [0, 1, 2, 0]",
        ),
        (
            metadynamics(COORDINATION | {"group_b": [1, 0]}),
            ".variables.0: atoms: each may be named once, got [0, 1, 0]",
        ),
        (
            metadynamics(TORSION, COORDINATION, TORSION | {"structure": "ice"}),
            ": variables: at most 2 for a structure, got 3 for structure ice",
        ),
    ],
)
def test_bias_messages(exploration, message):
    assert campaign_fault(exploration=exploration) == f"mine.yaml: exploration.bias{message}"


def test_two_variables_for_each_of_many_structures_are_fine():
    names = ["water", "ice"]
    variables = [one | {"structure": name} for name in names for one in (TORSION, COORDINATION)]
    campaign = config.parse_campaign(LEAST | {"exploration": metadynamics(*variables)}, "mine.yaml")
    assert [one.structure for one in campaign.exploration.bias.variables] == [
        "water",
        "water",
        "ice",
        "ice",
    ]


def test_bias_of_an_unknown_or_unexplored_structure():
    variables = [TORSION | {"structure": name} for name in ("water", "watr", "ice")]
    campaign = config.parse_campaign(LEAST | {"exploration": metadynamics(*variables)}, "mine.yaml")
    ice = {"name": "ice", "smiles": "O", "explore": False}
    system = config.System(**WATER | {"structures": [*WATER["structures"], ice]})
    with pytest.raises(InputError) as caught:
        config.settings_for(campaign, system, "config/systems/water.yaml")
    key = "config/systems/water.yaml: exploration.bias.variables"
    assert str(caught.value).splitlines() == [
        f"{key}.1.structure = 'watr': expected an explored structure of this system, one of water; "
        "did you mean 'water'?",
        f"{key}.2.structure = 'ice': expected an explored structure of this system, one of water",
    ]


def test_overrides_replace_the_bias_as_a_whole():
    campaign = config.parse_campaign(
        LEAST | {"exploration": {"bias": {"kind": "ramp", "to_K": 900, "time_ps": 1}}}, "mine.yaml"
    )
    system = config.System(**WATER, overrides={"exploration": metadynamics(TORSION)})
    assert config.settings_for(campaign, system).exploration.bias.kind == "metadynamics"
    untouched = config.settings_for(campaign, config.System(**WATER)).exploration.bias
    assert untouched == config.RampBias(kind="ramp", to_K=900, time_ps=1)


def test_missing_key_is_explained():
    with pytest.raises(InputError, match=r"^mine\.yaml: systems: missing; Systems, each with"):
        config.parse_campaign({k: v for k, v in LEAST.items() if k != "systems"}, "mine.yaml")
    assert "reference.level: missing; File with" in campaign_fault(reference={"backend": "cp2k"})


def test_each_fault_has_its_line():
    message = campaign_fault(seed=-1, model={"layers": 0})
    assert message.splitlines() == [
        "mine.yaml: model.layers = 0: expected at least 1",
        "mine.yaml: seed = -1: expected at least 0",
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"kind": "gas"},
            "kind = 'gas': expected 'molecule', 'liquid', 'reactive', 'solid' or 'slab'",
        ),
        (
            {"forcefield": "a.xml"},
            "forcefield = 'a.xml': expected a section of `key: value` lines",
        ),
        (
            {"forcefield": {"kind": "gaff"}},
            "forcefield.kind = 'gaff': expected 'gaff2' or 'forcefield_xml' or 'amber' or "
            "'gromacs' or 'gfnff' or 'xtb' or 'ase'; did you mean 'gaff2'?",
        ),
        (
            {"forcefield": {"kind": "amber", "prmtop": {"ice": "a.prmtop"}}},
            "forcefield.prmtop: ice: no such structure; expected water",
        ),
        (
            {"structures": [{"name": "a", "pack": {"b": 2}, "box_A": 9}]},
            "structure a: pack: b: expected structures of this file that are not packed",
        ),
        (
            {"structures": [{"name": "a", "pack": {"b": 2}}]},
            "structures.0: structure a: pack needs `density_g_per_cm3` or `box_A`",
        ),
        (
            {"structures": [{"name": "a", "pack": {"b": 2}, "box_A": 9, "density_g_per_cm3": 1}]},
            "structures.0: structure a: `density_g_per_cm3` and `box_A` both set",
        ),
        (
            {"structures": [{"name": "a", "smiles": "O", "density_g_per_cm3": 1}]},
            "structures.0: structure a: density_g_per_cm3: only for `pack`",
        ),
        ({"structures": [{"smiles": "O"}]}, "structures.0.name: missing; Name of the structure."),
        (
            {"structures": [{"name": "a", "smile": "O"}]},
            "structures.0.smile = 'O': unknown key; did you mean 'smiles'?",
        ),
        (
            {"structures": [{"name": "a"}]},
            "structures.0: structure a: give one of `smiles`, `file` and `pack`",
        ),
        ({"structures": [{"name": "a", "smiles": "O"}] * 2}, "structures: names must differ"),
        ({"overrides": {"model": 3}}, "overrides.model = 3: expected a section"),
    ],
)
def test_system_messages(tmp_path, changed, message):
    assert system_fault(tmp_path, **changed).startswith(message)


def test_name_must_be_the_file_s(tmp_path):
    message = system_fault(tmp_path, file="ice")
    assert message == "name: 'water': expected 'ice', as the file is called"


def test_unknown_section_in_overrides():
    message = override_fault({"modell": {"layers": 2}})
    assert message.startswith("config/systems/water.yaml: overrides.modell: unknown section")
    assert "model" in message.partition("expected")[2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"model": {"layers": 9}}, "model.layers = 9: expected at most 4"),
        ({"model": {"layer": 2}}, "model.layer = 2: unknown key; did you mean 'layers'?"),
    ],
)
def test_wrong_override_names_file_and_key(overrides, message):
    assert override_fault(overrides) == f"config/systems/water.yaml: overrides: {message}"


def test_overrides_change_only_what_they_name():
    campaign = config.parse_campaign(LEAST | {"model": {"channels": 32}}, "mine.yaml")
    system = config.System(**WATER, overrides={"model": {"layers": 3}})
    settings = config.settings_for(campaign, system)
    assert (settings.model.channels, settings.model.layers) == (32, 3)
    assert settings.training == campaign.training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("a: [", "not valid YAML"),
        ("- a\n", "expected `key: value` lines, got list"),
    ],
)
def test_unreadable_files(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        config.read_yaml(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("bias", "ensemble", "message"),
    [
        ({"kind": "ramp", "to_K": 900}, "nve", "thermostat"),
        (
            {
                "kind": "metadynamics",
                "variables": [{"kind": "distance", "atoms": [0, 1], "sigma_A": 0.1}],
            },
            "npt",
            "ensemble 'nvt'",
        ),
    ],
)
def test_a_bias_and_an_ensemble_that_do_not_go_together(bias, ensemble, message):
    with pytest.raises(ValueError, match=message):
        config.ExplorationSettings.model_validate({"bias": bias, "ensemble": ensemble})


# Training


def test_a_start_model_and_what_goes_with_it():
    off = {"enabled": False, "start": "off.model"}
    assert "start: with `enabled: false` no model is started from" in campaign_fault(
        pretraining=off
    )
    assert "start_head: it chooses a head of `start`" in campaign_fault(
        pretraining={"start_head": "omol"}
    )
    assert "updates: expected [least, most], got [5, 1]" in campaign_fault(
        training={"updates": [5, 1]}
    )
    campaign = config.parse_campaign(LEAST | {"pretraining": {"start": "off.model"}}, "mine")
    assert str(campaign.pretraining.start) == "off.model"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"nonsense": list(range(300_000))}, "nonsense = [0, 1, 2, … (300,000 entries): unknown"),
        ({"nonsense": "x" * 100_000}, "… (100,002 characters): unknown key"),
        ({"x" * 100_000: 1}, "… (100,002 characters) = 1: unknown key"),
        ({"seed": list(range(300_000))}, "seed = [0, 1, 2, … (300,000 entries): expected"),
        ({"systems": list(range(300_000))}, "and 299,980 more faults"),
    ],
)
def test_what_is_long_is_shown_by_its_beginning(changed, message):
    fault = campaign_fault(**changed)
    assert message in fault
    assert len(fault) < 3_000


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"campaign": "labels"}, "campaign = 'labels': the folder results/labels is that of the"),
        ({"campaign": "prepared"}, "campaign = 'prepared': the folder results/prepared is that of"),
        ({"campaign": "s", "label_store": "results/s"}, "campaign = 's': the folder results/s is"),
        ({"systems": ["water", "work"]}, "systems: 'work': the folder results/mine/work is that"),
    ],
)
def test_a_name_whose_folder_is_another_one_s_is_refused(changed, message):
    assert message in campaign_fault(**changed)


def test_a_campaign_may_be_called_as_a_store_elsewhere():
    content = LEAST | {"campaign": "labels", "label_store": "elsewhere"}
    assert config.parse_campaign(content, "mine.yaml").campaign == "labels"
