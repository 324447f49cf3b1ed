"""The page: its tables, what it loads, and that foreign text stays text."""

import hashlib
import re

import pytest

from halcyon import files, report
from halcyon.report.page import TEMPLATES, molecules, render
from halcyon.report.page.axes import MAX_POINTS
from toy_campaign import HOSTILE, Page, show, write_diagnoses


def test_the_page_shows_the_numbers_in_the_files(toy):
    page = show(*toy())
    summary = page.tables["summary"]
    assert len(summary) == 3
    assert page.column("summary", "Labels learned") == ["21/15/20", "26/16/20"]
    assert page.column("summary", "Labels spent") == ["61/500", "67/500"]
    assert page.column("summary", "Frames without label") == [
        "1 unconverged, 1 crashed",
        "1 unconverged, 2 crashed",
    ]
    assert page.column("summary", "Test force MAE, meV/Å") == ["123.4", "61.7"]
    assert page.column("summary", "Replicas failed") == ["2/4", "0/4"]
    assert page.column("summary", "Excursions per atom") == ["0.0123"] * 2
    assert page.column("summary", "95 % bound of excursions") == ["0.0456"] * 2
    assert page.column("summary", "Decision") == ["continue", "saturated"]
    assert page.tables["teacher"][1] == ["water", "290", "140", "17", "3"]
    assert page.column("fates-table", "Dropped: atoms overlap") == ["4", "4"]
    assert page.column("margins", "Margin") == ["0.345 (0.21–0.56)"] * 2
    assert page.column("margins", "Test atoms outside without margin") == ["–"] * 2
    assert page.column("margins", "Test atoms outside with margin") == ["1.20 % (0.10–3.40 %)"] * 2
    assert page.tables["classes"][1][:4] == ["water:O0", "1", "20", "-1.000 to -0.500"]
    assert page.tables["times"][1:] == [
        ["train", "2", "2.0 min", "4.0 min", "50 %"],
        ["label", "1", "60 s", "4.0 min", "50 %"],
        ["all", "3", "3.0 min", "8.0 min", "100 %"],
    ]
    digest = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    assert digest in page.texts["provenance"]


def test_damaged_files_of_the_label_store_are_shown(toy):
    campaign, verdicts = toy()
    assert "damaged-shards" not in show(campaign, verdicts).texts
    shard = campaign.settings.label_store / "abc123" / "sha256-0.parquet.damaged"
    shard.parent.mkdir(parents=True)
    shard.touch()
    assert str(shard) in show(campaign, verdicts).texts["damaged-shards"]


def test_too_little_data_is_not_called_saturated(toy):
    campaign, verdicts = toy(["max_generations"], failing=lambda _: 0)
    told = files.read_json(verdicts[0])
    told["saturation"] |= {
        "finding": "not enough data",
        "reason": "0 atom-ps in the late window cannot show a rate under 0.1/ps",
        "rate_bound_per_atom_ps": None,
    }
    files.write_json(verdicts[0], told)
    verdict = show(campaign, verdicts).texts["verdict"]
    assert verdict.startswith("NOT saturated")
    assert "but 0 atom-ps in the late window cannot show" in verdict


def test_nothing_is_loaded_from_anywhere(toy):
    page = show(*toy())
    assert page.loads == []
    assert [link for link in page.links if not link.startswith("#")] == [
        "https://arxiv.org/abs/2509.14205",
        "https://arxiv.org/abs/2206.07697",
    ]
    assert page.scripts == ["plotly", "viewer", "figures", "scenes", "plots", "look"]
    own = [path for path in TEMPLATES.rglob("*") if path.is_file() and path.parent.name != "vendor"]
    assert len(own) > 10
    for path in own:
        assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest", path.read_text()), path
    assert "default-src 'none'" in (TEMPLATES / "page.html.jinja").read_text()


def test_the_viewer_is_the_one_that_was_published():
    digest = hashlib.sha256((TEMPLATES / "vendor/3Dmol-min.js").read_bytes()).hexdigest()
    # Of build/3Dmol-min.js in the published package 3dmol 2.5.5; see docs/decisions/page.md.
    assert digest == "f7cc78921ae72e7623e89cdd111434f58c2efddd2ffda1cd212644b406fb8016"


def test_every_plot_is_told_in_words(toy, rattled):
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    page = show(campaign, verdicts)
    assert set(page.plots) == set(page.figures)
    for place, words in page.plots.items():
        assert len(words.split()) > 5, place


def test_the_reader_is_told_what_to_do_next(toy):
    campaign, verdicts = toy(["max_generations"])
    assert "limits.max_generations over" in show(campaign, verdicts).texts["next"]
    # Two of eleven calculations would be few; here 20 of 61 gave nothing.
    campaign, verdicts = toy(["budget_spent"], bad=[("crashed", "no luck")] * 20, candidates=0)
    told = show(campaign, verdicts).texts["next"]
    assert "limits.label_budget over 500" in told


def test_selected_frames_can_be_looked_at(toy, rattled):
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    found = show(campaign, verdicts).scenes
    assert found["symbols"] == {"water": ["O", "H", "H"]}
    kinds = [(scene["generation"], scene["kind"]) for scene in found["scenes"]]
    assert kinds == [(1, "mean"), *[(1, "selected")] * 3, (0, "mean"), *[(0, "selected")] * 3]
    mean, first, second, _ = found["scenes"][:4]
    assert mean["cli"] == [0.015, 0.5, 0.25]  # of replicas 0 to 3
    assert (first["atom"], first["scores"], first["cli"]) == (2, None, [0.001, 0.002, 0.004])
    assert second["scores"] == [0, 0.1, 0.3]
    assert len(second["positions"]) == 9


def test_frames_beyond_the_limit_are_counted(toy, rattled, monkeypatch):
    monkeypatch.setattr(molecules, "MAX_ATOMS", 9)
    campaign, verdicts = toy()
    write_diagnoses(verdicts, rattled)
    text = render(report.collect(campaign, "toy", verdicts))
    found = Page(text).scenes
    assert [(s["generation"], s["kind"]) for s in found["scenes"]] == [
        (1, "mean"),
        (1, "selected"),
        (1, "selected"),
    ]
    assert re.search(r"2 of\s+6 selected frames are here", text)


def test_ten_generations_of_32_replicas_stay_under_10_MB(toy, rattled):  # noqa: N802
    decisions = ["continue"] * 9 + ["saturated"]
    campaign, verdicts = toy(decisions, replicas=32, points_per_ps=1000, failing=lambda _: 4)
    write_diagnoses(verdicts, rattled)
    found = report.collect(campaign, "toy", verdicts)
    assert sum(len(g.traces) for g in found.generations) > 500_000
    text = render(found)
    assert len(text.encode()) < 10_000_000
    page = Page(text)
    drawn = sum(x is not None for t in page.figures["cli-label"]["data"] for x in t["x"])
    assert 5_000 < drawn < 1.2 * MAX_POINTS
    assert re.search(r"[\d,]+ of [\d,]+ points are drawn", text)


def test_foreign_text_is_escaped(toy):
    campaign, verdicts = toy(description="<img src=x onerror=alert(1)>")
    found = report.collect(campaign, "toy", verdicts)
    text = render(found)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    page = Page(text)
    assert [row[-1] for row in page.tables["messages"][1:]] == ["no luck", HOSTILE, HOSTILE]
    assert page.column("messages", "Batch") == ["seed", "gen000", "gen001"]


@pytest.mark.parametrize(("number", "failed"), [(1, 0), (1, 4), (20, 4)])
def test_one_to_twenty_generations_whether_all_or_none_fail(toy, number, failed):
    decisions = ["continue"] * (number - 1) + ["max_generations"]
    page = show(*toy(decisions, failing=lambda _: failed))
    assert len(page.tables["summary"]) == number + 1
    told = "–" if failed else "0.0456"
    assert set(page.column("summary", "95 % bound of excursions")) == {told}
    assert f"{failed} of 4 replicas failed" in page.texts["verdict"]


def test_several_structures_no_candidates_no_pretraining_no_bad_frame(toy):
    page = show(*toy(structures=("water", "ice"), pretraining=False, candidates=0, bad=()))
    assert page.column("replicas", "Structure") == ["water", "ice"] * 2
    assert [row[0] for row in page.tables["teacher"][1:]] == ["water", "ice"]
    assert page.column("fates-table", "Candidates") == ["0", "0"]
    assert "messages" not in page.tables
    assert {trace["meta"] for trace in page.figures["training-forces"]["data"]} == {0, 1}


def test_the_numbers_of_a_verdict_are_those_on_the_page(toy):
    campaign, verdicts = toy(["max_generations"])
    told = files.read_json(verdicts[0])
    told["failures"] = {
        "failures": 2,
        "time_ps": 12.0,
        "rate_per_ps": 0.125,
        "bound_per_ps": 0.789,
        "confidence": 0.9,
    }
    files.write_json(verdicts[0], told)
    page = show(campaign, verdicts)
    assert page.column("rates", "90 % bound of failures") == ["0.789"]
    assert "with 90 % confidence fewer than 1 per 1.2 ps" in page.texts["failure-rate"]
