"""Which generations are over and in order, and the pattern that keeps them out of the graph."""

import os
import re
import time

import pytest
from fabricated import campaign, finish

from halcyon.campaign import paths


def touch(path, seconds=0.0):
    when = time.time() + seconds
    os.utime(path, (when, when))


@pytest.fixture
def three(tmp_path):
    made = campaign(tmp_path)
    finish(made, 3)
    return made


def test_finished_generations_are_counted(three):
    assert paths.finished_generations(three, "methanol") == 3
    assert list(paths.generations(three, "methanol")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("methanol/gen001/model.model", 1),  # newer than the domain made of it
        ("methanol/gen001/labels/000.parquet", 1),  # newer than the verdict that counts it
        ("methanol/gen000/candidates.parquet", 0),
        ("methanol/seed/selected.parquet", 0),
        ("methanol/teacher/pretrained.model", 0),
        ("methanol/gen001/verdict.json", 3),  # nothing reads it
        ("methanol/logs/gen001-train.log", 3),
    ],
)
def test_what_was_touched_is_looked_at_again(three, path, left):
    touch(three.folder / path)
    assert paths.finished_generations(three, "methanol") == left


def test_what_is_missing_is_looked_at_again(three):
    (three.folder / "methanol/gen001/labels/001.parquet").unlink()
    assert paths.finished_generations(three, "methanol") == 1


def test_another_force_field_finishes_nothing(three, tmp_path):
    touch(tmp_path / "small-molecules.xml")
    assert paths.finished_generations(three, "methanol") == 0


@pytest.mark.parametrize(("signals", "count"), [(["committee"], 0), (["latent"], 3)])
def test_another_committee_finishes_nothing_where_it_is_watched(tmp_path, signals, count):
    member = tmp_path / "other.model"
    member.touch()
    touch(member, -1e5)
    made = campaign(tmp_path, domain={"signals": signals, "committee": [str(member)]})
    finish(made, 3)
    assert paths.finished_generations(made, "methanol") == 3
    touch(member)
    assert paths.finished_generations(made, "methanol") == count


def test_the_generation_that_ends_the_campaign_is_the_last_that_counts(tmp_path):
    made = campaign(tmp_path)
    finish(made, 2, decision="saturated")
    assert paths.finished_generations(made, "methanol") == 1


def test_a_campaign_that_an_early_release_has_finished_stays_as_it_is(tmp_path):
    made = campaign(tmp_path)
    finish(made, 2, decision="saturated")
    for number in (0, 1):  # early releases kept no random frames
        (made.folder / f"methanol/gen{number:03d}/reservoir.parquet").unlink()
    assert paths.finished_generations(made, "methanol") == 1


def test_a_second_opinion_is_a_job_of_the_generations_that_have_it(tmp_path):
    made = campaign(tmp_path)
    finish(made, 1)
    asking = campaign(tmp_path, audit={"second_opinion": "gfn2"})

    def stages(number):
        return [job.stage for job in paths.generation_jobs(asking, "methanol", number)]

    assert "second_opinion" not in stages(0), "it was judged before"
    assert paths.finished_generations(asking, "methanol") == 1
    assert stages(1)[3] == "second_opinion"
    assert "second_opinion" not in [j.stage for j in paths.generation_jobs(made, "methanol", 1)]


def test_a_second_opinion_that_is_newer_is_read_by_its_verdict_only(tmp_path):
    made = campaign(tmp_path, audit={"second_opinion": "gfn2"})
    finish(made, 2)
    assert paths.finished_generations(made, "methanol") == 2
    path = made.folder / "methanol/gen000/second_opinion.parquet"
    # Made while labels were computed: after the selection, before the verdict.
    label = (made.folder / "methanol/gen000/labels/001.parquet").stat().st_mtime
    os.utime(path, (label, label))
    assert paths.finished_generations(made, "methanol") == 2
    touch(path)
    assert paths.finished_generations(made, "methanol") == 0


def test_the_pattern_leaves_finished_generations_out():
    system = "methanol" + paths.excluding_generations(2)
    model = re.compile(rf"r/(?P<system>{system})/gen(?P<gen>\d{{3}})/model\.model")
    labels = re.compile(rf"r/(?P<system>{system})/(?P<batch>seed|gen\d{{3}})/labels/0\.parquet")
    assert [bool(model.fullmatch(f"r/methanol/gen{n:03d}/model.model")) for n in range(4)] == [
        False,
        False,
        True,
        True,
    ]
    assert not labels.fullmatch("r/methanol/seed/labels/0.parquet")
    assert labels.fullmatch("r/methanol/gen002/labels/0.parquet")
    assert re.fullmatch(system, "methanol"), "Snakemake asks for the wildcard alone, too"
    assert re.fullmatch("methanol" + paths.excluding_generations(0) + "/seed/x", "methanol/seed/x")
