import numpy as np
import pandas as pd
import pytest
from fabricated import made_up_verdict, replica_end

from halcyon.config import LimitSettings, SaturationSettings, Settings
from halcyon.verdict.forms import Decision, Finding
from halcyon.verdict.saturation import (
    Exposure,
    assess,
    decide,
    exposures,
    goes_on,
    homogeneity,
    rate_bound,
)


def test_the_bound_is_the_textbook_one():
    # Zero events: -ln(0.05)/W. Three events: Garwood's table gives 7.754.
    assert rate_bound(0, 2.0, 0.95) == pytest.approx(-np.log(0.05) / 2.0)
    assert rate_bound(3, 1.0, 0.95) == pytest.approx(7.754, abs=1e-3)


def test_the_bound_covers_known_rates():
    random = np.random.default_rng(1)
    for rate in (3.0, 10.0):
        events = random.poisson(rate, size=2000)
        covered = np.mean([rate_bound(n, 1.0, 0.95) >= rate for n in events])
        assert 0.93 < covered < 0.99


def replicas(events, *, failed=0, time=10.0):
    return [
        Exposure(excursions=n, atom_time_ps=time, failed=i < failed) for i, n in enumerate(events)
    ]


SETTINGS = SaturationSettings(max_rate_per_atom_ps=0.1)


def test_findings():
    assert assess(replicas([0] * 8), SETTINGS).finding == Finding.SATURATED
    assert assess(replicas([5] * 8), SETTINGS).finding == Finding.NOT_SATURATED
    assert assess(replicas([0, 0]), SETTINGS).finding == Finding.NOT_ENOUGH_DATA
    failed = assess(replicas([0] * 8, failed=1), SETTINGS)
    assert failed.finding == Finding.NOT_SATURATED
    assert "1 of 8 replicas failed" in failed.reason
    assert assess(replicas([0] * 3, failed=3), SETTINGS).rate_bound_per_atom_ps is None


def test_unequal_replicas_are_noticed():
    assert homogeneity(replicas([4, 5, 6, 5])) > 0.5
    assert homogeneity(replicas([0, 0, 0, 40])) < 1e-6
    assert homogeneity(replicas([0, 0, 1, 0])) is None


def test_decisions():
    limits = LimitSettings(max_generations=3, label_budget=100)
    calm = assess(replicas([0] * 8), SETTINGS)
    wild = assess(replicas([50] * 8), SETTINGS)
    assert decide(calm, generation=0, labels=10, limits=limits)[0] is Decision.SATURATED
    assert decide(wild, generation=0, labels=10, limits=limits)[0] is Decision.CONTINUE
    assert decide(wild, generation=0, labels=100, limits=limits)[0] is Decision.BUDGET_SPENT
    assert decide(wild, generation=2, labels=10, limits=limits)[0] is Decision.MAX_GENERATIONS


def test_late_windows_are_differences_of_exact_counts():
    times = np.arange(0.1, 2.05, 0.1)
    traces = pd.concat(
        [
            pd.DataFrame({"replica": 0, "time": times, "excursions_label": np.arange(20)}),
            pd.DataFrame({"replica": 1, "time": times[:5], "excursions_label": np.arange(5)}),
        ]
    )
    ends = [replica_end(0, 2.0), replica_end(1, 0.5, failure="bond broken")]
    whole, failed = exposures(traces, ends, time_ps=2.0, window=0.5)
    assert (whole.excursions, whole.failed) == (10, False)
    assert whole.atom_time_ps == pytest.approx(3.0)
    assert failed.failed
    assert failed.atom_time_ps == 0.0


def test_a_campaign_goes_on_when_its_limit_is_raised():
    def verdict(decision, generation=1):
        return made_up_verdict(decision, generation=generation, labels={"spent": 50})

    def under(**limits):
        return Settings(limits=limits)

    limits = under(max_generations=2, label_budget=50)
    raised = under(max_generations=3, label_budget=60)
    for decision in ("max_generations", "budget_spent"):
        assert not goes_on(verdict(decision), limits)
        assert goes_on(verdict(decision), raised)
    only_generations = under(max_generations=9, label_budget=50)
    assert not goes_on(verdict("budget_spent"), only_generations)
    assert goes_on(verdict("continue"), raised)
    assert not goes_on(verdict("continue", generation=2), raised)
    assert not goes_on(verdict("saturated"), raised)


def test_a_saturated_campaign_goes_on_when_more_is_asked():
    def asked(**exploration):
        return Settings(exploration=exploration)

    verdict = made_up_verdict(
        "saturated", explored={"time_ps": 2.0, "temperatures_K": [300.0, 500.0]}
    )
    assert not goes_on(verdict, asked(time_ps=2.0, temperatures_K=[300.0]))
    assert goes_on(verdict, asked(time_ps=4.0, temperatures_K=[300.0]))
    assert goes_on(verdict, asked(time_ps=1.0, temperatures_K=[700.0]))
    limited = asked(time_ps=4.0).model_copy(update={"limits": LimitSettings(max_generations=2)})
    assert not goes_on(verdict, limited)
    old = made_up_verdict("saturated")  # it does not say how long was explored
    assert not goes_on(old, asked(time_ps=4.0))


def test_core_hours_end_a_campaign_and_raised_let_it_go_on():
    wild = assess(replicas([50] * 8), SETTINGS)
    calm = assess(replicas([0] * 8), SETTINGS)
    limits = LimitSettings(core_hours=2.0)
    asked = {"generation": 0, "labels": 10, "limits": limits}
    assert decide(wild, core_hours=1.9, **asked)[0] is Decision.CONTINUE
    decision, reason = decide(wild, core_hours=2.5, not_computed=3, **asked)
    assert decision is Decision.BUDGET_SPENT
    assert reason.startswith("2.5 of 2 core-hours spent, 3 frames not computed; not saturated")
    # What was left undone counts as spent even where another limit holds by now.
    assert decide(wild, core_hours=1.0, not_computed=3, **asked)[0] is Decision.BUDGET_SPENT
    assert decide(calm, core_hours=2.5, **asked)[0] is Decision.SATURATED

    spent = made_up_verdict("budget_spent", generation=0, core_hours={"spent": 2.5})
    assert not goes_on(spent, Settings(limits=limits))
    assert goes_on(spent, Settings(limits=LimitSettings(core_hours=3.0)))
    assert goes_on(spent, Settings())
    old = made_up_verdict("budget_spent", generation=0)  # it does not say what was spent
    assert goes_on(old, Settings(limits=limits))
