"""The verdict of a generation, made from explorations and the state of the budgets."""

import numpy as np
import pytest
from ase import Atoms
from fabricated import calm_traces, eight_ends, made_up_audit

from halcyon.config import Settings
from halcyon.verdict.before_failures import before_failures
from halcyon.verdict.forms import AuditFinding, Decision, Finding, LabelCounts, Verdict
from halcyon.verdict.judging import judge
from halcyon.verdict.runs import Run

TIME_PS = 40.0
LABELS = LabelCounts(train=20, validation=10, test=10, bad=2, not_computed=3, spent=42)
PASSED = made_up_audit(AuditFinding.PASSED, "forces are right")


def run(events, *, failed=0):
    """Eight replicas with so many events each in the second half of their time."""
    active = [(20.5 + n, 20.6 + n) for n in range(events)]
    ends = eight_ends(TIME_PS, active, failed=failed)
    return Run(traces=calm_traces(ends, [0.01 * events] * 8), replicas=ends)


def settings(**limits):
    return Settings(
        exploration={"time_ps": TIME_PS, "temperatures_K": [300.0, 500.0]},
        limits=limits,
    )


def judged(runs, content, labels=LABELS, **more):
    return judge(
        runs,
        content,
        system="toy",
        generation=max(runs),
        labels=labels,
        core_hours=1.5,
        audit=PASSED,
        **more,
    )


def test_a_verdict_holds_the_numbers_behind_it(tmp_path):
    verdict = judged({0: run(9, failed=1), 1: run(0)}, settings(core_hours=2.0))
    assert (verdict.system, verdict.generation) == ("toy", 1)
    assert verdict.decision is Decision.SATURATED
    assert verdict.reason.endswith("99.4 %), and forces are right, 3 frames not computed")
    # Eight replicas of shape 1/2 without an event, in 0.16 ns; one eighth of the error is spent.
    bound = 4 * ((0.05 / 8) ** (-1 / 4) - 1) / 0.16
    assert verdict.saturation.parts[0].events_bound_per_ns == pytest.approx(bound)
    assert verdict.audit == PASSED
    assert verdict.explored.replicas == 8
    assert (verdict.core_hours.spent, verdict.core_hours.limit) == (1.5, 2.0)
    assert verdict.explored.temperatures_K == [300.0, 500.0]
    # Failures are those of this generation, the critical CLI is over all of them.
    assert verdict.failures.failures == 0
    assert verdict.critical_cli.generations == [0, 1]
    assert verdict.critical_cli.label.failures == 1
    verdict.write(tmp_path / "verdict.json")
    assert Verdict.read(tmp_path / "verdict.json") == verdict


def test_budgets_decide_where_the_index_has_not_saturated():
    wild, complete = {0: run(15)}, LABELS.model_copy(update={"not_computed": 0})
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


def shortly_before(replica, off_eV_per_A, *, reason="before failure", generation=0, status="ok"):
    """A labelled frame of two atoms; the forces of the second are off along one direction."""
    frame = Atoms("H2", [[0, 0, 0], [0, 0, 1]])
    frame.info |= {"reason": reason, "generation": generation, "replica": replica}
    frame.info |= {"status": status, "model_energy": 0.0}
    frame.arrays |= {"forces": np.zeros((2, 3)), "model_forces": np.zeros((2, 3))}
    frame.arrays["model_forces"][1, 0] = off_eV_per_A
    return frame


def test_errors_shortly_before_failures_are_those_of_this_generations_labels():
    others = [
        shortly_before(7, 9.0, reason="excursion"),
        shortly_before(7, 9.0, generation=1),
        shortly_before(7, 9.0, status="not converged"),
    ]
    frames = [shortly_before(0, 0.12), shortly_before(0, 0.24), shortly_before(3, 0.06), *others]
    found = before_failures(frames, generation=0)
    assert (found.frames, found.bad, found.replicas) == (3, 1, 2)
    # One of six components is off: (120 + 240 + 60) / 6 / 3 meV/Å.
    assert found.forces_mae_meV_per_A == pytest.approx(70 / 3)
    assert found.atom_error_eV_per_A == pytest.approx(0.24)
    assert before_failures(others, generation=0) is None


@pytest.mark.parametrize(
    ("off", "failed", "reason", "says"),
    [
        ([0.12, 0.24, 0.06], 2, "bond broken", True),
        ([0.12, 0.24], 2, "bond broken", False),  # too few
        ([0.4, 0.4, 0.4], 2, "bond broken", False),  # wrong on average
        ([0.01, 0.01, 0.6], 2, "bond broken", False),  # one atom's force is as of an unreliable
        ([0.12, 0.24, 0.06], 2, "atoms overlap", False),  # nothing that a user should allow
        ([0.12, 0.24, 0.06], 0, "bond broken", False),
        ([0.12, 0.24, 0.06, None], 2, "bond broken", True),
        (
            [0.12, 0.24, 0.06, None, None],
            2,
            "bond broken",
            False,
        ),  # easy ones?
    ],
)
def test_a_criterion_of_failure_may_be_stricter_than_the_reference(off, failed, reason, says):
    ends = run(0, failed=failed)
    replicas = [
        end if end.failure is None else end.model_copy(update={"failure": reason})
        for end in ends.replicas
    ]
    frames = [
        shortly_before(n, off_eV_per_A or 0.0, status="ok" if off_eV_per_A else "not converged")
        for n, off_eV_per_A in enumerate(off)
    ]
    before = before_failures(frames, generation=0)
    verdict = judged(
        {0: Run(traces=ends.traces, replicas=replicas)}, settings(), before_failures=before
    )
    hint = (
        "; forces are right on 3 labelled frames shortly before failures (23.3 meV/Å, no atom off "
        "by over 0.24 eV/Å): if the reference does this, too, it is no failure: "
        "raise exploration.bond_stretch_A over 0.5"
    )
    assert verdict.reason.endswith(hint) is says
    assert ("shortly before failures" in verdict.reason) is says  # whatever the numbers
    assert verdict.before_failures == before
