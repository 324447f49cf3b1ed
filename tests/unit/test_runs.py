import dataclasses
import math

import pandas as pd
import pytest
from fabricated import replica_end

from halcyon.report.survival_words import (
    critical_rows,
    critical_text,
    overlap_text,
    survival_rows,
)
from halcyon.verdict.forms import ExplorationSummary
from halcyon.verdict.runs import Run, critical_clis, failures, overlap, read_runs
from halcyon.verdict.survival import Ending
from halcyon.verdict.words import rate_text


def make_run(*ends):
    """A run whose replicas ended so: (Λ in ps, failure or None). Guard Λ is a tenth."""
    replicas = [replica_end(i, 1.0 + i, failure=failure) for i, (_, failure) in enumerate(ends)]
    points = [
        {"replica": i, "time": t * (1.0 + i), "cli_label": t * cli, "cli_guard": 0.1 * t * cli}
        for i, (cli, _) in enumerate(ends)
        for t in (0.5, 1.0)
    ]
    return Run(traces=pd.DataFrame(points), replicas=replicas)


def write_run(folder, run):
    ExplorationSummary(replicas=run.replicas).write(folder / "exploration.json")
    run.traces.to_parquet(folder / "traces.parquet")


def entries(*times):
    return [replica_end(i, time, failure=failure) for i, (time, failure) in enumerate(times)]


BROKEN = "bond broken"


def test_no_failure_in_16_ps():
    rate = failures(entries(*[(2.0, None)] * 8), confidence=0.95)
    assert rate.failures == 0
    assert rate.bound_per_ps == pytest.approx(-math.log(0.05) / 16)
    assert rate_text(rate) == (
        "in 16 ps: with 95 % confidence fewer than 1 failure per 5.3 ps of one replica"
    )


def test_two_failures_in_14_ps():
    rate = failures(entries((1.0, BROKEN), (1.0, BROKEN), (12.0, None)), confidence=0.95)
    assert rate.rate_per_ps == pytest.approx(1 / 7)
    # χ² of 6 degrees of freedom, 0.95: 12.592 in any table. 28 / 12.592 = 2.224.
    assert rate.bound_per_ps == pytest.approx(12.5916 / 28, rel=1e-5)
    assert rate_text(rate) == (
        "in 14 ps, 1 failure per 7 ps of one replica: with 95 % confidence fewer than 1 per 2.2 ps"
    )


def test_a_bound_is_never_rounded_up():
    # ln 20 ps without a failure allow one per 1 ps; a little less must not be called 1 ps.
    rate = failures(entries((0.999 * math.log(20), None)), confidence=0.95)
    assert "per 0.99 ps" in rate_text(rate)
    rate = failures(entries((math.log(20), None)), confidence=0.95)
    assert "per 1 ps" in rate_text(rate)
    rate = failures(entries(*[(1000.0, None)] * 16), confidence=0.95)
    assert "in 16,000 ps" in rate_text(rate)
    assert "per 5,300 ps" in rate_text(rate)  # 16,000 / ln 20 = 5,341


def test_nothing_simulated_has_no_rate():
    rate = failures(entries((0.0, "not finite")), confidence=0.95)
    assert (rate.failures, rate.rate_per_ps, rate.bound_per_ps) == (1, None, None)
    assert "nothing was simulated" in rate_text(rate)


def test_the_critical_cli_is_that_of_all_generations():
    # By hand: the one censored at 0.5 leaves seven at risk; six of them fail at 1 to 6, and the
    # curve passes 1/2 at the fourth (3/7). Three of six failed below 4; one of two survivors is
    # above it. Clopper-Pearson of 3 of 6: 0.118 to 0.882.
    runs = {
        0: make_run((1.0, BROKEN), (2.0, BROKEN), (3.0, BROKEN), (0.5, None)),
        1: make_run((4.0, BROKEN), (5.0, BROKEN), (6.0, BROKEN), (10.0, None)),
    }
    critical = critical_clis(runs, confidence=0.95)
    assert critical.generations == [0, 1]
    for tier, scale in (("label", 1), ("guard", 0.1)):
        of_tier = critical.of(tier)
        assert of_tier.median.outcome == "estimated"
        assert of_tier.median.value == pytest.approx(4 * scale)
        assert of_tier.median.low < 4 * scale <= of_tier.median.high
        assert (of_tier.failures, of_tier.survivors) == (6, 2)
        assert of_tier.missed.value == pytest.approx(0.5)
        assert of_tier.missed.low == pytest.approx(0.118, abs=5e-4)
        assert of_tier.false_alarms.value == pytest.approx(0.5)
    text = critical_text(critical.label, "label")
    assert text.startswith("The critical Λ of the label domain, which half of the replicas do not")
    assert "is 4 ps (95 % interval: 1 ps to " in text
    assert text.endswith(
        "6 of 8 replicas failed). Of the failed, 50 % failed below it; of the others, 50 % ran on "
        "above it."
    )
    rows = critical_rows(runs, critical)
    assert rows[1][:4] == ["label domain", "1–6", "0.5–10", "1 of 2"]
    assert rows[1][5] == "50 (11.8–88.2)"
    assert rows[2][:4] == ["guard domain", "0.1–0.6", "0.05–1", "1 of 2"]


def test_where_the_expected_error_was_watched_it_has_its_own_critical_cli():
    runs = {
        0: make_run((1.0, BROKEN), (2.0, BROKEN)),
        1: make_run(*[(float(i), BROKEN) for i in range(1, 6)]),
    }
    assert {number: run.deciding for number, run in runs.items()} == {0: "label", 1: "label"}
    assert critical_clis(runs, confidence=0.95).error is None
    runs[1].traces["cli_error"] = 10 * runs[1].traces["cli_label"]
    assert {number: run.deciding for number, run in runs.items()} == {0: "label", 1: "error"}
    critical = critical_clis(runs, confidence=0.95)
    # Of the five replicas of generation 1 alone, the third is the median.
    assert (critical.error.failures, critical.label.failures) == (5, 7)
    assert critical.error.median.value == pytest.approx(30)
    assert "critical Λ of the expected error, which" in critical_text(critical.error, "error")
    assert [row[0] for row in critical_rows(runs, critical)[1:]] == [
        "expected error",
        "label domain",
        "guard domain",
    ]
    assert overlap(runs[0].endings("error")) is None


@pytest.mark.parametrize(
    ("ends", "outcome", "sentence"),
    [
        (
            [(1.0, BROKEN)] * 4 + [(2.0, None)],
            "not enough failures",
            "There is no critical Λ of the label domain yet: 4 of 5 replicas failed, and at least "
            "5 must.",
        ),
        (
            [(1.0, BROKEN)] * 5 + [(2.0, None)] * 15,
            "not reached",
            "There is no critical Λ of the label domain: 5 of 20 replicas failed, and more than "
            "half of them are estimated to outlive the largest Λ that was seen.",
        ),
        (
            [(float(i), BROKEN) for i in range(1, 7)],
            "estimated",
            "; none survived to tell how many would run on above it.",
        ),
    ],
)
def test_why_there_is_no_critical_cli_is_said(ends, outcome, sentence):
    critical = critical_clis({0: make_run(*ends)}, confidence=0.95)
    assert critical.label.median.outcome == outcome
    assert sentence in critical_text(critical.label, "label")


def test_overlap_of_failed_and_surviving():
    def ends(failed, survived):
        return [Ending(time_ps=1.0, cli_ps=x, failed=True) for x in failed] + [
            Ending(time_ps=1.0, cli_ps=x, failed=False) for x in survived
        ]

    assert overlap(ends([2.0, 5.0], [1.0, 3.0, 9.0])) == (2, 3)
    assert "2 of the 3 others gathered more Λ than the 2 ps" in overlap_text(
        ends([2.0, 5.0], [1.0, 3.0, 9.0])
    )
    assert overlap_text(ends([5.0], [1.0])).endswith("they do not overlap.")
    assert overlap_text(ends([], [1.0])) == overlap_text(ends([1.0], [])) == ""


def test_a_table_of_generations():
    runs = {
        0: make_run((1.0, BROKEN), (1.0, None)),  # 1 ps and 2 ps
        1: make_run((1.0, None), (1.0, None)),
    }
    runs[0] = dataclasses.replace(
        runs[0],
        replicas=[*runs[0].replicas[:1], runs[0].replicas[1].model_copy(update={"began_ps": 1.0})],
    )
    rates = {n: failures(run.replicas, confidence=0.95) for n, run in runs.items()}
    _, first, second = survival_rows(runs, rates, horizon_ps=2.0)
    # χ² of 4 degrees of freedom, 0.95: 9.488; over 2 × 3 ps.
    assert first[:7] == ["0", "2", "1", "1", "3", "0.333", "1.58"]
    # Area under the curve up to 2 ps: 1 for 1 ps, then one half.
    assert first[7].startswith("1.5 (")
    # Only the one that ran for 2 ps tells of 2 ps: the exact bound on its failing is 0.975.
    assert second[7] == "2 (0.05–2)"


def test_a_generation_knows_nothing_of_later_ones(tmp_path):
    for number in range(3):
        write_run(tmp_path / f"gen{number:03d}", make_run((1.0 + number, BROKEN)))
    assert list(read_runs(tmp_path, last=1)) == [0, 1]
    assert list(read_runs(tmp_path, last=-1)) == []
    (tmp_path / "gen000/traces.parquet").unlink()
    assert list(read_runs(tmp_path, last=1)) == [1]
