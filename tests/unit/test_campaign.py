"""Bad input: one message with file, key, value and expectation, before any job."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from halcyon import files
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.checks import begin
from halcyon.errors import InputError
from halcyon.systems import packing
from halcyon.teacher.gaff2 import AmberTools

ROOT = Path(__file__).parents[2]

CAMPAIGN = {
    "campaign": "trial",
    "systems": ["thing"],
    "reference": {"backend": "xtb"},
    "seed_labels": {"train": 8, "validation": 6, "test": 5},
    "teacher": {"md_frames": 90, "temperatures_K": [300.0]},
    "saturation": {"events_per_ns": 1000.0},
}
SYSTEM = {
    "name": "thing",
    "forcefield": {
        "kind": "forcefield_xml",
        "files": ["config/forcefields/small-molecules.xml"],
    },
    "structures": [{"name": "thing", "smiles": "CO", "box_A": 8.0}],
}


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Begin a campaign in an empty folder, with changes made to a good configuration."""
    (tmp_path / "config/systems").mkdir(parents=True)
    for folder in ("forcefields", "cp2k"):
        shutil.copytree(ROOT / "config" / folder, tmp_path / "config" / folder)
    monkeypatch.chdir(tmp_path)

    def run(campaign=lambda _c: None, system=lambda _s: None):
        content, thing = deepcopy(CAMPAIGN), deepcopy(SYSTEM)
        campaign(content)
        system(thing)
        (tmp_path / "config/systems/thing.yaml").write_text(yaml.safe_dump(thing))
        return begin(content, "campaign.yaml")

    return run


def structure(**changes):
    def change(system):
        system["structures"][0] |= changes
        if "file" in changes:
            del system["structures"][0]["smiles"]

    return change


def boxed(**changes):
    """A periodic box of the system's molecule, beside it."""

    def change(system):
        box = {"name": "box", "pack": {"thing": 4}, "density_g_per_cm3": 0.7}
        system["structures"].append(box | changes)

    return change


def reference(**values):
    return lambda campaign: campaign.update(reference=values)


def section(name, **values):
    return lambda campaign: campaign.setdefault(name, {}).update(values)


@pytest.fixture
def published(tmp_path):
    """Write a set of frames, their atoms in reverse order; a campaign with it as reference."""

    def make(*frames):
        reverse = [frame[::-1] for frame in frames]
        for frame in reverse:
            frame.calc = SinglePointCalculator(frame, energy=1.0, forces=frame.positions)
        write(tmp_path / "set.xyz", reverse)
        return reference(backend="dataset", files=["set.xyz"])

    return make


def test_a_published_set_may_list_its_atoms_in_another_order(attempt, published):
    assert attempt(published(molecule("CH3OH")))


def test_a_published_set_of_other_molecules_is_refused(attempt, published):
    apart = molecule("H2CO") + Atoms("H2", positions=[[5, 0, 0], [5, 0, 0.74]])
    words = r"set\.xyz: frame 1: CH4O, but not bonded as structure thing .*3 C-H, 1 C-O, 1 H-O"
    with pytest.raises(InputError, match=words):
        attempt(published(molecule("H2O"), apart))
    assert attempt(published(molecule("H2O"), apart, molecule("CH3OH")))


def test_a_published_set_need_not_have_what_is_not_labelled(attempt, published):
    def with_water(**more):
        def change(system):
            water = {"name": "water", "smiles": "O", "box_A": 8.0, "explore": False}
            system["structures"].append(water | more)

        return change

    campaign = published(molecule("CH3OH"))
    with pytest.raises(InputError, match=r"structure water: H2O.*not in the data set"):
        attempt(campaign, with_water())
    assert attempt(campaign, with_water(label=False))


def test_where_bonds_break_a_published_set_has_no_classes_by_symmetry(attempt, published):
    def change(campaign):
        published(molecule("CH3OH"))(campaign)
        campaign["domain"] = {"classes": "symmetry"}

    with pytest.raises(InputError, match=r"domain.classes = 'symmetry': .* expected 'element'"):
        attempt(change, lambda system: system.update(kind="reactive"))


def test_a_good_campaign_begins_and_is_read_again(attempt):
    campaign = attempt()
    again = Campaign.read(campaign.file)
    assert again == campaign
    assert again.systems["thing"].elements == [1, 6, 8]
    assert again.systems["thing"].classes("thing")[:2] == ["thing:C0", "thing:O0"]
    campaign = attempt(section("domain", classes="environment"))
    assert campaign.systems["thing"].classes("thing")[:2] == ["C", "O"]


BAD = {
    "unknown key": (section("exploration", replica=3), None, ["exploration.replica", "replicas"]),
    "wrong unit": (section("exploration", time_fs=3), None, ["exploration.time_fs", "time_ps"]),
    "range": (section("exploration", timestep_fs=50), None, ["timestep_fs", "50", "5"]),
    "unknown system": (lambda c: c.update(systems=["thong"]), None, ["thong", "there are: thing"]),
    "unknown element": (None, structure(smiles="[Xx]"), ["thing.yaml", "smiles", "[Xx]"]),
    "odd electrons": (None, structure(smiles="[CH3]"), ["thing.yaml", "multiplicity", "1"]),
    "missing structure": (None, structure(file="no.xyz"), ["thing.yaml", "no.xyz"]),
    "broken structure": (None, structure(file="broken.xyz"), ["thing.yaml", "broken.xyz"]),
    "overlap": (None, structure(file="overlap.xyz"), ["thing.yaml", "overlap.xyz"]),
    "missing XML": (
        None,
        lambda s: s["forcefield"].update(files=["no.xml"]),
        ["thing.yaml", "no.xml"],
    ),
    "broken XML": (
        None,
        lambda s: s["forcefield"].update(files=["broken.xml"]),
        ["thing.yaml", "broken.xml"],
    ),
    "no template": (None, structure(smiles="CCCO"), ["thing.yaml", "C3H8O", "small-molecules.xml"]),
    "not for GAFF2": (
        None,
        lambda s: (s.pop("forcefield"), structure(smiles="CB(O)O")(s)),
        ["thing.yaml", "no type for atom B1", "forcefield_xml"],
    ),
    "no sqm": (
        None,
        lambda s: s.update(forcefield={"kind": "gaff2", "charges": "bcc"}),
        ["thing.yaml", "bcc", "libarpack2"],
    ),
    "no topology": (
        None,
        lambda s: s.update(forcefield={"kind": "amber", "prmtop": {"thing": "no.prmtop"}}),
        ["thing.yaml", "prmtop", "no.prmtop"],
    ),
    "does not fit": (None, boxed(density_g_per_cm3=9.0), ["thing.yaml", "density_g_per_cm3", "9"]),
    "nothing to pre-train on": (
        None,
        lambda s: (boxed()(s), s["structures"][0].update(pretrain=False)),
        ["campaign.yaml", "nothing to pre-train on"],
    ),
    "two charges": (
        None,
        lambda s: s["structures"].append(
            {"name": "ion", "smiles": "C[OH+]", "charge": 1, "multiplicity": 2, "explore": False}
        ),
        ["thing.yaml", "structures thing and ion", "CH4O", "charge 1", "cannot tell them apart"],
    ),
    "two spins": (
        None,
        lambda s: s["structures"].append(
            {"name": "triplet", "smiles": "CO", "box_A": 8.0, "multiplicity": 3}
        ),
        ["thing.yaml", "structures thing and triplet", "multiplicity 1", "multiplicity 3"],
    ),
    "other spins to try": (
        None,
        lambda s: s["structures"].append(
            {"name": "triplet", "smiles": "CO", "box_A": 8.0, "multiplicities": [1, 3]}
        ),
        ["structures thing and triplet", "multiplicity 1 ", "multiplicities [1, 3]"],
    ),
    "no binary": (
        reference(backend="cp2k", level="config/cp2k/pbe-d3-dzvp.yaml", command="cp2q.psmp"),
        None,
        ["campaign.yaml", "command", "cp2q.psmp"],
    ),
    "no level": (
        reference(backend="cp2k", level="config/cp2k/no.yaml", command="true"),
        None,
        ["campaign.yaml", "level", "config/cp2k/no.yaml"],
    ),
    "invalid CP2K section": (
        reference(backend="cp2k", level="bad.yaml", command="true"),
        None,
        ["campaign.yaml", "bad.yaml", "dfft"],
    ),
    "disk": (section("limits", min_free_disk_GB=1e9), None, ["min_free_disk_GB", "1e+09 GB"]),
    "never saturates": (
        section("exploration", time_ps=0.01),
        None,
        ["can never show it", "exploration.time_ps to ", "events per ns and molecule", "is 100"],
    ),
    "one replica never saturates": (
        section("exploration", replicas=1),
        None,
        ["can never show it", "of 1 replica with 1 molecule each", "exploration.replicas to 3"],
    ),
    "a limit of early releases": (
        section("saturation", max_rate_per_atom_ps=0.1),
        None,
        ["max_rate_per_atom_ps = 0.1", "saturation.events_per_ns", "unreliable_fraction"],
    ),
    "budget": (section("limits", label_budget=5), None, ["label_budget", "5", "19"]),
    "few teacher frames": (section("teacher", md_frames=9), None, ["md_frames", "19", "9"]),
    "few replicas": (
        section("exploration", temperatures_K=[300.0, 400.0], replicas=1),
        None,
        ["exploration.replicas", "1", "2"],
    ),
    "no start model": (
        section("pretraining", start="none.model"),
        None,
        ["campaign.yaml", "pretraining.start", "none.model"],
    ),
    "no committee": (
        section("domain", signals=["committee"], committee=["other.model"]),
        None,
        ["campaign.yaml", "domain.committee", "other.model"],
    ),
    "an unknown second opinion": (
        section("audit", second_opinion="pm7"),
        None,
        ["audit.second_opinion", "pm7", "'index', 'none', 'gfn1' or 'gfn2'"],
    ),
    "no second opinion": (
        section("audit", second_opinion="gfn2"),
        None,
        ["campaign.yaml", "system thing", "audit.second_opinion = gfn2", "the reference is GFN2"],
    ),
    "a second opinion on few frames": (
        section("audit", second_opinion="gfn1", frames=8, second_opinion_frames=12),
        None,
        ["audit.second_opinion_frames = 12", "at least 16", "audit.reservoir = 200"],
    ),
    "a second opinion on more frames than there are": (
        section("audit", second_opinion="gfn1", second_opinion_frames=300),
        None,
        ["audit.second_opinion_frames = 300", "at most audit.reservoir = 200"],
    ),
    "path outside": (lambda c: c.update(campaign="../x"), None, ["campaign", "../x"]),
}


def test_isomers_that_try_the_same_spins_are_one_state(attempt):
    def system(content):
        thing = content["structures"][0]
        thing |= {"multiplicity": 1, "multiplicities": [1, 3]}
        content["structures"].append(
            thing | {"name": "diradical", "multiplicity": 3, "multiplicities": [3, 1]}
        )
        content["overrides"] = {"exploration": {"replicas": 16}}

    assert attempt(reference(backend="xtb", spin_polarized=True), system)


def test_a_second_opinion_on_several_spins_is_refused(attempt):
    def campaign(content):
        reference(backend="ase", calculator="ase.calculators.emt.EMT")(content)
        content["audit"] = {"second_opinion": "gfn2"}

    assert attempt(campaign)
    with pytest.raises(InputError, match="structure thing has several multiplicities"):
        attempt(campaign, structure(multiplicities=[1, 3]))


@pytest.mark.parametrize("fault", BAD)
def test_bad_input_is_one_clear_message(attempt, fault, tmp_path, monkeypatch):
    home = tmp_path / "amber"  # whose sqm misses a library
    (home / "dat/leap/parm").mkdir(parents=True)
    (home / "dat/leap/parm/gaff2.dat").write_text("a force field\n")
    (home / "sqm").write_text("#!/bin/sh\necho 'error while loading shared libraries' >&2\n")
    (home / "sqm").chmod(0o755)
    if fault == "no sqm":
        monkeypatch.setattr("halcyon.teacher.gaff2.find_ambertools", lambda: AmberTools(home, home))
    (tmp_path / "broken.xyz").write_text("not a number\n")
    (tmp_path / "broken.xml").write_text("<ForceField><Residues>")
    (tmp_path / "overlap.xyz").write_text("2\n\nO 0 0 0\nO 0 0 0.1\n")
    (tmp_path / "bad.yaml").write_text("force_eval:\n  method: QUICKSTEP\n  dfft: {}\n")
    campaign, system, words = BAD[fault]
    with pytest.raises(InputError) as error:
        attempt(campaign or (lambda _c: None), system or (lambda _s: None))
    for word in words:
        assert word.lower() in str(error.value).lower()
    assert not (tmp_path / "results/trial/campaign.json").exists()


def test_what_is_prepared_at_the_start_is_found_by_the_jobs(attempt, monkeypatch):
    def system(content):
        content.pop("forcefield")
        content["overrides"] = {"exploration": {"replicas": 16}}
        boxed()(content)

    campaign = attempt(system=system)
    assert len(list((campaign.settings.results / "prepared").iterdir())) == 2
    plan = Campaign.read(campaign.file).systems["thing"]
    assert not plan.structures["box"].pretrain
    monkeypatch.setattr("subprocess.run", None)  # a job that starts a program would fail
    packing._run.cache_clear()
    start, teacher = plan.start("box"), plan.teacher("box")
    assert teacher.periodic
    assert len(start) == 24
    assert teacher.system.getNumParticles() == teacher.copies * 24
    assert plan.classes("box")[:2] == ["box:C0", "box:O0"]


def test_a_spin_that_a_reaction_does_not_keep_is_refused_unless_it_is_meant(attempt):
    def reactive(**changes):
        def change(system):
            system |= {"kind": "reactive"}
            system["structures"][0] |= {"multiplicity": 3} | changes

        return change

    polarized = reference(backend="xtb", spin_polarized=True)
    words = r"structure thing: multiplicity = 3: 2 electrons .* `multiplicities: \[1, 3\]`.*\[3\]"
    with pytest.raises(InputError, match=words):
        attempt(polarized, reactive())
    with pytest.raises(InputError, match=words):
        attempt(system=reactive())
    assert attempt(system=reactive(multiplicities=[3]))  # no polarisation: nothing is compared


def test_a_campaign_keeps_its_identity(attempt):
    attempt()
    attempt(system=structure(multiplicities=[1]))  # says the same
    attempt(section("exploration", time_ps=33.0))  # may change
    for change in (
        lambda c: c.update(seed=1),
        section("resources", label_shards=3),
        reference(backend="xtb", method="GFN1-xTB"),
    ):
        with pytest.raises(InputError, match="began with another"):
            attempt(change)
    with pytest.raises(InputError, match="thing: structures"):
        attempt(system=structure(box_A=9.0))


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\x00\xff\xfe"])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "verdict.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"verdict\.json: not valid JSON"):
        files.read_json(path)


def test_one_process_at_a_time(tmp_path):
    with files.only_one(tmp_path), pytest.raises(InputError, match="another Halcyon process"):
        files.take_lock(tmp_path / ".lock")
    with files.only_one(tmp_path):
        pass


def test_overrides_hold_for_their_system(attempt):
    campaign = attempt(system=lambda s: s.update(overrides={"exploration": {"time_ps": 45.0}}))
    assert campaign.systems["thing"].settings.exploration.time_ps == 45.0
    assert campaign.settings.exploration.time_ps == 30.0
    assert Campaign.read(campaign.file) == campaign
    with pytest.raises(InputError, match=r"thing\.yaml: overrides.*time_fs"):
        attempt(system=lambda s: s.update(overrides={"exploration": {"time_fs": 9.0}}))


def test_the_file_of_an_earlier_release_is_read(tmp_path):
    """As the release wrote it that counted excursions; a system's overrides have the key, too."""
    path = ROOT / "tests/data/campaign/campaign-1.json"
    settings = Campaign.read(path).settings
    assert (settings.campaign, settings.exploration.replicas) == ("quickstart", 8)
    content = files.read_json(path)
    assert content["campaign"]["saturation"]["max_rate_per_atom_ps"] == 0.1
    content["systems"]["ethanol"]["overrides"] = {"saturation": {"max_rate_per_atom_ps": 0.5}}
    changed = tmp_path / "campaign.json"
    changed.write_text(json.dumps(content))
    plan = Campaign.read(changed).systems["ethanol"]
    assert plan.settings.saturation.events_per_ns == 100


def constant_pressure(**training):
    def change(campaign):
        campaign.setdefault("exploration", {})["ensemble"] = "npt"
        campaign["training"] = training

    return change


def only_the_box(system):
    boxed()(system)
    system["structures"][0]["explore"] = False


def test_constant_pressure_is_refused_where_stress_is_not_learned(attempt):
    words = (
        r"campaign.yaml: exploration\.ensemble = 'npt': system thing: training\.stress_weight = 0"
    )
    with pytest.raises(InputError, match=words):
        attempt(constant_pressure(stress_weight=0.0), only_the_box)
    assert attempt(constant_pressure(), only_the_box)


def test_constant_pressure_is_refused_for_a_molecule(attempt):
    with pytest.raises(InputError, match=r"structure thing: pbc = .*nvt or nve"):
        attempt(constant_pressure())


def test_constant_pressure_is_refused_where_labels_have_no_stress(attempt):
    def change(campaign):
        constant_pressure()(campaign)
        campaign["reference"] = {"backend": "ase", "calculator": "test_stress.without_stress"}

    words = r"exploration\.ensemble = 'npt' needs labels with a stress: reference\.calculator"
    with pytest.raises(InputError, match=words):
        attempt(change, only_the_box)
