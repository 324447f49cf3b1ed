"""Where a campaign stands, told from fabricated files; a real one is in the integration tests."""

import json
import os

import pytest
from fabricated import campaign, finish

from halcyon import files
from halcyon.campaign import paths
from halcyon.commands.main import main
from halcyon.commands.status.standing import disk_use, look
from halcyon.errors import InputError


@pytest.fixture
def running(tmp_path, monkeypatch):
    """Generation 1 labels: one record in the journal of its first shard, torn at the end."""
    found = campaign(tmp_path)
    finish(found, 1)
    monkeypatch.chdir(tmp_path)
    for job in paths.generation_jobs(found, "methanol", 1):
        if job.stage not in ("label", "verdict"):
            for path in (*job.outputs, job.log):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    journal = paths.label_scratch(found, "methanol", "gen001", 0) / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    lines = [json.dumps({"info": {"status": status}}) for status in ("ok", "crashed")]
    journal.write_text("\n".join(lines) + '\n{"info": {"sta')
    return found


def test_dead_and_alive(running):
    (system,) = look(running.folder)["systems"]
    assert (system["generation"], system["stage"], system["ended"]) == (1, "label", False)
    assert look(running.folder)["alive"] is False
    handle = files.take_lock(running.folder / ".lock")
    found = look(running.folder)
    assert found["alive"] is True
    assert f"process {os.getpid()}" in found["process"]
    assert found["next"] == "nothing: it runs"
    os.close(handle)
    assert "run the same command" in look(running.folder)["next"]


def test_the_campaigns_file_will_do(running, capsys):
    file = running.folder.parents[1] / "methanol.yaml"
    said = {"campaign": running.settings.campaign, "systems": ["methanol"]}
    said |= {"results": str(running.settings.results), "reference": {"backend": "xtb"}}
    file.write_text(json.dumps(said))
    assert main(["status", str(file)]) == main(["status", str(running.folder)])
    asked = capsys.readouterr().out
    assert asked.count(f"{running.settings.campaign}: no process works on it") == 2
    assert main(["status", str(file.parent)]) == 2
    assert f"{file.parent}: no campaign.json here" in capsys.readouterr().err


def test_labels_of_unfinished_jobs_count(running):
    labels = look(running.folder)["systems"][0]["labels"]
    # 75 by the verdict of generation 0, and two records of the journal, one of them bad.
    assert labels == {"spent": 77, "without_label": 1, "in_unfinished_jobs": 2, "budget": 200}


def test_a_job_that_works_holds_its_lock(running):
    job = next(j for j in paths.generation_jobs(running, "methanol", 1) if j.stage == "label")
    job.log.write_text("11:00:00 methanol gen001 label label 2 of 10, 1.0 s each\n")
    handle = files.take_lock(job.lock)
    (system,) = look(running.folder)["systems"]
    os.close(handle)
    assert system["running"] == ["methanol gen001 label 0"]
    assert "label 2 of 10" in system["says"]["methanol gen001 label 0"]
    (system,) = look(running.folder)["systems"]
    assert system["interrupted"] == ["methanol gen001 label 0"]


def test_what_went_wrong_is_told_with_its_log(running, capsys):
    job = next(j for j in paths.generation_jobs(running, "methanol", 1) if j.stage == "label")
    job.log.write_text("11:00:00 methanol label\nerror results: disk full\n")
    (problem,) = look(running.folder)["errors"]
    assert problem["says"] == "error results: disk full"
    assert problem["log"] == str(job.log)
    assert main(["status", str(running.folder)]) == 1
    told = capsys.readouterr().out
    assert "disk full" in told
    assert "\x1b" not in told, "no colour where no terminal listens"
    assert main(["status", str(running.folder), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["errors"][0]["job"] == "methanol gen001 label 0"


def test_looking_leaves_no_trace_and_the_folder_may_move(running, tmp_path):
    def state():
        return {p: p.lstat().st_mtime_ns for p in sorted(tmp_path.rglob("*"))}

    before = state()
    look(running.folder)
    assert state() == before
    moved = running.folder.rename(tmp_path / "elsewhere")
    assert look(moved)["systems"][0]["generation"] == 1
    with pytest.raises(InputError, match=r"campaign\.json"):
        look(running.folder)


def test_disk_by_kind(running, tmp_path):
    (running.folder / "methanol/gen000/model.model").write_bytes(b"x" * 1000)
    (running.folder / "work/big").write_bytes(b"x" * 5000)
    (running.folder / "link").symlink_to(tmp_path)
    found = disk_use(running.folder)
    assert found["models"] == 1000
    assert found["scratch (work/)"] > 5000
    assert sum(found.values()) == sum(
        p.lstat().st_size for p in running.folder.rglob("*") if p.is_file()
    )
