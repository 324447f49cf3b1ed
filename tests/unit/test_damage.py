"""Damaged and missing files are named, with what to do, and nothing else is lost."""

import ast
import re

import numpy as np
import pandas as pd
import pytest
import torch
from fabricated import campaign, finish
from test_explore import SETTINGS, Spring, after, dimer, domain, same

from conftest import ROOT
from halcyon import files, tables
from halcyon.campaign import identity
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.checked import begin_once
from halcyon.campaign.damage import (
    damaged_outputs,
    fault_of,
    refuse_damaged,
    renew_products,
)
from halcyon.config import DomainSettings
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError, Interrupted
from halcyon.exploration import trajectory
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.explore import Monitoring, RunControl, explore
from halcyon.final.certificate import Certificate
from halcyon.frames import read_frames, write_frames
from halcyon.models import mace, parity
from halcyon.models.checkpoints import Checkpoint
from halcyon.models.metrics import Metrics
from halcyon.verdict.forms import ExplorationSummary, Verdict
from halcyon.verdict.runs import read_run

REMEDY = re.compile("[Dd]elete this file.*run the same command|is deleted", re.DOTALL)


def cut(path, size=100):
    """Take the last bytes off a file."""
    path.write_bytes(path.read_bytes()[:-size])


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(b"\x00\xff{[ nothing" * 30)


@pytest.fixture
def whole(tmp_path, rattled):
    """A finished generation whose files can be read, of every ending."""
    made = campaign(tmp_path)
    finish(made, 1)
    for system in made.folder.glob("methanol"):
        for path in system.rglob("*.json"):
            if path.name != "verdict.json":
                files.write_json(path, {"candidates": 0, "fates": {}})
        for path in system.rglob("*.parquet"):
            write_frames(path, rattled(3))
        for path in system.rglob("*.model"):
            torch.save(torch.nn.Linear(2, 2), path)
    return made


@pytest.mark.parametrize("harm", [cut, empty, garbage])
@pytest.mark.parametrize(
    "name",
    [
        "teacher/frames.parquet",
        "teacher/counts.json",
        "teacher/pretrained.model",
        "seed/selected.parquet",
        "seed/labels/000.parquet",
        "gen000/model.model",
        "gen000/metrics.json",
        "gen000/domain.json",
        "gen000/traces.parquet",
        "gen000/exploration.json",
        "gen000/selection.json",
        "gen000/verdict.json",
    ],
)
def test_a_damaged_output_is_named_before_any_job_runs(whole, name, harm):
    assert damaged_outputs(whole) == {}
    refuse_damaged(whole)
    path = whole.folder / "methanol" / name
    harm(path)
    assert list(damaged_outputs(whole)) == [path]
    with pytest.raises(InputError, match=rf"(?s){re.escape(str(path))}: .*delete these files"):
        refuse_damaged(whole)
    path.unlink()
    refuse_damaged(whole)


def test_a_run_is_refused_before_it_writes_or_removes_anything(whole, tmp_path):
    content = files.read_json(whole.file)["campaign"] | {"campaign": "trial"}
    cut(whole.folder / "methanol/gen000/traces.parquet")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"traces\.parquet: not a whole Parquet file"):
        begin_once(content, "trial.yaml")
    after_it = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert after_it == before


def test_a_damaged_certificate_or_manifest_is_named(whole):
    proof = whole.folder / "methanol/certificate/certificate.json"
    manifest = whole.folder / "methanol/final/manifest.json"
    for path in (proof, manifest):
        path.parent.mkdir(parents=True)
        garbage(path)
    assert list(damaged_outputs(whole)) == [proof, manifest]


def test_a_final_folder_that_lacks_its_model_is_made_again(whole):
    final = whole.folder / "methanol/final"
    files.write_json(final / "manifest.json", {"files": [{"path": "model.model", "sha256": "0"}]})
    (final / "model.model").touch()
    assert renew_products(whole) == []
    (final / "model.model").unlink()
    (message,) = renew_products(whole)
    assert "model.model missing: it is made again" in message
    assert not (final / "manifest.json").exists()


def test_a_file_that_is_not_there_is_not_damaged(tmp_path):
    assert fault_of(tmp_path / "a.json") is None
    assert fault_of(tmp_path / "a.parquet") is None


READERS = {
    "exploration.json": ExplorationSummary.read,
    "verdict.json": Verdict.read,
    "metrics.json": Metrics.read,
    "certificate.json": Certificate.read,
    "domain.json": Domain.read,
    "selection.json": lambda path: files.read_object(path, ("candidates", "fates")),
    "campaign.json": Campaign.read,
    "labels.parquet": read_frames,
    "parity.parquet": parity.read,
    "traces.parquet": tables.read,
    "model.model": mace.load,
}


@pytest.mark.parametrize("harm", [empty, garbage])
@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_damaged_file_and_the_remedy(tmp_path, name, harm):
    path = tmp_path / name
    harm(path)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        READERS[name](path)
    assert REMEDY.search(str(caught.value))


@pytest.mark.parametrize("name", READERS)
def test_every_reader_names_a_file_that_cannot_be_opened(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=re.escape(str(tmp_path / name))):
        READERS[name](tmp_path / name)


def test_a_damaged_page_in_a_table_is_named(tmp_path):
    path = tmp_path / "traces.parquet"
    pd.DataFrame({"time": np.random.default_rng(1).random(5000)}).to_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)  # its ends are whole: only who reads it can tell
    path.write_bytes(content)
    assert fault_of(path) is None
    with pytest.raises(InputError, match=rf"{re.escape(str(path))}: damaged") as caught:
        tables.read(path)
    assert REMEDY.search(str(caught.value))


def test_a_missing_column_is_named(tmp_path):
    path = tmp_path / "000.parquet"
    pd.DataFrame({"key": ["a"]}).to_parquet(path)
    with pytest.raises(InputError, match=r"000\.parquet: damaged: no column status"):
        tables.read(path, ["key", "status"])


def test_traces_without_their_end_are_named_where_the_verdict_reads_them(tmp_path):
    pd.DataFrame({"replica": range(500)}).to_parquet(tmp_path / "traces.parquet")
    ExplorationSummary(replicas=[], replica_steps=1, candidates_passed_over=0).write(
        tmp_path / "exploration.json"
    )
    cut(tmp_path / "traces.parquet")
    with pytest.raises(InputError, match=r"traces\.parquet: damaged"):
        read_run(tmp_path)


@pytest.mark.parametrize("harm", [cut, empty, garbage])
def test_a_damaged_exploration_checkpoint_is_named_and_the_run_begins_anew(tmp_path, harm):
    warnings = []

    def run(work, **control):
        return explore(
            Spring(),
            [Replica(n, 600.0, dimer()) for n in range(4)],
            SETTINGS,
            Monitoring(
                domain=domain(), settings=DomainSettings(signals=[]), system_kind="molecule"
            ),
            RunControl(work=work, identity="test", warn=warnings.append, **control),
            seed=3,
        )

    undisturbed = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "harmed", stop=after(2))
    (checkpoint,) = (tmp_path / "harmed").glob("*.checkpoint")
    harm(checkpoint)
    assert warnings == []
    same(run(tmp_path / "harmed"), undisturbed)
    (message,) = warnings
    assert str(checkpoint) in message
    assert "begin anew" in message


def test_a_damaged_part_of_a_trajectory_is_named(tmp_path, rattled):
    parts = [tmp_path / f"0123.trajectory/part-00000{n}.parquet" for n in range(2)]
    for part in parts:
        write_frames(part, rattled(2))
    cut(parts[1])
    with pytest.raises(InputError, match=r"part-000001.*0123\.checkpoint.*begin anew"):
        trajectory.join(parts, tmp_path / "trajectory.parquet")
    assert all(part.exists() for part in parts)
    assert not (tmp_path / "trajectory.parquet").exists()


@pytest.mark.parametrize("harm", [cut, empty, garbage])
def test_a_damaged_training_checkpoint_is_named_and_removed(tmp_path, harm):
    warnings = []
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", "this training")
    checkpoint.write({"epoch": 3})
    assert checkpoint.read(warnings.append)["epoch"] == 3
    harm(checkpoint.path)
    assert checkpoint.read(warnings.append) is None
    assert "checkpoint.pt: a damaged checkpoint" in warnings[0]
    assert not checkpoint.path.exists()
    Checkpoint(checkpoint.path, "another training").write({"epoch": 3})
    assert checkpoint.read(warnings.append) is None
    assert len(warnings) == 1, "that of another training is not damaged"


def test_a_damaged_campaign_file_is_written_anew_and_a_damaged_identity_refused(tmp_path):
    made = campaign(tmp_path)
    empty(made.file)
    made.write()
    assert Campaign.read(made.file) == made
    garbage(made.folder / "identity.json")
    with pytest.raises(
        InputError, match=r"identity\.json: not valid JSON.*the campaign began with"
    ):
        identity.check_identity(made, "0123")


def test_all_tables_are_read_through_the_function_that_names_them():
    """Of what reads Parquet, only the label store, which repairs itself, has its own way."""
    own = {"tables.py", "store.py", "store_tools.py"}
    raw = {"read_parquet", "read_table", "ParquetFile", "read_schema"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in ("src", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in own
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in raw
    ]
    assert found == []
