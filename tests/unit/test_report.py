"""What a campaign came to, in sentences; which files tell it."""

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from halcyon import files, report
from halcyon.errors import InputError
from halcyon.report import page
from toy_campaign import show, write_audits


@pytest.mark.parametrize(
    ("decision", "sentence"),
    [
        (
            "saturated",
            "Saturated after 2 generations: fewer than 0.0456 excursions per atom and ps "
            "(95 % bound, limit 0.1), 0 of 4 replicas failed.",
        ),
        ("max_generations", "NOT saturated: the campaign ended after 2 generations, the most"),
        ("budget_spent", "NOT saturated: the label budget is spent (67 of 500)"),
        ("continue", "Not finished: not saturated after 2 generations so far."),
    ],
)
def test_the_verdict_stands_at_the_top(toy, decision, sentence):
    page = show(*toy(("continue", decision)))
    assert page.texts["verdict"].startswith(sentence)
    assert "0 of 4 replicas failed" in page.texts["verdict"]
    assert "4 replicas of up to 2 ps at 500 K" in page.texts["coverage"]


@pytest.mark.parametrize(
    ("exploration", "verdict", "coverage"),
    [
        ({}, "Saturated after", "at 500 K with"),
        (
            {"ensemble": "nve"},
            "Saturated without a thermostat (NVE) after",
            "thermostat (NVE) with",
        ),
        (
            {"ensemble": "npt", "bias": {"kind": "ramp", "to_K": 900}},
            "Saturated on a temperature ramp to 900 K at constant pressure (NPT, 1 bar) after",
            "not of plain dynamics",
        ),
        (
            {
                "bias": {
                    "kind": "metadynamics",
                    "variables": [{"kind": "distance", "atoms": [0, 1], "sigma_A": 0.1}],
                }
            },
            "Saturated under metadynamics after",
            "at 500 K under metadynamics with",
        ),
    ],
)
def test_what_is_no_plain_dynamics_is_said(toy, exploration, verdict, coverage):
    found = report.collect(*collected(toy(["saturated"], exploration=exploration)))
    assert report.verdict_sentence(found).startswith(verdict)
    assert coverage in report.coverage_sentence(found)


def test_an_exploration_that_ended_early_says_why(toy, rattled):
    campaign, verdicts = toy(["continue"])
    write_audits(verdicts, rattled)
    found = report.collect(campaign, "toy", verdicts)
    assert "ended early" not in report.calm_text(found)
    path = verdicts[0].with_name("exploration.json")
    files.write_json(path, files.read_json(path) | {"ended_early": "toy at 500 K: all failed"})
    found = report.collect(campaign, "toy", verdicts)
    assert report.calm_text(found).endswith(
        " The exploration ended early, at 2 ps (exploration.early_end): toy at 500 K: all failed."
    )


def test_large_numbers_leave_room_for_the_decision_in_100_columns(toy, rattled):
    campaign, verdicts = toy(["saturated"])
    write_audits(verdicts, rattled)
    large = {"events_per_ns": 594_959.0, "events_bound_per_ns": 1_213_456.0}
    content = files.read_json(verdicts[0])
    content["saturation"]["parts"][0] |= large
    content["audit"]["parts"][0]["forces_mae_meV_per_A"] = {"value": 114, "low": 94.2, "high": 138}
    files.write_json(verdicts[0], content)
    found = report.collect(campaign, "toy", verdicts)
    (of,) = found.generations
    traces = of.traces.assign(cli_error=of.traces["cli_error"] * 1.2345e-3)
    learned = {"train": 146, "validation": 69, "test": 20}
    found.generations[0] = replace(of, learned=learned, spent=325, budget=900, traces=traces)
    text = StringIO()
    Console(file=text, width=100).print(report.summary_table(found))
    assert "5.9·10⁵ 1.2·10⁶ saturated" in text.getvalue()
    assert "114 (94.2–138)" in text.getvalue()
    assert "…" not in text.getvalue()


def test_the_budget_that_ran_out_is_named(toy):
    campaign, verdicts = toy(["budget_spent"], bad=[("crashed", "")] + [("not computed", "")] * 3)
    told = files.read_json(verdicts[0])
    told["labels"]["spent"] = 10
    for hours, sentence, limit in (
        (
            {"spent": 2.5, "limit": 2.0},
            "core-hours is spent (2.5 of 2)",
            "limits.core_hours over 2.5",
        ),
        (
            {"spent": 1.9, "limit": 2.0},
            "core-hours is spent (1.9 of 2)",
            "limits.core_hours over 1.9",
        ),
    ):
        files.write_json(verdicts[0], told | {"core_hours": hours})
        found = report.collect(campaign, "toy", verdicts)
        assert sentence in report.verdict_sentence(found)
        assert limit in report.next_step(found)
        # One of 10 calculations failed; those that were not made did not fail.
        assert "gave no label" not in report.next_step(found)
    campaign, verdicts = toy(["budget_spent"])
    hours = {"spent": 1.9, "limit": 2.0}
    files.write_json(verdicts[0], files.read_json(verdicts[0]) | {"core_hours": hours})
    found = report.collect(campaign, "toy", verdicts)
    assert "the label budget is spent (61 of 500)" in report.verdict_sentence(found)
    assert "limits.label_budget over 500" in report.next_step(found)


def collected(made):
    campaign, verdicts = made
    return campaign, "toy", verdicts


def test_verdicts_are_found_up_to_the_one_that_ended_it(toy):
    campaign, verdicts = toy(("continue", "saturated", "saturated"))
    folder, settings = verdicts[0].parents[1], campaign.systems["toy"].settings
    assert report.find_verdicts(folder, settings) == verdicts[:2]


def test_verdicts_go_on_behind_a_limit_that_was_raised(toy):
    campaign, verdicts = toy(("max_generations", "continue"))
    folder, settings = verdicts[0].parents[1], campaign.systems["toy"].settings
    least = settings.limits.model_copy(update={"max_generations": 1})
    assert report.find_verdicts(folder, settings) == verdicts
    limited = settings.model_copy(update={"limits": least})
    assert report.find_verdicts(folder, limited) == verdicts[:1]


def test_without_a_generation_there_is_no_report(toy):
    campaign, _ = toy()
    with pytest.raises(InputError, match="no generation is finished"):
        report.collect(campaign, "toy", [])


def test_a_page_is_made_without_what_was_deleted_of_the_teacher(toy):
    campaign, verdicts = toy()
    system = verdicts[0].parents[1]
    (system / "teacher/counts.json").unlink()
    (system / "teacher/pretrained.json").unlink()
    contents = report.collect(campaign, "toy", verdicts)
    assert contents.teacher == {}
    assert contents.pretraining == []
    assert page.render(contents)
