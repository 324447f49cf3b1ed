"""What the page says and draws of the audit, the signals and the events."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from halcyon import files, report
from halcyon.campaign.lengths import exploring_for
from halcyon.domain import Domain
from halcyon.domain.curves import Pairs
from halcyon.domain.expected import fit_expected
from halcyon.verdict.saturation import explored
from toy_campaign import (
    TIME_PS,
    TOLERANCE,
    make_audit,
    make_audited,
    make_calm,
    make_signal,
    show,
    write_audits,
)


@pytest.fixture
def audited(toy, rattled):
    """A campaign of two generations whose second one gets what is given."""

    def make(decisions=("continue", "saturated"), **given):
        campaign, verdicts = toy(list(decisions), failing=lambda _: 0)
        write_audits(verdicts, rattled, **given)
        return campaign, verdicts

    return make


def collected(made):
    return report.collect(made[0], "toy", made[1])


def text_of(page, place):
    return " ".join(page.texts[place].split())


def test_errors_stand_on_the_page_with_interval_and_goal(audited):
    page = show(*audited())
    assert page.tables["audit-table"][1] == [
        "1",
        "water",
        "500",
        "12 / 4",
        "0",
        "30 (24–36)",
        "43",
        "60 (45–90)",
        "0.11 (0.08–0.15)",
        "1.5 (1.1–2.25)",
        "5",
        "passed",
    ]
    assert page.column("audit-all", "Force MAE") == ["90 (72–108)", "30 (24–36)"]
    told = text_of(page, "audit")
    assert told.startswith(
        "Right on 12 random frames of its own dynamics: forces wrong by up to 36 meV/Å on average "
        "(goal 43) and energies wrong by up to 2.25 meV/atom on average (goal 5), with 99 % "
        "confidence."
    )
    assert page.column("summary", "Audit force MAE") == ["90 (72–108)", "30 (24–36)"]


def judged_twice(**changes):
    """The audit of a generation that had a second opinion."""
    second = {"frames": 200, "failed": 3, "factor": 0.8, "difference_meV_per_A": 33.0}
    second["forces_mae_meV_per_A"] = {"value": 29.0, "low": 26.5, "high": 31.8}
    part = make_audited("water", 500.0, forces=30.0) | {"second_opinion": second | changes}
    return make_audit([part]) | {"second_opinion": "gfn1"}


def test_a_second_opinion_stands_beside_the_plain_error(audited):
    page = show(*audited(audit=judged_twice()))
    column = "… with foretold errors (interval), meV/Å"
    assert page.column("audit-all", "Force MAE") == ["90 (72–108)", "30 (24–36)"]
    assert page.column("audit-all", column) == ["–", "29 (26.5–31.8); 200 frames, 3 failed"]
    words = text_of(page, "audit")
    assert "forces wrong by up to 31.8 meV/Å on average (goal 43)" in words
    assert (
        "Forces of water at 500 K are judged with the second opinion (GFN1-xTB) on 200 random "
        "frames, 3 of them without an answer: 29 (26.5–31.8) meV/Å; by the labels alone 30 (24–36)."
    ) in words
    assert "with foretold errors: 29 (26.5 to 31.8)" in page.plots["audit-forces"]
    assert "second opinion" not in page.plots["audit-energy"]


def test_a_second_opinion_that_does_not_count_says_why(audited):
    reason = "it has no forces of 90 of 200 frames"
    page = show(*audited(audit=judged_twice(forces_mae_meV_per_A=None, reason=reason)))
    assert f"(GFN1-xTB) does not count for water at 500 K: {reason}." in text_of(page, "audit")
    assert "forces wrong by up to 36 meV/Å" in text_of(page, "audit")
    assert "with foretold errors" not in page.plots["audit-forces"]


def test_the_index_stands_beside_the_plain_error(audited):
    audit = judged_twice(failed=0, difference_meV_per_A=None) | {"second_opinion": "index"}
    assert (
        "Forces of water at 500 K are judged with the index's expectation on 200 random frames: "
        "29 (26.5–31.8) meV/Å; by the labels alone 30 (24–36)."
    ) in text_of(show(*audited(audit=audit)), "audit")


def test_the_audit_is_above_the_curves(audited):
    campaign, verdicts = audited()
    text = report.page.render(collected((campaign, verdicts)))
    places = [text.index(f'id="{name}"') for name in ("audit-forces", "audit-parity", "cli-error")]
    assert places == sorted(places)


def test_errors_by_generation_end_at_their_intervals_and_the_line_is_the_goal(audited):
    figure = show(*audited()).figures["audit-forces"]
    for trace, error in zip(figure["data"], (90.0, 30.0), strict=True):
        assert trace["y"] == [error]
        assert trace["error_y"]["array"] == pytest.approx([0.2 * error])
        assert trace["error_y"]["arrayminus"] == pytest.approx([0.2 * error])
    (line,) = figure["layout"]["shapes"]
    assert (line["y0"], line["y1"]) == (43, 43)


def test_bad_atoms_are_marked_and_whether_they_were_flagged(audited):
    page = show(*audited())
    clouds = {trace["name"]: trace for trace in page.figures["audit-parity"]["data"]}
    # Of 36 atoms four oxygens are off by 0.45 eV/Å along z; two of them were expected to be.
    assert {name: len(cloud["x"]) for name, cloud in clouds.items()} == {
        "good": 3 * 32,
        "bad, flagged": 3 * 2,
        "bad, not flagged": 3 * 2,
        "equal": 2,
    }
    for name in ("bad, flagged", "bad, not flagged"):
        off = np.subtract(clouds[name]["y"], clouds[name]["x"]).reshape(-1, 3)
        assert off == pytest.approx(np.tile([0, 0, 1.5 * TOLERANCE], (2, 1)), abs=2e-3)
        assert all(words.startswith("O0 of water, replica") for words in clouds[name]["text"])
    points = {trace["name"]: trace for trace in page.figures["audit-expected"]["data"]}
    assert points["bad, flagged"]["x"] == [0.4, 0.4]
    assert points["bad, not flagged"]["x"] == [0.1, 0.1]
    assert points["bad, flagged"]["y"] == pytest.approx([0.45, 0.45])
    # One good atom of 32 was expected to be bad.
    assert "2 of 4 bad atoms were flagged, and 1 of 32 good ones" in page.plots["audit-expected"]


def test_without_expectations_bad_atoms_are_only_bad(audited):
    page = show(*audited(predicted=False))
    clouds = {trace["name"]: len(trace["x"]) for trace in page.figures["audit-parity"]["data"]}
    assert clouds == {"good": 96, "bad": 12, "equal": 2}
    assert "audit-expected" not in page.figures


def test_the_worst_structure_and_temperature_is_named(audited):
    parts = [make_audited("water", 500.0, forces=20.0), make_audited("ice", 300.0, forces=40.0)]
    page = show(*audited(audit=make_audit(parts, finding="missed")))
    assert text_of(page, "audit").startswith("Wrong on 24 random frames")
    assert "up to 48 meV/Å on average (goal 43, ice at 300 K)" in text_of(page, "audit")
    assert page.column("summary", "Audit force MAE")[1] == "40 (32–48)"
    assert page.column("audit-table", "Structure") == ["water", "ice"]


def test_where_accuracy_was_not_asked_for_the_page_says_so(audited):
    goals = {"forces_goal_meV_per_A": None, "energy_goal_meV_per_atom": None}
    parts = [make_audited("water", 500.0, forces=200.0)]
    audit = make_audit(parts, finding="accuracy was not asked for", **goals)
    page = show(*audited(audit=audit))
    assert text_of(page, "audit").startswith("Accuracy was not asked for")
    assert "up to 240 meV/Å on average (no goal)" in text_of(page, "audit")
    assert page.column("audit-table", "Goal, meV/Å") == ["not asked for"]
    assert page.texts["verdict"].rstrip().endswith("; accuracy was not asked for.")
    assert "shapes" not in page.figures["audit-forces"]["layout"]


def test_little_data_is_called_so(audited):
    few = make_audited("water", 500.0, forces=30.0, frames=5, replicas=2, bad=3)
    told = text_of(show(*audited(audit=make_audit([few]))), "audit")
    assert "Few frames: 5 of water at 500 K" in told
    assert "Few replicas: 2 of water at 500 K" in told
    assert "3 of 8 audit frames have no label" in told
    assert "Few" not in text_of(show(*audited()), "audit")


def test_without_a_label_that_can_be_trusted_nothing_is_claimed(audited):
    none = dict.fromkeys(
        (
            "forces_mae_meV_per_A",
            "forces_rmse_meV_per_A",
            "atom_error_q95_eV_per_A",
            "energy_mae_meV_per_atom",
        )
    )
    empty = make_audited("water", 500.0, forces=1.0, frames=0, bad=5, replicas=0) | none
    audit = make_audit([empty], finding="not enough data", reason="no frame has a label")
    page = show(*audited(["max_generations"], audit=audit))
    assert "whether it is right cannot be said: no frame has a label" in page.texts["verdict"]
    assert page.column("audit-table", "Force MAE") == ["–"]
    assert "audit-forces" not in page.figures
    assert "raise audit.frames (no frame has a label)" in page.texts["next"]


def test_signals_are_told_with_what_they_saw(audited):
    page = show(*audited())
    assert page.column("signals-table", "Signal") == ["expected error", "node energy"]
    assert page.column("signals-table", "AUROC") == ["0.93 (0.83–0.97)", "0.52 (0.42–0.56)"]
    assert page.column("signals-table", "Bad atoms flagged") == ["50 (20–80)"] * 2
    assert page.column("signals-table", "False alarms") == ["4 (1–10)"] * 2
    assert page.column("signals-table", "In words") == ["sees errors; decides", "blind"]
    assert text_of(page, "signals") == (
        "The index counts by the expected error. Blind, no better than chance, is node energy."
    )
    assert len(page.tables["signals-all"]) == 5


def test_a_blind_index_is_called_blind(audited):
    signals = [make_signal("error", 0.5, blind=True, bad_atoms=3), make_signal("guard", None)]
    page = show(*audited(signals=signals))
    told = text_of(page, "signals")
    assert "expected error, which is blind" in told
    assert "the audit alone says whether the model is right" in told
    assert "have 3 bad atoms: these numbers rest on little" in told
    assert page.column("signals-table", "In words")[1] == "not enough data to tell"
    assert page.column("signals-table", "AUROC")[1] == "too few atoms"
    signals = [make_signal("latent", 0.5, blind=True)]
    told = text_of(show(*audited(signals=signals)), "signals")
    assert told.startswith("No signal decides")


def test_events_stand_on_the_page_with_bound_and_limit(audited):
    parts = [
        make_calm("water", 500.0, events=0),
        make_calm("ice", 300.0, events=1, active_at_begin=1, decorrelation_ps=None),
    ]
    page = show(*audited(calm={"parts": parts}))
    assert page.column("calm-table", "Events per ns and molecule") == ["0", "250"]
    assert page.column("calm-table", "Bound of events") == ["21", "271"]
    assert page.column("calm-table", "Limit") == ["100", "100"]
    assert page.column("calm-table", "Unreliable") == ["0", "0.1"]
    assert page.column("calm-table", "In decorrelation times") == [
        "160 of 0.05 ps",
        "could not be measured",
    ]
    assert page.column("calm-table", "Events, late") == [
        "0 in 4 ps",
        "1 in 4 ps, 1 active at its begin",
    ]
    first, last = page.figures["events"]["data"]
    assert (first["y"], last["y"]) == ([500], [0, 250])
    assert last["error_y"]["array"] == [21, 21]
    (line,) = page.figures["events"]["layout"]["shapes"]
    assert (line["y0"], line["y1"]) == (100, 100)
    assert page.figures["unreliable"]["data"][1]["y"] == [0, 0.1]
    # In the summary the worst decides.
    assert page.column("summary", "Events per ns") == ["500", "250"]
    assert page.column("summary", "95 % bound of events") == ["521", "271"]
    assert "excursions" not in page.figures


def test_curves_are_of_the_index_that_decides(audited):
    campaign, verdicts = audited()
    page = show(campaign, verdicts)
    traces = pd.read_parquet(verdicts[1].parent / "traces.parquet").groupby("replica").last()
    curves = page.figures["cli-error"]["data"][3]
    ends = [i - 1 for i, x in enumerate(curves["x"]) if x is None]
    drawn = [curves["y"][i] for i in ends]
    assert drawn == pytest.approx(traces["cli_error"].tolist(), rel=1e-3)
    assert page.column("summary", "Mean Λ")[1] == f"{traces['cli_error'].mean():.3g}"
    assert page.column("replicas", "Mean Λ, ps") == [f"{v:.3g}" for v in traces["cli_error"]]
    label = page.column("replicas", "Mean Λ of the label domain")
    assert label == [f"{v:.3g}" for v in traces["cli_label"]]
    assert "critical Λ of the expected error" in page.texts["critical"]
    assert page.column("critical-cli", "Index") == [
        "expected error",
        "label domain",
        "guard domain",
    ]
    order = [name for name in page.figures if name.startswith("cli-")]
    assert order == ["cli-error", "cli-label", "cli-guard"]


@pytest.mark.parametrize("decision", ["saturated", "max_generations"])
def test_old_campaigns_say_that_they_were_not_audited(toy, decision):
    page = show(*toy(["continue", decision]))
    assert text_of(page, "audit").startswith("The model was not audited")
    assert "audit-table" not in page.tables
    assert "signals-table" not in page.tables
    assert "counted excursions of atoms, not events" in text_of(page, "calm")
    assert "excursions" in page.figures
    assert not [name for name in page.figures if name.startswith("audit")]


CALM = {"finding": "saturated"}
RESTLESS = {"finding": "not saturated", "parts": [make_calm("water", 500.0, events=3)]}
SHORT = {
    "finding": "not enough data",
    "reason": "0.25 decorrelation times, at least 20 are needed",
    "parts": [make_calm("water", 500.0, events=0, decorrelation_times=0.25)],
}
WRONG = make_audit([make_audited("water", 500.0, forces=50.0)], finding="missed")


@pytest.mark.parametrize(
    ("given", "verdict", "step"),
    [
        (
            {"calm": CALM, "audit": WRONG},
            "are calm; wrong on 12 random frames: forces wrong by up to 60",
            "labels diverse",
        ),
        ({"calm": RESTLESS}, "up to 771 events per ns and molecule", "labels what was unreliable"),
        ({"calm": SHORT}, "but 0.25 decorrelation times", "time_ps from 2 to at least 160"),
    ],
)
@pytest.mark.parametrize("decision", ["continue", "max_generations"])
def test_what_to_do_next_depends_on_what_is_missing(audited, given, verdict, step, decision):
    found = collected(audited(("continue", decision), **given))
    assert verdict in report.verdict_sentence(found)
    told = report.next_step(found)
    assert step in told
    assert ("limits.max_generations over" in told) == (decision == "max_generations")


def test_the_exposure_that_is_needed_is_said(audited):
    """By hand, at 99 %: 4 replicas of 1 late ps, one molecule, rates of the gamma shape 0.5.

    No event has the probability (1 + m/2)^-2 at a mean of m, which is 0.01 at m = 18: 18 events in
    4 ps are 4,500 per ns, 45 times λ*. With r replicas, (1.2)^(-r/2) is under 0.01 from r = 51 on.
    """
    short = {"finding": "not enough data", "reason": "too short"}
    told = report.next_step(collected(audited(("max_generations",), calm=short)))
    assert "exploration.time_ps from 2 to at least 90" in told
    assert "exploration.replicas from 4 to at least 51" in told


def test_replicas_that_are_too_short_for_themselves_must_be_longer(audited):
    """Five autocorrelation times are two and a half decorrelation times: 125 ps, and no 2 ps."""
    part = make_calm("water", 500.0, events=0, decorrelation_ps=50.0)
    short = {"finding": "not enough data", "reason": "too short", "parts": [part]}
    told = report.next_step(collected(audited(("max_generations",), calm=short)))
    assert "exploration.time_ps from 2 to at least 130, limits.max_generations" in told
    assert "exploration.replicas" not in told


def test_a_single_part_that_did_not_decorrelate_needs_what_its_events_need(audited):
    """By hand as two tests before: with no decorrelation time only the events are known to need."""
    part = make_calm("water", 500.0, events=0, decorrelation_ps=None, decorrelation_times=None)
    short = {"finding": "not enough data", "reason": "did not decorrelate", "parts": [part]}
    step = report.next_step(collected(audited(("max_generations",), calm=short)))
    assert "exploration.time_ps from 2 to at least 90" in step


def test_where_nothing_reacted_the_next_step_says_so(audited):
    quiet = {"finding": "not enough data", "reason": "no bond changed", "bonds_changed": 0}
    told = report.next_step(collected(audited(("continue",), calm=quiet)))
    assert "nothing reacted: raise exploration.time_ps or temperatures_K" in told
    assert "saturation.reactions_needed" in told


def test_errors_that_do_not_fall_ask_for_another_model(audited):
    """The audit's error was 90 meV/Å in generation 0."""
    for forces, advice in ((50.0, "falls (90 meV/Å, then 50)"), (88.0, "hardly falls (90 meV/Å")):
        wrong = make_audit([make_audited("water", 500.0, forces=forces)], finding="missed")
        found = collected(audited(("continue", "continue"), calm=CALM, audit=wrong))
        assert advice in report.next_step(found)
    assert "model.channels over 16" in report.next_step(found)


def test_a_mixed_campaign_has_a_page(audited):
    """Generation 0 was judged by an early release."""
    campaign, verdicts = audited()
    first = files.read_json(verdicts[0])
    first["saturation"] |= {"parts": [], "events_limit_per_ns": None, "unreliable_limit": None}
    files.write_json(verdicts[0], first | {"audit": None, "signals": []})
    traces = pd.read_parquet(verdicts[0].parent / "traces.parquet")
    traces = traces[[name for name in traces if "error" not in name]]
    traces.to_parquet(verdicts[0].parent / "traces.parquet")
    page = show(campaign, verdicts)
    assert page.column("summary", "Audit force MAE") == ["–", "30 (24–36)"]
    assert {trace["meta"] for trace in page.figures["cli-error"]["data"]} == {1}
    assert {trace["meta"] for trace in page.figures["events"]["data"]} == {1}


def test_limits_of_the_expected_error_stand_under_domain(audited):
    campaign, verdicts = audited()
    random = np.random.default_rng(4)
    distance = random.uniform(0, 3, 120)
    pairs = Pairs(
        distances={"latent": distance},
        error=0.2 * distance,
        classes=np.repeat(["water:O0", "water:H0"], 60),
        frame=np.arange(120) // 6,
        weight=np.ones(120),
    )
    elements = {"water:O0": "O", "water:H0": "H"}
    expected = fit_expected(pairs, elements, tolerance_eV_per_A=TOLERANCE, seed=1)
    path = verdicts[1].parent / "domain.json"
    replace(Domain.read(path), expected=expected).write(path)
    page = show(campaign, verdicts)
    assert page.column("expected", "Class") == ["water:O0", "water:H0"]
    assert page.column("expected", "Pairs") == ["60", "60"]
    # 0.2 eV/Å per unit of distance: 0.3 eV/Å at 1.5.
    limits = [float(cell) for cell in page.column("expected", "Distance beyond")]
    assert limits == pytest.approx([1.5, 1.5], abs=0.1)
    assert "over 0.3 eV/Å; latent decides" in text_of(page, "expectations")
    assert "expected" not in show(*audited()).tables


def test_the_next_step_says_that_the_next_exploration_is_longer_and_the_page_how_long_each_was(
    toy, rattled
):
    campaign, verdicts = toy(("continue", "continue"))
    part = make_calm("water", 500.0, events=1, events_per_ns=40.0, events_bound_per_ns=150.0)
    found = {"finding": "not saturated", "reason": "made up", "parts": [part]}
    write_audits(verdicts, rattled, calm=found)
    usual = campaign.systems["toy"].settings
    for path, time_ps in zip(verdicts, (TIME_PS, 2 * TIME_PS), strict=True):
        shown = explored(exploring_for(usual, time_ps)).model_dump(mode="json")
        files.write_json(path, files.read_json(path) | {"explored": shown})
    page = show(campaign, verdicts)
    # 150 of 100 events per ns: half as long again as the last generation.
    assert f"generation 2, which explores for {3 * TIME_PS:g} ps" in page.texts["next"]
    part |= {"finding": "not enough data", "decorrelation_times": 16.0}
    found = {"finding": "not enough data", "reason": "made up", "parts": [part]}
    write_audits(verdicts, rattled, calm=found)
    longer = show(campaign, verdicts).texts["next"]
    assert "which explores for" in longer
    assert "raise exploration.time_ps" not in longer
    assert f"each replica's {TIME_PS:g} to {2 * TIME_PS:g} ps" in " ".join(page.texts.values())
