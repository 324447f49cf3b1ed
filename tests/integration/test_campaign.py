"""Whole campaigns through Snakemake, small but real: OpenMM, MACE, torch-sim, tblite."""

import json
import os
import shutil
import signal
import time
from collections import Counter

import pandas as pd
import pytest
import yaml

from halcyon.campaign import paths
from halcyon.commands.status.standing import find
from halcyon.final.checks import verify
from halcyon.frames import read_frames
from halcyon.models import parity

NOTHING = "Nothing to be done"


def verdict(checkout, campaign, generation, system="methanol"):
    path = checkout / f"results/{campaign}/{system}/gen{generation:03d}/verdict.json"
    return json.loads(path.read_text())


def selected(checkout, campaign, batch, system="methanol"):
    return read_frames(checkout / f"results/{campaign}/{system}/{batch}/selected.parquet")


def jobs(output):
    """Jobs of a dry run, by rule."""
    rows = output.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    return {row.split()[0]: int(row.split()[1]) for row in rows if row.strip()}


def test_a_campaign_runs_to_its_verdict(checkout, finished):
    _, output = finished
    last = verdict(checkout, "undisturbed", 1)
    assert last["decision"] == "max_generations"
    assert last["labels"]["test"] == 5
    assert last["labels"]["spent"] == sum(
        last["labels"][split] for split in ("train", "validation", "test", "bad")
    )
    assert last["failures"]["time_ps"] > 0
    assert last["critical_cli"]["generations"] == [0, 1]
    first = verdict(checkout, "undisturbed", 0)
    assert first["decision"] == "continue"
    assert first["critical_cli"]["generations"] == [0]
    assert first["labels"]["test"] == 5
    for stage in ("forcefield", "pretrain", "train", "domain", "explore", "label", "verdict"):
        assert f" {stage} " in output
    page = (checkout / "results/undisturbed/methanol/report.html").read_text()
    assert "NOT saturated" in page


def test_a_dry_run_leaves_no_trace(checkout):
    config = checkout.configure("untouched")
    assert jobs(checkout.run(config, "-n"))["forcefield"] == 1
    assert not (checkout / "results/untouched").exists()


def test_no_generation_trains_on_held_out_frames(checkout, finished):  # noqa: ARG001
    folder = checkout / "results/undisturbed/methanol"
    keys = {"train": set(), "validation": set(), "test": set()}
    for path in folder.glob("*/labels/*.parquet"):
        for frame in read_frames(path):
            keys[frame.info["split"]].add(frame.info["key"])
    assert not keys["train"] & (keys["validation"] | keys["test"])
    assert len(keys["test"]) == 5


def test_the_teachers_frames_that_the_seed_holds_out_are_not_learned(checkout, finished):  # noqa: ARG001
    folder = checkout / "results/undisturbed/methanol"
    taught = len(read_frames(folder / "teacher/frames.parquet"))
    held_out = sum(f.info["split"] != "train" for f in selected(checkout, "undisturbed", "seed"))
    assert held_out == 11
    learned = json.loads((folder / "teacher/pretrained.json").read_text())
    assert learned["train"]["frames"] + learned["validation"]["frames"] == taught - held_out


def test_a_finished_campaign_has_nothing_to_do(checkout, finished):
    config, _ = finished
    assert NOTHING in checkout.run(config, "-n")
    for part in ("src", "scripts", "workflow", "config"):
        for path in (checkout / part).rglob("*"):
            path.touch()
    (checkout / "Snakefile").touch()
    assert NOTHING in checkout.run(config, "-n")


def test_the_library_knows_where_the_workflows_files_lie(checkout, finished):  # noqa: ARG001
    found = find(checkout / "results/undisturbed")
    jobs = paths.start_jobs(found, "methanol")
    for number in (0, 1):
        jobs += paths.generation_jobs(found, "methanol", number)
    jobs += paths.end_jobs(found, "methanol", verdict(checkout, "undisturbed", 1)["decision"])
    assert [(job.name, path) for job in jobs for path in job.outputs if not path.exists()] == []
    assert [job.name for job in jobs if not job.log.exists()] == []
    # Both generations are over and in order.
    assert paths.finished_generations(found, "methanol") == 2


def test_the_end_of_a_campaign_is_a_model_that_can_be_handed_on(checkout, finished):  # noqa: ARG001
    final = checkout / "results/undisturbed/methanol/final"
    card = json.loads((final / "card.json").read_text())
    assert card["verdict"]["decision"] == "max_generations"
    assert card["certificate"] is None
    assert card["errors"]["test"]["frames"] == 5
    assert "No certificate" in (final / "README.md").read_text()
    last = checkout / "results/undisturbed/methanol/gen001"
    assert (final / "model.model").read_bytes() == (last / "model.model").read_bytes()
    assert card["lammps"]["largest_difference"] < 1e-5


def test_a_certificate_is_only_long_runs_and_is_made_anew_when_the_campaign_goes_on(
    checkout,
    finished,  # noqa: ARG001
    tmp_path,
):
    asked = {"when": "always", "replicas": 2, "time_ps": 0.1, "nve_time_ps": 0.1}
    config = checkout.configure("undisturbed", certificate=asked)
    try:
        planned = {"all": 1, "certify": 1, "final": 1, "report": 1}
        assert jobs(checkout.run(config, "-n")) == planned
        checkout.run(config)
        assert NOTHING in checkout.run(config, "-n")
        shutil.copytree(checkout / "results/undisturbed/methanol/final", tmp_path / "final")
        for folder in (
            checkout / "results/undisturbed/methanol/certificate",
            checkout / "results/undisturbed/methanol/final",
            tmp_path / "final",
        ):
            found = verify(folder / "certificate.json", store=checkout / "results/labels")
            assert [check.text for check in found if check.holds is not True] == []
        longer = checkout.configure("undisturbed", certificate=asked, limits={"max_generations": 3})
        planned = jobs(checkout.run(longer, "-n"))
        assert planned["train"] == 1
    finally:
        checkout.configure("undisturbed")
        checkout.run(config)  # other tests count on the end of the campaign as it was


def test_another_generation_is_only_new_work(checkout, finished):  # noqa: ARG001
    # A second opinion is asked for from now on: finished generations stay as they are.
    config = checkout.configure(
        "undisturbed",
        limits={"max_generations": 3},
        audit={"second_opinion": "gfn1", "second_opinion_frames": 60},
    )
    try:
        planned = jobs(checkout.run(config, "-n"))
        assert planned["train"] == planned["explore"] == planned["verdict"] == 1
        assert planned["second_opinion"] == 1
        assert "forcefield" not in planned
        assert "pretrain" not in planned
        before = (checkout / "results/undisturbed/methanol/gen000/model.model").stat().st_mtime_ns
        checkout.run(config)
        last = verdict(checkout, "undisturbed", 2)
        assert last["generation"] == 2
        assert last["audit"]["second_opinion"] == "gfn1"
        second = last["audit"]["parts"][0]["second_opinion"]
        # So poor a model loses replicas, and how many random frames are left is its affair.
        kept = len(read_frames(checkout / "results/undisturbed/methanol/gen002/reservoir.parquet"))
        judged = min(60, kept)
        assert (second["frames"], second["failed"]) == (judged, 0)
        assert f"by a second opinion on {judged} frames" in last["audit"]["reason"]
        assert last["signals"][-1]["name"] == "second_opinion"
        costs = pd.read_parquet(checkout / "results/undisturbed/methanol/cost.parquet")
        assert costs[costs["stage"] == "second_opinion"]["generation"].tolist() == [2]
        after = (checkout / "results/undisturbed/methanol/gen000/model.model").stat().st_mtime_ns
        assert after == before
    finally:
        checkout.configure("undisturbed")


def kill_when(process, happened):
    """kill -9 the whole process group as soon as something has happened."""
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_while_exploring_it_goes_on_and_ends_the_same(checkout, finished):  # noqa: ARG001
    config = checkout.configure("killed", label_store="results/killed-labels")
    work = checkout / "results/killed/work/methanol"
    process = checkout.start(config)
    kill_when(process, lambda: list(work.glob("gen000/explore/*.checkpoint")))
    assert not (checkout / "results/killed/methanol/gen000/traces.parquet").exists()
    checkout.run(config)
    for batch in ("seed", "gen000", "gen001"):
        one, other = (selected(checkout, name, batch) for name in ("undisturbed", "killed"))
        assert [f.info["key"] for f in one] == [f.info["key"] for f in other]
    for generation in (0, 1):
        traces = [
            pd.read_parquet(
                checkout / f"results/{name}/methanol/gen{generation:03d}/traces.parquet"
            )
            for name in ("undisturbed", "killed")
        ]
        pd.testing.assert_frame_equal(*traces, check_exact=True)
        one, other = (verdict(checkout, name, generation) for name in ("undisturbed", "killed"))
        for told in (one, other):
            told.pop("core_hours")  # what it cost is the machine's
        assert one == other


def test_killed_while_pretraining_it_goes_on_to_the_same_model(checkout, finished):  # noqa: ARG001
    config = checkout.configure("broken", pretraining={"epochs": 3})
    work = checkout / "results/broken/work/methanol"
    process = checkout.start(config)
    kill_when(process, lambda: list(work.glob("start/pretrain/mace-run/checkpoint.pt")))
    assert not (checkout / "results/broken/methanol/teacher/pretrained.model").exists()
    output = checkout.run(config, "--until", "pretrain")
    assert "going on after epoch" in output
    one, other = (
        json.loads((checkout / f"results/{name}/methanol/teacher/pretrained.json").read_text())
        for name in ("undisturbed", "broken")
    )
    assert one["curve"] == other["curve"]
    assert one["test"] == other["test"]


def test_a_campaign_starts_from_a_model_of_the_users(checkout, finished):  # noqa: ARG001
    start = "results/undisturbed/methanol/gen000/model.model"
    config = checkout.configure(
        "adopted",
        pretraining={"start": start},
        training={"replay_frames": 20, "freeze": "embedding"},
        limits={"max_generations": 1},
    )
    output = checkout.run(config, "--until", "train")
    assert f"{start}: H, C, O; 2 layers, cutoff 3 Å" in output
    assert "labelled by the start model, to be replayed" in output
    folder = checkout / "results/adopted/methanol"
    replayed = read_frames(folder / "teacher/replay.parquet")
    assert {atoms.info["reason"] for atoms in replayed} == {"labelled by the start model"}
    metrics = json.loads((folder / "gen000/metrics.json").read_text())
    assert metrics["learning"]["replay_weight"] == 0.1  # by default, with a user's model
    assert sum(metrics["learning"]["replayed"].values()) == len(replayed)
    usual = checkout / "results/undisturbed/methanol/gen000/metrics.json"
    assert metrics["train"]["frames"] == json.loads(usual.read_text())["train"]["frames"]
    kinds = [scan["kind"] for scan in metrics["forgetting"]["scans"]]
    assert (kinds.count("dimer"), kinds.count("bond")) == (6, 3)
    config = checkout.configure("adopted", pretraining={"start": "none.model"})
    assert "none.model" in checkout.run(config, "-n", fails=True)


def test_a_generation_leaves_what_a_report_draws(checkout, finished):  # noqa: ARG001
    folder = checkout / "results/undisturbed/methanol/gen001"
    found = parity.read(folder / "parity.parquet")
    assert len(found["energy"]["predicted"]) == 5
    assert len(found["force"]["predicted"]) == 5 * 6 * 3
    moved = json.loads((folder / "drift.json").read_text())
    assert set(moved["before"]) == set(moved["after"])
    assert all(entry["shift"] >= 0 for entry in moved["after"].values())


def test_two_at_once_is_one_clear_message(checkout):
    config = checkout.configure("twice")
    process = checkout.start(config)
    try:
        lock = checkout / "results/twice/.lock"
        while not (lock.exists() and lock.read_text()):
            time.sleep(0.05)
        output = checkout.run(config, fails=True)
        assert "another Halcyon process works here" in output
        assert f"process {process.pid}" in output
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_adding_a_molecule_is_one_file_and_one_line(checkout):
    (checkout / "config/systems/dimethyl_ether.yaml").write_text(
        yaml.safe_dump(
            {
                "name": "dimethyl_ether",
                "forcefield": {
                    "kind": "forcefield_xml",
                    "files": ["config/forcefields/small-molecules.xml"],
                },
                "structures": [{"name": "dimethyl_ether", "smiles": "COC", "box_A": 9.0}],
            }
        )
    )
    config = checkout.configure(
        "third",
        systems=["methanol", "dimethyl_ether"],
        limits={"max_generations": 1},
        audit={"frames": 9},  # as many as the campaign before had for each of two generations
    )
    checkout.run(config)
    for system in ("methanol", "dimethyl_ether"):
        assert verdict(checkout, "third", 0, system)["decision"] == "max_generations"
    # Methanol's labels were paid for by the campaign before: found in the shared store.
    campaigns = Counter(
        frame.info["campaign"]
        for path in (checkout / "results/third/methanol").glob("*/labels/*.parquet")
        for frame in read_frames(path)
    )
    # 21 of the seed, 6 selected and 9 random ones.
    assert campaigns == {"undisturbed": 36}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exploration": {"replica": 3}}, ["bad.yaml", "exploration.replica", "replicas"]),
        ({"systems": ["methane1"]}, ["bad.yaml", "methane1", "methanol"]),
        (
            {
                "reference": {
                    "backend": "cp2k",
                    "level": "config/cp2k/pbe-d3-dzvp.yaml",
                    "command": "no-such-cp2k",
                }
            },
            ["bad.yaml", "command", "no-such-cp2k"],
        ),
    ],
)
def test_bad_input_stops_before_the_first_job(checkout, changes, words):
    output = checkout.run(checkout.configure("bad", **changes), fails=True)
    for word in words:
        assert word in output
    assert "Traceback" not in output
    assert not (checkout / "results/bad").exists() or not list(
        (checkout / "results/bad").glob("*/teacher")
    )
