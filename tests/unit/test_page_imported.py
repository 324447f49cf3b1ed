"""Labels that a campaign started from, as page, terminal and `halcyon status` show them."""

import dataclasses
import json
import shutil

import pytest
from fabricated import campaign as fabricated_campaign

from conftest import ROOT
from halcyon.commands.main import main
from halcyon.commands.status.standing import look
from halcyon.config.learning import SeedSettings
from halcyon.errors import InputError
from halcyon.labels.imported import ImportedLabels
from toy_campaign import show

FILE = ROOT / "tests/data/labels/imported.json"
"""64 frames of methanol, of which 60 were used and 5 computed again by GFN2-xTB."""


@pytest.fixture
def started_from_labels(toy):
    """A finished campaign with what became of the labels that it started from."""

    def make(content):
        campaign, verdicts = toy()
        plan = campaign.systems["toy"]
        seed = SeedSettings(**{"from": ["somebody.xyz"]})
        settings = plan.settings.model_copy(update={"seed_labels": seed})
        campaign.systems["toy"] = dataclasses.replace(plan, settings=settings)
        path = verdicts[0].parents[1] / "imported/imported.json"
        path.parent.mkdir()
        path.write_text(json.dumps(content))
        return show(campaign, verdicts)

    return make


def test_file_of_this_release_is_read_and_written_alike(tmp_path):
    imported = ImportedLabels.read(FILE)
    assert imported.used == {"methanol": 60}
    assert imported.agreement.passed
    imported.write(tmp_path / "imported.json")
    assert json.loads((tmp_path / "imported.json").read_text()) == json.loads(FILE.read_text())


def test_file_of_a_later_release_is_refused(tmp_path):
    path = tmp_path / "imported.json"
    path.write_text(json.dumps(json.loads(FILE.read_text()) | {"schema": 2}))
    with pytest.raises(InputError, match=r"imported\.json: schema = 2: .* update Halcyon"):
        ImportedLabels.read(path)


def test_the_page_shows_what_was_used_and_how_it_agreed(started_from_labels):
    content = json.loads(FILE.read_text())
    content["agreement"]["force_max_meV_per_A"] = 3.21
    content["agreement"]["energy_mean_meV_per_atom"] = -0.25
    page = started_from_labels(content | {"stored_before": 7})
    assert page.tables["imported-frames"][1:] == [
        ["read", "64"],
        ["used, of methanol", "60"],
        ["of these, in the label store before", "7"],
        ["left out: duplicate", "2"],
        ["left out: other charge (2)", "1"],
        ["left out: other elements (F)", "1"],
    ]
    forces, energies = page.tables["imported-agreement"][1:]
    assert forces == ["Force components, meV/Å", "3.21", "10", "0.000184 (root mean square)"]
    assert energies == ["Energies, meV/atom", "4.95e-06", "1", "-0.25 (mean)"]
    words = page.texts["imported-words"]
    assert words.startswith("Labels from somebody.xyz: 60 of 64 frames used; left out: 2 duplicate")
    assert "5 frames computed again: forces differ by up to 3.21 meV/Å (allowed 10)" in words


def test_labels_of_another_level_are_said_to_be_that(started_from_labels):
    content = json.loads(FILE.read_text()) | {"level": "theirs", "agreement": None}
    page = started_from_labels(content)
    assert "of a level of their own: the model is only pre-trained" in page.texts["imported-words"]
    assert "imported-agreement" not in page.tables


def test_a_campaign_of_its_own_labels_has_no_such_section(toy):
    page = show(*toy())
    assert "imported-words" not in page.texts
    assert "imported-frames" not in page.tables


def test_status_says_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    campaign = fabricated_campaign(tmp_path, seed_labels={"from": ["somebody.xyz"]})
    assert look(campaign.folder)["systems"][0]["imported"] is None
    path = campaign.folder / "methanol/imported/imported.json"
    path.parent.mkdir(parents=True)
    shutil.copy(FILE, path)
    (system,) = look(campaign.folder)["systems"]
    assert system["imported"]["left_out"]["duplicate"] == 2
    main(["status", str(campaign.folder)])
    shown = " ".join(capsys.readouterr().out.split())
    assert "methanol: Labels from somebody.xyz: 60 of 64 frames used; left out:" in shown
