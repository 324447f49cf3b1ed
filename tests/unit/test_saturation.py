"""From calm and audit to a decision, and whether a campaign goes on."""

import pytest
from fabricated import calm_traces, made_up_audit, made_up_verdict, replica_end

from halcyon.config import LimitSettings, Settings
from halcyon.verdict.forms import AuditFinding, Decision, Finding
from halcyon.verdict.saturation import (
    assess,
    assess_run,
    confidence_spent,
    decide,
    explored,
    goes_on,
)

SETTINGS = Settings(exploration={"time_ps": 40.0}, limits={"max_generations": 3})


def assessed(activity=(), *, replicas=8, temperatures=(500.0,), settings=SETTINGS, failed=0):
    """The assessment of replicas with the same activity each."""
    ends = [
        replica_end(
            number,
            40.0,
            failure="bond broken" if number < failed else None,
            activity_ps=list(activity),
            molecules=1,
            temperature_K=temperatures[number % len(temperatures)],
        )
        for number in range(replicas * len(temperatures))
    ]
    return assess_run(calm_traces(ends), ends, settings)


CALM = assessed()
WILD = assessed([(20.0 + 2 * n, 20.1 + 2 * n) for n in range(10)])
PASSED = made_up_audit(AuditFinding.PASSED, "forces are wrong by less than 38 meV/Å")
MISSED = made_up_audit(AuditFinding.MISSED, "forces are wrong by up to 61 meV/Å, 43 was asked")


def decided(assessment, audit=PASSED, *, limits=None, **more):
    settings = SETTINGS if limits is None else Settings(limits=limits)
    return decide(
        assessment, audit, **({"generation": 0, "labels": 10, "settings": settings} | more)
    )


def test_the_error_is_spent_over_generations():
    assert confidence_spent(SETTINGS) == pytest.approx(1 - 0.05 / 3)
    assert CALM.confidence_spent == pytest.approx(1 - 0.05 / 3)
    assert CALM.parts[0].events_bound_per_ns == pytest.approx(
        4 * ((0.05 / 3) ** (-1 / 4) - 1) / 0.16
    )


def test_the_worst_structure_and_temperature_decides():
    both = assess([CALM.parts[0], WILD.parts[0]], SETTINGS)
    assert both.finding is Finding.NOT_SATURATED
    assert both.reason.startswith("methanol at 500 K: up to")
    assert both.replicas == 16
    few = assessed(replicas=1).parts[0]
    assert assess([CALM.parts[0], few], SETTINGS).finding is Finding.NOT_ENOUGH_DATA
    assert assess([few, WILD.parts[0]], SETTINGS).finding is Finding.NOT_SATURATED
    two = assessed(temperatures=(300.0, 500.0))
    assert (two.finding, len(two.parts)) == (Finding.SATURATED, 2)
    assert assess([], SETTINGS).finding is Finding.NOT_ENOUGH_DATA
    failed = assessed(failed=2)
    assert (failed.failed, failed.finding) == (2, Finding.NOT_SATURATED)


def test_a_reactive_exploration_without_reactions_is_not_enough_data():
    ends = [
        replica_end(n, 40.0, activity_ps=[], molecules=1, bonds_changed=changes)
        for n, changes in enumerate([0] * 8)
    ]
    still = assess_run(calm_traces(ends), ends, SETTINGS)
    assert still.finding is Finding.NOT_ENOUGH_DATA
    assert still.reason.startswith("no bond changed in 320 ps")
    reacting = [ends[0].model_copy(update={"bonds_changed": 2}), *ends[1:]]
    assert assess_run(calm_traces(ends), reacting, SETTINGS).finding is Finding.SATURATED


def test_saturated_are_those_that_are_calm_and_right():
    decision, reason = decided(CALM)
    assert decision is Decision.SATURATED
    assert reason.startswith("calm (fewer than ")
    assert reason.endswith("98.3 %), and forces are wrong by less than 38 meV/Å")
    decision, reason = decided(CALM, MISSED)
    assert decision is Decision.CONTINUE
    assert reason.startswith("not saturated: calm (fewer than ")
    assert reason.endswith("but forces are wrong by up to 61 meV/Å, 43 was asked")
    assert decided(WILD)[0] is Decision.CONTINUE
    few = made_up_audit(AuditFinding.NOT_ENOUGH_DATA, "2 frames")
    assert decided(CALM, few)[0] is Decision.CONTINUE
    decision, reason = decided(CALM, None)
    assert decision is Decision.CONTINUE
    assert "no audit" in reason


def test_accuracy_may_be_not_asked_for():
    off = Settings(accuracy={"forces_mae_meV_per_A": None, "energy_mae_meV_per_atom": None})
    for audit in (None, made_up_audit(AuditFinding.NOT_ASKED, "it was not asked for")):
        decision, reason = decided(CALM, audit, settings=off)
        assert decision is Decision.SATURATED
        assert reason.endswith("and accuracy was not asked for")


def test_decisions_at_limits():
    limits = LimitSettings(max_generations=3, label_budget=100)
    assert decided(CALM, limits=limits)[0] is Decision.SATURATED
    assert decided(WILD, limits=limits)[0] is Decision.CONTINUE
    assert decided(WILD, limits=limits, labels=100)[0] is Decision.BUDGET_SPENT
    assert decided(WILD, limits=limits, generation=2)[0] is Decision.MAX_GENERATIONS
    assert decided(CALM, MISSED, limits=limits, generation=2)[0] is Decision.MAX_GENERATIONS


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


def test_an_old_verdict_goes_on_only_for_longer_or_other_temperatures():
    def under(**exploration):
        return Settings(exploration=exploration)

    verdict = made_up_verdict(
        "saturated", explored={"time_ps": 2.0, "temperatures_K": [300.0, 500.0]}
    )
    assert not goes_on(verdict, under(time_ps=2.0, temperatures_K=[300.0]))
    assert goes_on(verdict, under(time_ps=4.0, temperatures_K=[300.0]))
    assert goes_on(verdict, under(time_ps=1.0, temperatures_K=[700.0]))
    limited = under(time_ps=4.0).model_copy(update={"limits": LimitSettings(max_generations=2)})
    assert not goes_on(verdict, limited)
    old = made_up_verdict("saturated")  # it does not say how long was explored
    assert not goes_on(old, under(time_ps=4.0))


MORE = [
    ("exploration", {"time_ps": 31.0}),
    ("exploration", {"replicas": 9}),
    ("exploration", {"temperatures_K": [500.0, 600.0]}),
    ("exploration", {"ensemble": "nve"}),
    ("exploration", {"ensemble": "npt"}),
    ("exploration", {"bias": {"kind": "ramp", "to_K": 900.0}}),
    ("exploration", {"timestep_fs": 1.0}),
    ("exploration", {"bond_stretch_A": 0.4}),
    ("exploration", {"min_distance_A": 0.4}),
    ("saturation", {"events_per_ns": 90.0}),
    ("saturation", {"unreliable_fraction": 0.005}),
    ("saturation", {"confidence": 0.99}),
    ("saturation", {"decorrelation_times": 40.0}),
    ("accuracy", {"atom_force_eV_per_A": 0.2}),
    ("accuracy", {"forces_mae_meV_per_A": 30.0}),
    ("accuracy", {"energy_mae_meV_per_atom": 2.0}),
]
LESS = [
    ("exploration", {"time_ps": 20.0}),
    ("exploration", {"replicas": 4}),
    ("exploration", {"timestep_fs": 0.25}),
    ("exploration", {"pressure_bar": 5.0}),  # without a barostat
    ("exploration", {"checkpoint_s": 5.0}),
    ("saturation", {"events_per_ns": 200.0}),
    ("saturation", {"confidence": 0.9}),
    ("accuracy", {"forces_mae_meV_per_A": None}),
    ("accuracy", {"energy_mae_meV_per_atom": 9.0}),
]


@pytest.mark.parametrize(("section", "values"), MORE)
def test_a_saturated_campaign_goes_on_when_more_is_asked(section, values):
    shown = explored(Settings()).model_dump(mode="json")
    verdict = made_up_verdict("saturated", explored=shown)
    assert not goes_on(verdict, Settings())
    assert goes_on(verdict, Settings.model_validate({section: values}))
    # And the other way round: what was shown with more lets less be.
    if section == "accuracy" or "temperatures_K" in values:
        strict = Settings.model_validate({section: values})
        more = made_up_verdict("saturated", explored=explored(strict).model_dump(mode="json"))
        assert not goes_on(more, Settings())


@pytest.mark.parametrize(("section", "values"), LESS)
def test_a_saturated_campaign_stays_when_less_is_asked(section, values):
    verdict = made_up_verdict("saturated", explored=explored(Settings()).model_dump(mode="json"))
    assert not goes_on(verdict, Settings.model_validate({section: values}))


def test_reactions_that_were_not_needed_were_not_shown():
    off = Settings(saturation={"reactions_needed": False})
    verdict = made_up_verdict("saturated", explored=explored(off).model_dump(mode="json"))
    assert not goes_on(verdict, off)
    assert goes_on(verdict, Settings())


def test_a_goal_that_was_not_asked_for_was_not_shown():
    off = Settings(accuracy={"forces_mae_meV_per_A": None})
    verdict = made_up_verdict("saturated", explored=explored(off).model_dump(mode="json"))
    assert not goes_on(verdict, off)
    assert goes_on(verdict, Settings())


def test_core_hours_end_a_campaign_and_raised_let_it_go_on():
    limits = LimitSettings(core_hours=2.0)
    assert decided(WILD, core_hours=1.9, limits=limits)[0] is Decision.CONTINUE
    decision, reason = decided(WILD, core_hours=2.5, not_computed=3, limits=limits)
    assert decision is Decision.BUDGET_SPENT
    assert reason.startswith("2.5 of 2 core-hours spent, 3 frames not computed; not saturated")
    # What was left undone counts as spent even where another limit holds by now.
    assert decided(WILD, core_hours=1.0, not_computed=3, limits=limits)[0] is Decision.BUDGET_SPENT
    assert decided(CALM, core_hours=2.5, limits=limits)[0] is Decision.SATURATED

    spent = made_up_verdict("budget_spent", generation=0, core_hours={"spent": 2.5})
    assert not goes_on(spent, Settings(limits=limits))
    assert goes_on(spent, Settings(limits=LimitSettings(core_hours=3.0)))
    assert goes_on(spent, Settings())
    old = made_up_verdict("budget_spent", generation=0)  # it does not say what was spent
    assert goes_on(old, Settings(limits=limits))
