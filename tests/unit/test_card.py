"""The model card: an old file is still read, and a new one says what the campaign came to."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.io import read

from conftest import ROOT
from halcyon import config, files
from halcyon.campaign.campaign import SystemPlan
from halcyon.domain.intervals import Domain, DomainReport
from halcyon.domain.margins import Exceedance, Margin
from halcyon.errors import InputError
from halcyon.final import certificate, checks, folder, model_card
from halcyon.final.card import Card, LammpsExport
from halcyon.final.card_of_result import card_of_result, recommended
from halcyon.final.certificate import CampaignEnd, Certificate, Conclusion, Level
from halcyon.final.folder import Manifest
from halcyon.final.meaning import caveats
from halcyon.final.monitor.watch import Thresholds
from halcyon.final.result import Result, Sources, read_result
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.store import LabelStore, level_hash
from halcyon.models import mace
from halcyon.models.metrics import Metrics, SetErrors

WATER = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
WATER.info = {"charge": 0, "multiplicity": 1}
OLD = ROOT / "tests/data/final"
"""Of the folder `final/` that the quickstart made before cards had a typed form."""


def test_an_old_card_is_read_and_written_again_byte_by_byte(tmp_path):
    card = Card.read(OLD / "card.json")
    assert card.certificate.conclusion is Conclusion.STABLE
    assert card.errors["test"].frames == 20
    assert card.watch == Thresholds()
    card.write(tmp_path / "card.json")
    assert (tmp_path / "card.json").read_bytes() == (OLD / "card.json").read_bytes()


def test_an_old_manifest_is_read_and_written_again_byte_by_byte(tmp_path):
    manifest = Manifest.read(OLD / "manifest.json")
    manifest.write(tmp_path / "manifest.json")
    assert (tmp_path / "manifest.json").read_bytes() == (OLD / "manifest.json").read_bytes()


def test_an_old_certificate_still_holds_as_far_as_its_traces_go(tmp_path):
    path = OLD / "certificate.json"
    again = Certificate.read(path)
    assert again.checksum_now() == again.checksum
    faults = [check.text for check in checks.verify(path, store=tmp_path) if check.holds is False]
    # Model, domain and labels are not kept here. The manifest lists what is missing once more.
    missing = ("model:", "domain:", "labels:", "README.md:", "domain.json:", "labels.parquet:")
    missing += ("model-lammps.pt:", "model.model:", "structures/", "replicas: start from")
    assert [text for text in faults if not text.startswith(missing)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema = 2: this Halcyon knows schemas up to 1"),
        ({"dtype": None}, "damaged: dtype: .* run `snakemake` again"),
        ({"colour": "red"}, "damaged: colour: "),
    ],
)
def test_a_damaged_card_is_refused_and_named(tmp_path, change, message):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(json.loads((OLD / "card.json").read_text()) | change))
    with pytest.raises(InputError, match=message) as refused:
        Card.read(path)
    assert str(path) in str(refused.value)


class Water(torch.nn.Module):
    """As much of a MACE model as a card describes: 3 parameters."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(3))
        self.atomic_numbers = torch.tensor([1, 8])
        self.num_interactions, self.r_max = torch.tensor(2), torch.tensor(4.5)


def errors(size, frames):
    return SetErrors(
        energy_mae_meV_per_atom=0.0,
        energy_rmse_meV_per_atom=size,
        forces_mae_meV_per_A=2 * size,
        forces_rmse_meV_per_A=3 * size,
        frames=frames,
    )


def result(**changes):
    """A campaign's result without files."""
    calm = {"replica": [0, 0], "time": [0.05, 0.1], "cli_label": [0.01, 0.02]}
    margin = Margin(value=0.5, low=0.25, high=0.75, method="conformal", alpha=1e-3, n=40)
    domain = Domain(
        classes={"water": ["O", "H", "H"]},
        label={"O": (-5.0, -4.0), "H": (-2.0, -1.0)},
        guard={"O": (-6.0, -4.0), "H": (-3.0, -1.0)},
        margin=margin,
        bonds={},
        report=DomainReport(
            exceedance_with_margin=Exceedance(fraction=0.0, low=0, high=0.1, atoms=9)
        ),
    )
    parts = {
        "sources": Sources(
            model=Path("gen001/model.model"),
            domain=Path("gen001/domain.json"),
            metrics=Path("gen001/metrics.json"),
            verdict=Path("gen001/verdict.json"),
            labels=[],
            certificate=None,
        ),
        "model": Water(),
        "domain": domain,
        "metrics": Metrics(
            train=errors(1.0, 2),
            validation=errors(2.0, 1),
            test=errors(3.0, 1),
            best_epoch=1,
            e0s_eV={},
            curve=[],
            start=None,
            seconds=1.0,
        ),
        "verdict": CampaignEnd(decision="max_generations", reason="too short", generation=1),
        "labels": {
            "train": [WATER] * 2,
            "validation": [3],
            "test": [],
            "bad": [4],
            "not_computed": [],
        },
        "level": Level(hash="ab", description={"program": "springs", "version": "1"}),
        "runs": config.ExplorationSettings(temperatures_K=[350.0], bond_stretch_A=0.7),
        "certificate": None,
        "traces": pd.DataFrame(calm),
        "failed": [],
    }
    return Result(**(parts | changes))


def card_of(result, **settings):
    water = {"name": "water", "kind": "molecule", "structures": [{"name": "water", "smiles": "O"}]}
    plan = SystemPlan(config.System(**water), config.Settings(**settings))
    atoms = Atoms("OH2", [(0, 0, 0), (0, 0.76, 0.59), (0, -0.76, 0.59)])
    atoms.info |= {"charge": 0, "multiplicity": 1}
    return plan, {"water": atoms}, result


def made(folder_path, result, **settings):
    plan, starts, result = card_of(result, **settings)
    return card_of_result(
        plan,
        result,
        campaign="trial",
        system="water",
        structures=folder.write_structures(starts, folder_path),
        lammps=LammpsExport(file="model-lammps.pt", frames=1, largest_difference=3e-7),
    )


def test_a_card_without_a_certificate_says_so(tmp_path):
    card = made(tmp_path, result(), certificate={"when": "never"})
    assert card.certificate is None
    assert card.no_certificate == "certificate.when is 'never'"
    assert card.limits[0].startswith("Long runs of any length")
    text = model_card.markdown(card)
    assert "**Campaign: max_generations** (too short). **No certificate**" in text
    assert "pair_coeff * * model-lammps.pt H O" in text


def test_fixed_atoms_are_constraints_of_the_structure_and_on_the_card(tmp_path):
    slab = Atoms("AuAuH", [(0, 0, 0), (0, 0, 2.5), (0, 0, 4.2)], cell=[4, 4, 20], pbc=True)
    slab.info |= {"charge": 0, "multiplicity": 2}
    slab.arrays["fixed"] = np.array([True, True, False])
    (written,) = folder.write_structures({"slab": slab}, tmp_path)
    assert written.fixed_atoms == [0, 1]
    atoms = read(tmp_path / written.file)
    atoms.calc = EMT()
    free = slab.copy()
    free.calc = EMT()
    assert np.abs(free.get_forces()[:2]).max() > 0.1
    assert np.abs(atoms.get_forces()[:2]).max() == 0
    np.testing.assert_allclose(atoms.get_forces()[2], free.get_forces()[2])
    assert "fixed" in slab.arrays, "the structure itself stays as it was"
    card = made(tmp_path, result())
    assert "no dynamics moved" not in model_card.markdown(card)
    slabs = card.model_copy(update={"structures": [written]})
    assert "that no dynamics moved, and that yours should not: 0, 1)" in model_card.markdown(slabs)


def test_a_card_takes_its_numbers_from_the_result(tmp_path):
    card = made(tmp_path, result())
    assert card.model.description == "H, O; 2 layers, cutoff 4.5 Å, 3 parameters"
    assert card.data == {"train": 2, "validation": 1, "test": 0, "bad": 1, "not_computed": 0}
    assert list(card.errors) == ["test", "validation", "train"]
    assert card.errors["validation"].forces_rmse_meV_per_A == 6.0
    assert card.domain.words == "2 classes of atoms, margin 0.5 widths (0.25–0.75)"
    assert card.temperatures_K == [350.0]
    assert card.level_of_theory.words == "springs 1"
    # λ: 0.02 ps within 0.1 ps; twice as much is recommended
    assert card.watch.rate == pytest.approx(0.4)
    assert card.watch.bond_stretch_A == 0.7
    assert (tmp_path / card.structures[0].file).exists()
    assert card.structures[0].formula == "H2O"
    assert card.caveats == caveats([WATER], bonds_hold=True)
    assert card.caveats[0] in model_card.markdown(card)
    folder.write_card(card, tmp_path)
    assert Card.read(tmp_path / "card.json") == card


def test_a_card_with_a_certificate_gives_its_sentence_and_its_limits(tmp_path):
    certified = Certificate.read(OLD / "certificate.json")
    sources = Sources(**(vars(result().sources) | {"certificate": OLD / "certificate.json"}))
    tested = result(certificate=certified, sources=sources)
    card = made(tmp_path, tested)
    assert card.certificate.sentence == certified.sentence
    assert card.limits == certified.not_covered
    assert [path.name for path in tested.unchanged] == [
        "model.model",
        "domain.json",
        "certificate.json",
        "nvt.parquet",
        "nve.parquet",
    ]


def test_recommended_rate_is_twice_what_those_that_lived_reached():
    times = np.arange(1, 41) * 0.025
    calm = pd.DataFrame({"replica": 0, "time": times, "cli_label": 0.01 * times})
    # 0.03 ps within the 0.1 ps from 0.5 ps on
    jump = np.clip(times - 0.5, 0, 0.1) * 0.3
    jumping = pd.DataFrame({"replica": 1, "time": times, "cli_label": jump})
    broken = pd.DataFrame({"replica": 2, "time": times, "cli_label": times})
    traces = pd.concat([calm, jumping, broken])
    assert recommended(traces, [2], Thresholds(rate=0.05)).rate == pytest.approx(0.6)
    assert recommended(calm, [], Thresholds(rate=0.05)).rate == 0.05
    assert recommended(traces, [], Thresholds()).rate == 1.0  # λ of replica 2 is 1


def test_a_conclusion_of_an_old_certificate_follows_from_its_numbers():
    old = Certificate.read(OLD / "certificate.json")
    conclusion, reasons = certificate.conclude(old.runs, old.criteria)
    assert (conclusion, reasons) == (old.conclusion, old.reasons)
    assert certificate.sentence(conclusion, reasons, old.runs) == old.sentence


def test_a_result_is_read_from_the_last_generations_files(toy, monkeypatch):
    campaign, verdicts = toy(["continue", "saturated"])
    folder = verdicts[-1].parent
    exploration = files.read_json(folder / "exploration.json")
    exploration["replicas"][2]["failure"] = "bond broken"
    files.write_json(folder / "exploration.json", exploration)
    monkeypatch.setattr(mace, "load", lambda path, device: (path.name, device))
    store = campaign.settings.label_store
    level = level_hash({"program": "springs"})
    paths = sorted(folder.parent.glob("*/labels/*.parquet"))
    for path in paths:
        frames = read_frames(path)
        for frame in frames:
            frame.info |= {"level": level, "key": structure_key(frame)}
        write_frames(path, frames)
    LabelStore(store, {"program": "springs"}).add([f for p in paths for f in read_frames(p)][:1])
    sources = Sources(
        model=folder / "model.model",
        domain=folder / "domain.json",
        metrics=folder / "metrics.json",
        verdict=verdicts[-1],
        labels=paths,
        certificate=None,
    )
    settings = campaign.systems["toy"].settings
    read = read_result(sources, settings, store=store)
    assert read.model == ("model.model", "cpu")
    assert read.verdict.decision == "saturated"
    assert read.level.description == {"program": "springs"}
    assert read.failed == [2]
    assert len(read.frames) == sum(len(read_frames(path)) for path in paths)
    assert [path.name for path in read.unchanged] == ["model.model", "domain.json"]
    # With a certificate traces and failures are those of its runs.
    sources = Sources(**(vars(sources) | {"certificate": OLD / "certificate.json"}))
    certified = read_result(sources, settings, store=store)
    assert certified.failed == []
    pd.testing.assert_frame_equal(certified.traces, pd.read_parquet(OLD / "nvt.parquet"))
