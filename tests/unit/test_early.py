"""May an exploration end early?"""

import pandas as pd
import pytest
from fabricated import calm_traces, eight_ends

from halcyon.config import Settings
from halcyon.verdict.early import restless
from halcyon.verdict.forms import Finding
from halcyon.verdict.saturation import assess_run

TIME_PS = 10.0
LIMITS = {"events_per_ns": 100.0, "unreliable_fraction": 0.01}


def explored(active, gain_ps=0.0, *, failed=0, temperature_K=500.0):
    """Eight replicas of three atoms, unreliable between these times, ps, with so much Λ each."""
    ends = eight_ends(TIME_PS, active, failed=failed, temperature_K=temperature_K)
    return calm_traces(ends, [gain_ps] * 8), ends


SETTINGS = Settings(exploration={"time_ps": TIME_PS}, saturation=LIMITS)


def asked(traces, ends):
    return restless(traces, ends, SETTINGS)


@pytest.mark.parametrize(
    ("active", "gain_ps", "failed", "why"),
    [
        ([], 0.0, 0, ""),
        ([], 0.0, 1, "methanol at 500 K: 1 of 8 replicas failed"),
        ([(0.0, 10.0)], 1.0, 0, "some atom was unreliable all the time in each replica"),
        # Only before the late window.
        ([(0.0, 4.0)], 0.0, 0, ""),
        # Over the limit, but not by far: two events in 5 ps are 400 per ns, at the lower end fewer.
        ([(6.0, 6.1), (8.0, 8.1)], 0.02, 0, ""),
    ],
)
def test_only_what_can_hardly_be_made_good_decides(active, gain_ps, failed, why):
    found = asked(*explored(active, gain_ps, failed=failed))
    assert found.endswith(why)
    assert bool(found) == bool(why)


def test_what_ended_early_is_not_saturated_though_so_short_a_time_could_not_show_calm():
    calm, wild = assess_run(*explored([]), SETTINGS), assess_run(*explored([(0, 10)], 1), SETTINGS)
    assert calm.finding is Finding.NOT_ENOUGH_DATA
    assert "cannot show fewer than" in calm.reason
    assert wild.finding is Finding.NOT_SATURATED
    assert wild.reason == asked(*explored([(0, 10)], 1)).removeprefix("methanol at 500 K: ")


def test_many_events_decide_and_so_do_many_unreliable_atoms():
    # Sixteen events a replica in 5 ps, 128 in 40 ps: 3,200 per ns, over 1,000 with confidence.
    often = [(5.1 + 0.3 * n, 5.12 + 0.3 * n) for n in range(16)]
    found = asked(*explored(often, 0.01))
    assert "events per ns and molecule, limit 100" in found
    # One event a replica, of half the time, in which a third of the atoms is unreliable.
    found = asked(*explored([(6.0, 8.5)], 5.0))
    assert "% of the atomic predictions unreliable, limit 0.01" in found


def test_the_first_restless_structure_and_temperature_decides():
    (calm, ends), (wild, others) = explored([]), explored([], failed=2, temperature_K=700.0)
    wild["replica"] += 8
    others = [end.model_copy(update={"replica": end.replica + 8}) for end in others]
    found = asked(pd.concat([calm, wild]), [*ends, *others])
    assert found == "methanol at 700 K: 2 of 8 replicas failed"
