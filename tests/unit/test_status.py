"""Where a campaign stands, told from fabricated files; a real one is in the integration tests."""

import json
import os

import pandas as pd
import pytest
from fabricated import campaign, finish, replica_end

from halcyon import files, jsonl
from halcyon.campaign import paths, work
from halcyon.commands.main import main
from halcyon.commands.status.disk import disk_use
from halcyon.commands.status.standing import look
from halcyon.errors import InputError
from halcyon.verdict.forms import ExplorationSummary
from toy_campaign import make_audit, make_audited, make_calm


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


def interval(value, high):
    return {"value": value, "low": value / 2, "high": high}


def test_errors_and_events_stand_against_their_goals(tmp_path, monkeypatch, capsys):
    found = campaign(tmp_path)
    finish(found, 4, "max_generations")
    monkeypatch.chdir(tmp_path)
    path = found.folder / "methanol/gen003/verdict.json"
    assert look(found.folder)["systems"][0]["errors"] is None
    # The verdict goes by the error with what was foretold of more frames, where that counts.
    foretold = {"frames": 40, "failed": 0, "forces_mae_meV_per_A": interval(44.0, 50.0)}
    parts = [
        make_audited("methanol", 500.0, forces=90.0, second_opinion=foretold),
        make_audited("ion", 300.0, forces=50.0),
    ]
    verdict = files.read_json(path) | {"audit": make_audit(parts, finding="missed")}
    verdict["saturation"] |= {"finding": "saturated", "events_limit_per_ns": 100.0}
    verdict["saturation"]["parts"] = [make_calm("methanol", 500.0, events=0)]
    files.write_json(path, verdict)
    folder = path.parent
    ends = [replica_end(number, 2.0) for number in range(4)]
    ExplorationSummary(replicas=ends).write(folder / "exploration.json")
    points = {"replica": range(4), "time": 2.0, "cli_error": 0.25, "cli_label": 0.5}
    pd.DataFrame(points).to_parquet(folder / "traces.parquet")
    (system,) = look(found.folder)["systems"]
    assert system["index"]["cli_ps"] == 0.25
    assert system["index"]["events_bound_per_ns"] == 21
    assert system["errors"]["forces_mae_bound_meV_per_A"] == 60  # of the worse of the two
    assert system["errors"]["frames"] == 24
    assert "Calm but wrong: methanol" in look(found.folder)["next"]
    main(["status", str(found.folder)])
    told = capsys.readouterr().out
    assert "21 / 100" in told
    assert "60 / 43" in told


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
    models = [p for p in running.folder.rglob("*.model") if "work" not in p.parts]
    assert found["models"] == sum(p.stat().st_size for p in models) >= 1000
    assert found["scratch (work/)"] > 5000
    assert sum(found.values()) == sum(
        p.lstat().st_size for p in running.folder.rglob("*") if p.is_file()
    )


def test_torn_lines_break_nothing(running):
    """Of a journal and a ledger that a kill and a full disk have torn, all complete lines count."""
    journal = paths.label_scratch(running, "methanol", "gen001", 0) / "journal.jsonl"
    good = [json.dumps({"info": {"status": status}}) for status in ("ok", "crashed", "ok")]
    torn = ['{"info": {"sta', "7", '"ok"', '{"info": 7}', '{"info": {}}', "\udcff\udcfe"]
    lines = [line for pair in zip(good, torn[:3], strict=True) for line in pair] + torn[3:]
    text = "\n".join(lines) + '\n{"info": {"status": "o'
    journal.write_bytes(text.encode(errors="surrogateescape"))
    entries = [
        {"system": "methanol", "stage": "train", "generation": 0, "number": 0, "seconds": 100.0},
        {"system": "methanol", "stage": "label", "generation": None, "number": 0, "seconds": 7.0},
    ]
    whole = [json.dumps(entry | {"cores": 1}) for entry in entries]
    ledger = "\n".join([whole[0], '{"system": "meth', "12", "[]", whole[1], '{"system": "me'])
    paths.ledger(running.folder).write_text(ledger)
    (system,) = look(running.folder)["systems"]
    assert system["labels"] == {
        "spent": 78,
        "without_label": 1,
        "in_unfinished_jobs": 3,
        "budget": 200,
    }
    least, most = system["seconds_left"]
    # The labels of generation 1 in two shards, then two more generations with their trainings.
    assert least == pytest.approx(2 * 7.0)
    assert most > 2 * 100


def test_time_left_counts_what_is_unfinished(running):
    """A training took 100 s; two generations after this one train longer, by their labels."""
    entry = {"system": "methanol", "stage": "train", "generation": 0, "number": 0, "cores": 1}
    jsonl.append(paths.ledger(running.folder), entry | {"seconds": 100.0})
    (system,) = look(running.folder)["systems"]
    plan = running.systems["methanol"]
    units = [work.units(plan, "train", number) for number in range(4)]
    later = 1.5 * 100 * (units[2] + units[3]) / units[0]
    assert system["seconds_left"] == pytest.approx([0.0, later])
