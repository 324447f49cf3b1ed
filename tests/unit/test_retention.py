"""The clean-up deletes what it recognises, in closed generations, and nothing else."""

import os

import numpy as np
import pytest
from ase import Atoms
from fabricated import campaign, finish

from halcyon import files
from halcyon.campaign import paths, retention
from halcyon.commands.main import main
from halcyon.errors import InputError
from halcyon.frames import write_frames
from halcyon.labels.labelling import NOT_COMPUTED

GOOD, BAD = "a" * 64, "b" * 64


@pytest.fixture
def closed(tmp_path):
    """Generation 0 is closed, generation 1 explores; a scratch file of every kind, in both."""
    found = campaign(tmp_path)
    finish(found, 1)
    frames = []
    for key, status in ((GOOD, "ok"), (BAD, "crashed")):
        frame = Atoms("He", positions=np.zeros((1, 3)))
        frame.info = {"key": key, "status": status}
        frames.append(frame)
    write_frames(found.folder / "methanol/gen000/labels/001.parquet", frames)
    (found.folder / "methanol/logs/gen001-train.log").write_text("begun")
    work = found.folder / "work/methanol"
    for gen in ("gen000", "gen001"):
        for name in (
            f"{gen}/explore/0123456789abcdef.checkpoint",
            f"{gen}/explore/0123456789abcdef.trajectory/part-000000.parquet",
            f"{gen}/explore/notes.txt",
            f"{gen}/explore/.lock",
            f"{gen}/train/mace-run/checkpoint.pt",
            f"start/label/{gen}-001/journal.jsonl",
            f"start/label/{gen}-001/{GOOD}/cp2k.out",
            f"start/label/{gen}-001/{GOOD}/frame-RESTART.wfn",
            f"start/label/{gen}-001/{GOOD}/my-analysis.ipynb",
            f"start/label/{gen}-001/{BAD}/cp2k.out",
            f"start/label/{gen}-001/{'c' * 64}/cp2k.out",
        ):
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("scratch")
    return found


def everything(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


GOES = {
    "gen000/explore/0123456789abcdef.checkpoint",
    "gen000/explore/0123456789abcdef.trajectory/part-000000.parquet",
    "gen000/train/mace-run/checkpoint.pt",
    "start/label/gen000-001/journal.jsonl",
    f"start/label/gen000-001/{GOOD}/cp2k.out",
    f"start/label/gen000-001/{GOOD}/frame-RESTART.wfn",
}


def test_just_the_known_files_of_the_closed_generation_go(closed):
    before = everything(closed.folder)
    found = retention.scraps(closed)
    assert {s.path.relative_to("methanol").as_posix() for s in found} == GOES
    assert everything(closed.folder) == before, "looking deletes nothing"
    assert retention.delete(closed, found) == (6, 6 * len("scratch"))
    assert before - everything(closed.folder) == {f"work/methanol/{name}" for name in GOES}
    assert not (closed.folder / "work/methanol/gen000/train").exists(), "nor empty folders"


def test_frames_without_label_go_only_when_asked(closed):
    kept = retention.scraps(closed)
    every = retention.scraps(closed, all_frames=True)
    assert {s.path.parts[-2] for s in {*every} - {*kept}} == {BAD}


def test_what_was_paid_is_kept_where_frames_wait_for_a_larger_budget(closed):
    frame = Atoms("He", positions=np.zeros((1, 3)))
    frame.info = {"key": BAD, "status": NOT_COMPUTED}
    write_frames(closed.folder / "methanol/gen000/labels/001.parquet", [frame])
    named = {scrap.path.as_posix() for scrap in retention.scraps(closed)}
    assert "methanol/gen000/explore/0123456789abcdef.checkpoint" in named
    assert "methanol/start/label/gen000-001/journal.jsonl" not in named


def test_the_journal_of_a_label_file_that_cannot_be_read_is_kept(closed):
    (closed.folder / "methanol/gen000/labels/001.parquet").write_bytes(b"PAR1 damaged")
    named = [scrap.path.as_posix() for scrap in retention.scraps(closed)]
    assert "methanol/start/label/gen000-001/journal.jsonl" not in named


def test_a_job_at_work_is_left_alone(closed):
    lock = closed.folder / "work/methanol/gen000/explore/.lock"
    handle = files.take_lock(lock)
    try:
        retention.delete(closed, retention.scraps(closed))
    finally:
        os.close(handle)
    left = everything(closed.folder / "work/methanol/gen000")
    assert "explore/0123456789abcdef.checkpoint" in left
    assert "train/mace-run/checkpoint.pt" not in left


def test_links_are_not_followed(closed, tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "0123456789abcdef.checkpoint").write_text("mine")
    explore = closed.folder / "work/methanol/gen000/explore"
    found = retention.scraps(closed)
    explore.rename(tmp_path / "moved")
    explore.symlink_to(outside)  # between looking and deleting
    retention.delete(closed, found)
    assert (outside / "0123456789abcdef.checkpoint").read_text() == "mine"
    assert not any("explore" in s.path.parts for s in retention.scraps(closed))
    whole = closed.folder / "work"
    whole.rename(tmp_path / "work")
    whole.symlink_to(tmp_path / "work")
    with pytest.raises(InputError, match="is a link"):
        retention.scraps(closed)


def test_a_folder_that_is_no_campaign_is_refused(closed, capsys):
    closed.file.unlink()
    with pytest.raises(InputError, match=r"no campaign\.json"):
        retention.scraps(closed)
    assert main(["clean", str(closed.folder)]) == 2
    assert "campaign.json" in capsys.readouterr().err


def test_the_command_shows_first_and_deletes_when_told(closed, capsys):
    before = everything(closed.folder)
    assert main(["clean", str(closed.folder)]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert everything(closed.folder) == before
    assert main(["clean", str(closed.folder), "--delete"]) == 0
    assert "6 files deleted" in capsys.readouterr().out
    assert len(before - everything(closed.folder)) == 6


def test_a_campaign_that_has_not_begun_has_nothing_to_delete(tmp_path, capsys):
    fresh = campaign(tmp_path)
    assert retention.scraps(fresh) == []
    assert main(["clean", str(fresh.folder)]) == 0
    assert "nothing to delete" in " ".join(capsys.readouterr().out.split())


def test_the_state_of_long_runs_goes_when_their_certificate_is_there(closed):
    checkpoint = closed.folder / "work/methanol/start/certify/0123456789abcdef.checkpoint"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("scratch")
    retention.clean_up(closed, "methanol")
    assert checkpoint.exists(), "the runs are not over"
    proof = closed.folder / "methanol/certificate"
    proof.mkdir()
    for name in paths.CERTIFICATE:
        (proof / name).write_text("{}")
    handle = files.take_lock(checkpoint.with_name(".lock"))
    try:
        retention.clean_up(closed, "methanol")
        assert checkpoint.exists(), "a job is at it"
    finally:
        os.close(handle)
    retention.clean_up(closed, "methanol")
    assert not checkpoint.exists()
