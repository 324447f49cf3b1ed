"""The verdict of a generation, made from explorations and the state of the budgets."""

import numpy as np
import pandas as pd
import pytest
from fabricated import replica_end

from halcyon.config import Settings
from halcyon.verdict.forms import Decision, Finding, LabelCounts, Verdict
from halcyon.verdict.judging import judge
from halcyon.verdict.runs import Run

TIME_PS = 2.0
LABELS = LabelCounts(train=20, validation=10, test=10, bad=2, not_computed=3, spent=42)


def run(excursions, *, failed=0):
    """Four replicas of three atoms with so many excursions each, spread over their time."""
    ends = [
        replica_end(i, TIME_PS, failure="bond broken" if i < failed else None) for i in range(4)
    ]
    times = np.linspace(0.1, TIME_PS, 20)
    counts = np.linspace(0, excursions, 20).astype(int)
    points = {"time": times, "excursions_label": counts, "cli_label": times, "cli_guard": times}
    traces = pd.concat([pd.DataFrame({"replica": i} | points) for i in range(4)])
    return Run(traces=traces, replicas=ends)


def settings(**limits):
    # Four replicas of three atoms have 12 atom-ps in the late window: 3.0/12 is under this limit.
    return Settings(
        exploration={"time_ps": TIME_PS, "temperatures_K": [300.0, 500.0]},
        saturation={"max_rate_per_atom_ps": 0.5},
        limits=limits,
    )


def judged(runs, content, labels=LABELS):
    return judge(runs, content, system="toy", generation=max(runs), labels=labels, core_hours=1.5)


def test_a_verdict_holds_the_numbers_behind_it(tmp_path):
    verdict = judged({0: run(20, failed=1), 1: run(0)}, settings(core_hours=2.0))
    assert (verdict.system, verdict.generation) == ("toy", 1)
    assert verdict.decision is Decision.SATURATED
    assert verdict.reason.endswith("under 0.5/ps, 3 frames not computed")
    assert verdict.saturation.rate_bound_per_atom_ps == pytest.approx(-np.log(0.05) / 12)
    assert (verdict.core_hours.spent, verdict.core_hours.limit) == (1.5, 2.0)
    assert verdict.explored.temperatures_K == [300.0, 500.0]
    # Failures are those of this generation, the critical CLI is over all of them.
    assert verdict.failures.failures == 0
    assert verdict.critical_cli.generations == [0, 1]
    assert verdict.critical_cli.label.failures == 1
    verdict.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == verdict


def test_budgets_decide_where_the_index_has_not_saturated():
    wild, complete = {0: run(50)}, LABELS.model_copy(update={"not_computed": 0})
    assert judged(wild, settings(), complete).decision is Decision.CONTINUE
    assert judged(wild, settings()).decision is Decision.BUDGET_SPENT  # frames were not computed
    for limits, decision in (
        ({"label_budget": 42}, Decision.BUDGET_SPENT),
        ({"core_hours": 1.5}, Decision.BUDGET_SPENT),
        ({"max_generations": 1}, Decision.MAX_GENERATIONS),
    ):
        verdict = judged(wild, settings(**limits), complete)
        assert verdict.decision is decision
        assert verdict.saturation.finding is Finding.NOT_SATURATED
