import dataclasses
import math

import pandas as pd
import pytest

from halcyon import files
from halcyon.verdict import runs as stability
from halcyon.verdict.runs import Run
from halcyon.verdict.survival import Ending


def make_run(*ends):
    """A run whose replicas ended so: (Λ in ps, failure or None). Guard Λ is a tenth."""
    replicas = [
        {"replica": i, "time_ps": 1.0 + i, "failure": failure}
        for i, (_, failure) in enumerate(ends)
    ]
    points = [
        {"replica": i, "time": t * (1.0 + i), "cli_label": t * cli, "cli_guard": 0.1 * t * cli}
        for i, (cli, _) in enumerate(ends)
        for t in (0.5, 1.0)
    ]
    return Run(traces=pd.DataFrame(points), replicas=replicas)


def write_run(folder, run):
    files.write_json(folder / "exploration.json", {"replicas": run.replicas})
    run.traces.to_parquet(folder / "traces.parquet")


def entries(*times):
    return [{"time_ps": time, "failure": failure} for time, failure in times]


BROKEN = "bond broken"


def test_no_failure_in_16_ps():
    told = stability.failures(entries(*[(2.0, None)] * 8), confidence=0.95)
    assert told["failures"] == 0
    assert told["bound_per_ps"] == pytest.approx(-math.log(0.05) / 16)
    assert stability.rate_text(told) == (
        "in 16 ps: with 95 % confidence fewer than 1 failure per 5.3 ps of one replica"
    )


def test_two_failures_in_14_ps():
    told = stability.failures(entries((1.0, BROKEN), (1.0, BROKEN), (12.0, None)), confidence=0.95)
    assert told["rate_per_ps"] == pytest.approx(1 / 7)
    # χ² of 6 degrees of freedom, 0.95: 12.592 in any table. 28 / 12.592 = 2.224.
    assert told["bound_per_ps"] == pytest.approx(12.5916 / 28, rel=1e-5)
    assert stability.rate_text(told) == (
        "in 14 ps, 1 failure per 7 ps of one replica: with 95 % confidence fewer than 1 per 2.2 ps"
    )


def test_a_bound_is_never_rounded_up():
    # ln 20 ps without a failure allow one per 1 ps; a little less must not be called 1 ps.
    told = stability.failures(entries((0.999 * math.log(20), None)), confidence=0.95)
    assert "per 0.99 ps" in stability.rate_text(told)
    told = stability.failures(entries((math.log(20), None)), confidence=0.95)
    assert "per 1 ps" in stability.rate_text(told)
    told = stability.failures(entries(*[(1000.0, None)] * 16), confidence=0.95)
    assert "in 16,000 ps" in stability.rate_text(told)
    assert "per 5,300 ps" in stability.rate_text(told)  # 16,000 / ln 20 = 5,341


def test_nothing_simulated_has_no_rate():
    told = stability.failures(entries((0.0, "not finite")), confidence=0.95)
    assert (told["failures"], told["rate_per_ps"], told["bound_per_ps"]) == (1, None, None)
    assert "nothing was simulated" in stability.rate_text(told)


def test_the_critical_cli_is_that_of_all_generations():
    # By hand: the one censored at 0.5 leaves seven at risk; six of them fail at 1 to 6, and the
    # curve passes 1/2 at the fourth (3/7). Three of six failed below 4; one of two survivors is
    # above it. Clopper-Pearson of 3 of 6: 0.118 to 0.882.
    runs = {
        0: make_run((1.0, BROKEN), (2.0, BROKEN), (3.0, BROKEN), (0.5, None)),
        1: make_run((4.0, BROKEN), (5.0, BROKEN), (6.0, BROKEN), (10.0, None)),
    }
    told = stability.critical_cli(runs, confidence=0.95)
    assert told["generations"] == [0, 1]
    for tier, scale in (("label", 1), ("guard", 0.1)):
        found = told[tier]
        assert found["median"]["outcome"] == "estimated"
        assert found["median"]["value"] == pytest.approx(4 * scale)
        assert found["median"]["low"] < 4 * scale <= found["median"]["high"]
        assert (found["failures"], found["survivors"]) == (6, 2)
        assert found["missed"]["value"] == pytest.approx(0.5)
        assert found["missed"]["low"] == pytest.approx(0.118, abs=5e-4)
        assert found["false_alarms"]["value"] == pytest.approx(0.5)
    text = stability.critical_text(told["label"], "label")
    assert text.startswith("The critical Λ of the label domain, which half of the replicas do not")
    assert "is 4 ps (95 % interval: 1 ps to " in text
    assert text.endswith(
        "6 of 8 replicas failed). Of the failed, 50 % failed below it; of the others, 50 % ran on "
        "above it."
    )
    rows = stability.critical_rows(runs, told)
    assert rows[1][:4] == ["label", "1–6", "0.5–10", "1 of 2"]
    assert rows[1][5] == "50 (11.8–88.2)"
    assert rows[2][:4] == ["guard", "0.1–0.6", "0.05–1", "1 of 2"]


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
    told = stability.critical_cli({0: make_run(*ends)}, confidence=0.95)
    assert told["label"]["median"]["outcome"] == outcome
    assert sentence in stability.critical_text(told["label"], "label")


def test_overlap_of_failed_and_surviving():
    def ends(failed, survived):
        return [Ending(time_ps=1.0, cli_ps=x, failed=True) for x in failed] + [
            Ending(time_ps=1.0, cli_ps=x, failed=False) for x in survived
        ]

    assert stability.overlap(ends([2.0, 5.0], [1.0, 3.0, 9.0])) == (2, 3)
    assert "2 of the 3 others gathered more Λ than the 2 ps" in stability.overlap_text(
        ends([2.0, 5.0], [1.0, 3.0, 9.0])
    )
    assert stability.overlap_text(ends([5.0], [1.0])).endswith("they do not overlap.")
    assert stability.overlap_text(ends([], [1.0])) == stability.overlap_text(ends([1.0], [])) == ""


def test_a_table_of_generations():
    runs = {
        0: make_run((1.0, BROKEN), (1.0, None)),  # 1 ps and 2 ps
        1: make_run((1.0, None), (1.0, None)),
    }
    runs[0] = dataclasses.replace(
        runs[0], replicas=[*runs[0].replicas[:1], runs[0].replicas[1] | {"began_ps": 1.0}]
    )
    rates = {n: stability.failures(run.replicas, confidence=0.95) for n, run in runs.items()}
    _, first, second = stability.survival_rows(runs, rates, horizon_ps=2.0)
    # χ² of 4 degrees of freedom, 0.95: 9.488; over 2 × 3 ps.
    assert first[:7] == ["0", "2", "1", "1", "3", "0.333", "1.58"]
    # Area under the curve up to 2 ps: 1 for 1 ps, then one half.
    assert first[7].startswith("1.5 (")
    # Only the one that ran for 2 ps tells of 2 ps: the exact bound on its failing is 0.975.
    assert second[7] == "2 (0.05–2)"


def test_a_generation_knows_nothing_of_later_ones(tmp_path):
    for number in range(3):
        write_run(tmp_path / f"gen{number:03d}", make_run((1.0 + number, BROKEN)))
    assert list(stability.read_runs(tmp_path, last=1)) == [0, 1]
    assert list(stability.read_runs(tmp_path, last=-1)) == []
    (tmp_path / "gen000/traces.parquet").unlink()
    assert list(stability.read_runs(tmp_path, last=1)) == [1]
