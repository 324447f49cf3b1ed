"""Exploration with a cheap pair potential behind the interface that MACE has."""

import hashlib
import itertools
import multiprocessing
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from torch_sim.models.interface import ModelInterface

from halcyon.config import (
    AuditSettings,
    DistanceVariable,
    DomainSettings,
    ExplorationSettings,
    MetadynamicsBias,
    RampBias,
)
from halcyon.domain.curves import Curve
from halcyon.domain.expected import ExpectedErrors
from halcyon.domain.intervals import Calibration, Domain, SignalData
from halcyon.domain.margins import Margin
from halcyon.errors import InputError, Interrupted
from halcyon.exploration.activity import CLOSED_GAP_PS
from halcyon.exploration.candidates import FRAMES_BEFORE_FAILURE
from halcyon.exploration.explore import Monitoring, Progress, Replica, RunControl, explore
from halcyon.exploration.reservoir import draw_of
from halcyon.exploration.run_state import identity_of
from halcyon.exploration.traces import trace_columns, write_traces
from halcyon.exploration.trajectory import join
from halcyon.frames import read_frames
from halcyon.verdict.forms import ExplorationSummary
from halcyon.verdict.runs import failures

STIFFNESS, LENGTH = 20.0, 1.0
"""eV/Å² and Å of the bond of a made-up diatomic molecule."""


class Spring(ModelInterface):
    """Diatomic molecules: E = k/2 (r - r0)², half of it on each atom."""

    def __init__(self, fail_after=None, dtype=torch.float64):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), dtype
        self._compute_forces, self._compute_stress = True, False
        self.calls, self.fail_after = 0, fail_after

    def forward(self, state):
        self.calls += 1
        pairs = state.positions.reshape(-1, 2, 3)
        vector = pairs[:, 1] - pairs[:, 0]
        length = vector.norm(dim=1, keepdim=True)
        energy = STIFFNESS / 2 * (length - LENGTH).squeeze(1) ** 2
        pull = STIFFNESS * (length - LENGTH) * vector / length
        forces = torch.stack([pull, -pull], dim=1).reshape(-1, 3)
        if self.fail_after and self.calls > self.fail_after:
            forces[:2] = torch.nan
        return {
            "energy": energy,
            "forces": forces,
            "node_energy": energy.repeat_interleave(2) / 2,
        }


class Free(Spring):
    """No forces at all."""

    def forward(self, state):
        zero = torch.zeros(len(state.positions), dtype=self._dtype)
        return {
            "energy": torch.zeros(len(state.cell), dtype=self._dtype),
            "forces": zero.unsqueeze(1).repeat(1, 3),
            "node_energy": zero,
        }


def domain(upper=0.02, guard=10.0):
    return Domain(
        classes={"dimer": ["N", "N"]},
        label={"N": (-upper, upper)},
        guard={"N": (-guard, guard)},
        margin=Margin(value=0, low=0, high=0, method="conformal", alpha=0.1, n=1),
        bonds={"dimer": [(0, 1, LENGTH)]},
        signals={
            "bond_stretch": calibrated(0.05),
            "potential_energy": calibrated(1.0, structures={"dimer": [0.0, 0.02]}),
        },
        # 0.3 eV/Å at the ends of the label domain, and less within: `error` is outside where
        # `label` is.
        expected=ExpectedErrors(
            tolerance_eV_per_A=0.3,
            signals=["node_energy"],
            curves={
                "node_energy": {
                    "N": Curve(distance=[0.5, 1.0], error=[0.1, 0.3], source="class", pairs=9)
                }
            },
        ),
    )


def calibrated(threshold, **data):
    margin = Margin(
        value=threshold, low=threshold, high=threshold, method="conformal", alpha=0.1, n=9
    )
    return Calibration(threshold=margin, data=SignalData(**data))


def dimer(length=LENGTH):
    return Atoms(
        "N2",
        positions=[[0, 0, 0], [0, 0, length]],
        info={"charge": 0, "multiplicity": 1, "structure": "dimer"},
    )


COLUMNS = trace_columns(["error", "label", "guard"])
SETTINGS = ExplorationSettings(
    temperatures_K=[600.0],
    replicas=4,
    time_ps=0.4,
    timestep_fs=1.0,
    candidate_interval_fs=20.0,
    trace_points_per_ps=50,
    checkpoint_s=1e6,
)


AUDIT = AuditSettings(reservoir=9)
STRETCH = MetadynamicsBias(
    kind="metadynamics",
    variables=[DistanceVariable(kind="distance", atoms=(0, 1), sigma_A=0.05)],
    height_eV=0.05,
    pace_fs=10,
    bias_factor=20,
)


NVE = SETTINGS.model_copy(
    update={"ensemble": "nve", "equilibration_ps": 0.11, "friction_per_ps": 50.0}
)
STRAINED = {"ensemble": "nve", "equilibration_ps": 0.0, "energy_drift_eV_per_atom": 0.002}


def run(
    work,
    model=None,
    *,
    replicas=None,
    settings=SETTINGS,
    bounds=None,
    signals=(),
    system_kind="molecule",
    identity="test",
    stop=lambda: False,
    audit=AUDIT,
    **options,
):
    return explore(
        model or Spring(),
        replicas or [Replica(n, 600.0, dimer()) for n in range(4)],
        settings,
        Monitoring(
            domain=bounds or domain(),
            settings=DomainSettings(signals=list(signals)),
            system_kind=system_kind,
        ),
        RunControl(work=work, identity=identity, stop=stop),
        seed=3,
        audit=audit,
        **options,
    )


def after(number):
    """A stop that says yes when it has been asked more than `number` times."""
    calls = itertools.count()
    return lambda: next(calls) >= number


def same(result, other):
    assert result.traces.equals(other.traces)
    assert result.replicas == other.replicas
    assert result.steps == other.steps
    for frames, others in (
        (result.candidates, other.candidates),
        (result.reservoir, other.reservoir),
    ):
        assert [f.info for f in frames] == [f.info for f in others]
        for a, b in zip(frames, others, strict=True):
            np.testing.assert_array_equal(a.positions, b.positions)


def test_the_index_is_the_time_spent_outside(tmp_path):
    result = run(tmp_path)
    last = result.traces.groupby("replica").last()
    assert result.steps == 4 * 400
    assert last["time"].tolist() == pytest.approx([0.4] * 4)
    assert (last["cli_error"] > 0).all()
    assert (last["cli_error"] < 0.4).all()
    assert (last["cli_guard"] == 0).all()
    # Both atoms share the bond's energy: mean and maximum agree, λ is between 0 and 1.
    np.testing.assert_allclose(last["cli_error"], last["cli_error_max"])
    assert result.traces["rate_error"].between(0, 1).all()
    assert [r.failure for r in result.replicas] == [None] * 4


EARLY = SETTINGS.model_copy(update={"early_end": 0.26})
"""104 of 400 steps, which end neither an interval nor between two points of the traces."""


def test_a_run_that_ends_early_is_one_of_which_less_was_asked(tmp_path):
    less = run(tmp_path / "less", settings=SETTINGS.model_copy(update={"time_ps": 0.104}))
    asked = []

    def decided(traces, ends):
        asked.append((traces, ends))
        return "it is hopeless"

    early = run(tmp_path / "early", settings=EARLY, decided=decided)
    assert early.time_ps == pytest.approx(0.104)
    same(early, less)
    assert early.summary().ended_early == "it is hopeless"
    assert less.summary().ended_early == ""
    # It was asked once, about what it had then.
    ((traces, ends),) = asked
    assert traces.equals(early.traces)
    assert [end.time_ps for end in ends] == pytest.approx([0.104] * 4)
    for calls in (1, 3, 5):  # killed before, and tried again
        with pytest.raises(Interrupted):
            run(tmp_path / f"{calls}", settings=EARLY, decided=decided, stop=after(calls))
        same(run(tmp_path / f"{calls}", settings=EARLY, decided=decided), early)
    # Finished, and asked again: the same.
    same(run(tmp_path / "early", settings=EARLY, decided=decided), early)


def test_molecules_in_a_box_and_without_one_end_early_together(tmp_path):
    boxed = dimer()
    boxed.cell, boxed.pbc = [50.0] * 3, True
    boxed.positions += 25.0
    replicas = [Replica(n, 600.0, start) for n, start in enumerate([boxed, dimer(), boxed])]
    asked = []

    def decided(traces, ends):
        asked.append((sorted(set(traces["replica"])), [end.time_ps for end in ends]))
        return "it is hopeless"

    early = run(tmp_path / "early", replicas=replicas, settings=EARLY, decided=decided)
    assert asked == [([0, 1, 2], [pytest.approx(0.104)] * 3)]
    less = SETTINGS.model_copy(update={"time_ps": 0.104})
    same(early, run(tmp_path / "less", replicas=replicas, settings=less))


def test_a_run_that_need_not_end_early_goes_on_as_if_nobody_had_asked(tmp_path):
    whole = run(tmp_path / "whole")
    assert whole.time_ps == 0.4
    same(run(tmp_path / "asked", settings=EARLY, decided=lambda *_: ""), whole)
    same(run(tmp_path / "nobody", settings=EARLY), whole)
    same(run(tmp_path / "never", decided=lambda *_: "it is hopeless"), whole)


def test_traces_have_the_expected_error_of_the_frame_at_each_point(tmp_path):
    every = SETTINGS.model_copy(update={"trajectory_every_fs": 20.0})
    result = run(tmp_path, settings=every)
    points = result.traces.set_index(["replica", result.traces["time"].round(3)])
    for path in result.trajectory:
        for frame in read_frames(path):
            half = frame.info["energy"] / 2  # of each atom; 0.02 eV is a distance of 1
            by_hand = np.interp(half / 0.02, [0.5, 1.0], [0.1, 0.3]) * max(1, half / 0.02)
            point = points.loc[frame.info["replica"], round(frame.info["time"], 3)]
            assert point["expected_error"] == pytest.approx(by_hand)
            assert point["expected_error_max"] == pytest.approx(by_hand)
    assert (result.traces["expected_error_max"] > 0.3).any()


def test_the_thermostat_keeps_the_temperature(tmp_path):
    settings = SETTINGS.model_copy(update={"time_ps": 3.0, "friction_per_ps": 20.0})
    result = run(tmp_path, settings=settings)
    late = result.traces[result.traces["time"] > 0.3]
    assert late["temperature"].mean() == pytest.approx(600, rel=0.15)


def test_the_traces_have_the_temperature_that_was_asked_from_the_first_step_on(tmp_path):
    # Each replica ends after one step: its first kinetic energy, but for a fs of forces.
    settings = SETTINGS.model_copy(update={"time_ps": 0.001, "friction_per_ps": 1e-9})
    settings = settings.model_copy(update={"trace_points_per_ps": 1000})
    water = molecule("H2O")
    water.info |= {"charge": 0, "multiplicity": 1, "structure": "dimer"}
    bounds = replace(domain(), classes={"dimer": ["N"] * 3}, bonds={})
    replicas = [Replica(n, 500.0, water) for n in range(3)]
    traces = run(tmp_path, Free(), replicas=replicas, settings=settings, bounds=bounds).traces
    np.testing.assert_allclose(traces["temperature"], 500.0, rtol=1e-6)
    # 3N − 3 degrees of freedom, counted by hand.
    np.testing.assert_allclose(traces["kinetic_energy"], 6 / 2 * units.kB * 500.0, rtol=1e-6)


def test_candidates_are_the_worst_frames_outside_the_domain(tmp_path):
    result = run(tmp_path)
    assert result.candidates
    for frame in result.candidates:
        stretch = frame.get_distance(0, 1) - LENGTH
        energy = STIFFNESS / 4 * stretch**2
        # An expected error of 0.3 eV/Å for 0.02 eV, and in proportion beyond.
        assert frame.info["score"] == pytest.approx((energy - 0.02) / 0.02)
        assert 0 < frame.info["cli_gain"] <= 0.020 + 1e-9
    peaks = [f for f in result.candidates if f.info["reason"] == "excursion"]
    intervals = {(f.info["replica"], int(f.info["time"] / 0.0200001)) for f in peaks}
    assert len(intervals) == len(peaks)


def test_candidates_are_also_the_frames_where_excursions_begin(tmp_path):
    every = SETTINGS.model_copy(update={"trajectory_every_fs": 1.0})
    result = run(tmp_path, settings=every)
    energies = {
        (f.info["replica"], round(1000 * f.info["time"])): f.info["energy"]
        for path in result.trajectory
        for f in read_frames(path)
    }
    begun = [f for f in result.candidates if f.info["reason"] == "excursion start"]
    assert len(begun) > 4
    for frame in begun:
        step = round(1000 * frame.info["time"])
        before = energies.get((frame.info["replica"], step - 1), 0.0)
        assert before / 2 <= 0.02 < energies[frame.info["replica"], step] / 2


def test_of_a_long_run_a_set_number_of_candidates_is_kept_those_that_gained_most(tmp_path):
    all_of_them = run(tmp_path / "a")
    few = run(tmp_path / "b", settings=SETTINGS.model_copy(update={"candidates_per_replica": 3}))
    assert few.passed_over == len(all_of_them.candidates) - len(few.candidates) > 0
    for number in range(4):
        gains, kept = (
            sorted(f.info["cli_gain"] for f in r.candidates if f.info["replica"] == number)
            for r in (all_of_them, few)
        )
        assert kept == gains[-3:]


def test_the_reservoir_has_random_frames_of_the_time_after_equilibration(tmp_path):
    every = SETTINGS.model_copy(update={"trajectory_every_fs": 20.0})
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(4)]
    result = run(tmp_path / "a", replicas=replicas, settings=every, successor=breaks_first)
    visited = {
        (f.info["replica"], round(1000 * f.info["time"])): f
        for path in result.trajectory
        for f in read_frames(path)
    }
    assert len(result.reservoir) == AUDIT.reservoir
    draws = [frame.info["draw"] for frame in result.reservoir]
    # Of each replica the frames from 0.08 ps on, a fifth of the run; its own time counts.
    after_equilibration = [place for place in visited if place[1] >= 80]
    of_all = sorted(draw_of(seed=3, replica=n, step=step) for n, step in after_equilibration)
    assert draws == of_all[: AUDIT.reservoir]
    for frame in result.reservoir:
        other = visited[frame.info["replica"], round(1000 * frame.info["time"])]
        np.testing.assert_array_equal(frame.positions, other.positions)


def test_without_an_audit_no_frame_is_kept(tmp_path):
    assert run(tmp_path, audit=None).reservoir == []


def test_activity_is_the_time_outside_with_short_gaps_closed(tmp_path):
    result = run(tmp_path)
    last = result.traces.groupby("replica").last()
    for end in result.replicas:
        spans = end.activity_ps
        assert len(spans) > 1
        outside = last["cli_error_max"][end.replica]
        active = sum(stop - start for start, stop in spans)
        gaps = [after - before for (_, before), (after, _) in itertools.pairwise(spans)]
        assert min(gaps) >= CLOSED_GAP_PS
        # Both atoms are outside together, so closed gaps are all that is more than Λ.
        excursions = last["excursions_error"][end.replica] / 2
        assert outside <= active + 1e-9 < outside + CLOSED_GAP_PS * (excursions - len(spans)) + 1e-6
        assert end.molecules == 1


def test_killed_and_restarted_it_is_the_same_trajectory(tmp_path):
    undisturbed = run(tmp_path / "whole")
    for interruption in (0, 3, 12, 20):
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", stop=after(interruption))
    same(run(tmp_path / "broken"), undisturbed)
    # Finished, it integrates nothing again.
    model = Spring()
    same(run(tmp_path / "broken", model), undisturbed)
    assert model.calls == 0


def test_killed_at_ten_random_moments_it_ends_as_if_undisturbed(tmp_path):
    # A real SIGKILL, at any point of a step or of writing a checkpoint.
    settings = SETTINGS.model_copy(
        update={"time_ps": 1.0, "checkpoint_s": 0.02, "trajectory_every_fs": 50.0, "bias": STRETCH}
    )
    starts = [Replica(n, 900.0, dimer(1.9 if n == 1 else 1.0)) for n in range(4)]
    options = {"replicas": starts, "settings": settings, "successor": breaks_first}
    begun = time.monotonic()
    whole = run(tmp_path / "whole", **options)
    usual = time.monotonic() - begun
    random = np.random.default_rng(11)
    for _ in range(10):
        child = multiprocessing.get_context("fork").Process(
            target=run, args=(tmp_path / "killed",), kwargs=options
        )
        child.start()
        child.join(random.uniform(0.03, 0.08) * usual)
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL  # it was not through yet
    assert list((tmp_path / "killed").glob("*.checkpoint"))
    end = run(tmp_path / "killed", **options)
    same(end, whole)
    join(whole.trajectory, tmp_path / "one.parquet")
    join(end.trajectory, tmp_path / "other.parquet")
    undisturbed, other = (read_frames(tmp_path / f"{n}.parquet") for n in ("one", "other"))
    assert [f.info for f in undisturbed] == [f.info for f in other]
    assert all((a.positions == b.positions).all() for a, b in zip(undisturbed, other, strict=True))


def test_another_model_does_not_continue_an_old_trajectory(tmp_path):
    run(tmp_path)
    model = Spring()
    run(tmp_path, model, identity="another model")
    assert model.calls > 400


def test_a_replica_that_breaks_is_retired_and_the_others_go_on(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    result = run(tmp_path / "a", replicas=replicas)
    assert [r.failure for r in result.replicas] == [None, "bond broken", None]
    assert result.replicas[1].time_ps == pytest.approx(0.001)
    alive = result.traces.groupby("replica")["time"].max()
    assert alive[0] == alive[2] == pytest.approx(0.4)
    assert (result.traces.groupby("replica")["cli_error"].diff().dropna() >= 0).all()
    with pytest.raises(Interrupted):
        run(tmp_path / "b", replicas=replicas, stop=after(5))
    same(run(tmp_path / "b", replicas=replicas), result)


def test_frames_before_a_failure_are_candidates(tmp_path):
    result = run(tmp_path, Spring(fail_after=50))
    assert result.replicas[0].failure == "values not finite"
    before = [f for f in result.candidates if f.info["reason"] == "before failure"]
    # The others move up into the failing place of the batch one after another.
    assert [r.failure for r in result.replicas] == ["values not finite"] * 4
    assert len(before) == 4 * FRAMES_BEFORE_FAILURE
    for frame in before:
        failed_at = result.replicas[frame.info["replica"]].time_ps
        assert failed_at - 0.04 - 1e-9 <= frame.info["time"] < failed_at
        assert np.isfinite(frame.positions).all()


def test_all_replicas_failing_in_the_first_step_is_an_outcome(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9)) for n in range(2)]
    result = run(tmp_path, replicas=replicas)
    assert [r.failure for r in result.replicas] == ["bond broken"] * 2
    assert len(result.traces) == 2
    assert result.steps == 2


def test_a_run_whose_replicas_have_all_failed_can_be_asked_again(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9)) for n in range(2)]
    result = run(tmp_path, replicas=replicas)
    model = Spring()
    same(run(tmp_path, model, replicas=replicas), result)
    assert model.calls == 0


@pytest.mark.parametrize(("time_ps", "interruptions"), [(0.4, (0, 0, 0, 5)), (0.015, (0,))])
def test_stopped_while_no_replica_runs_it_goes_on(tmp_path, time_ps, interruptions):
    # In the shorter run the time is over before the successors may enter.
    changed = {"replacements": 3, "trajectory_every_fs": 10.0, "time_ps": time_ps}
    options = {
        "replicas": [Replica(n, 600.0, dimer(1.9)) for n in range(2)],
        "settings": SETTINGS.model_copy(update=changed),
        "successor": breaks_first,
    }
    whole = run(tmp_path / "whole", **options)
    for interruption in interruptions:  # at the first, all have failed and successors wait
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", stop=after(interruption), **options)
    same(run(tmp_path / "broken", **options), whole)


def test_traces_are_thinned_but_exact(tmp_path):
    coarse = run(tmp_path / "a", settings=SETTINGS.model_copy(update={"trace_points_per_ps": 10}))
    fine = run(tmp_path / "b", settings=SETTINGS.model_copy(update={"trace_points_per_ps": 500}))
    assert len(coarse.traces) == 4 * 4
    last = [r.traces.groupby("replica")["cli_error"].last() for r in (coarse, fine)]
    assert last[0].equals(last[1])


def test_traces_carry_their_units(tmp_path):
    import pyarrow.parquet as pq

    write_traces(tmp_path / "t.parquet", run(tmp_path).traces)
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == list(COLUMNS)
    assert schema.field("cli_error").metadata[b"unit"] == b"ps"
    assert schema.metadata == {b"halcyon.traces": b"2"}


MORE = ("bond_stretch", "potential_energy")


def test_more_signals_add_columns_and_change_nothing_else(tmp_path):
    plain = run(tmp_path / "plain")
    result = run(tmp_path / "more", signals=MORE)
    assert list(plain.traces.columns) == list(COLUMNS)
    assert result.traces[list(plain.traces.columns)].equals(plain.traces)
    last = result.traces.groupby("replica").last()
    for name in MORE:
        assert (last[f"cli_{name}"] > 0).all()
        assert (last[f"cli_{name}_max"] >= last[f"cli_{name}"]).all()
        assert (last[f"excursions_{name}"] > 0).all()
        assert result.traces[f"rate_{name}"].between(0, 1).all()
    write_traces(tmp_path / "t.parquet", result.traces)


def test_more_signals_go_on_after_a_kill_and_a_failure(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    undisturbed = run(tmp_path / "whole", replicas=replicas, signals=MORE)
    with pytest.raises(Interrupted):
        run(tmp_path / "broken", replicas=replicas, signals=MORE, stop=after(6))
    same(run(tmp_path / "broken", replicas=replicas, signals=MORE), undisturbed)


def test_a_signal_without_calibration_is_refused_before_the_first_step(tmp_path):
    model = Spring()
    with pytest.raises(InputError, match="latent"):
        run(tmp_path, model, signals=["latent"])
    assert model.calls == 0


def test_half_the_time_step_gives_the_same_index(tmp_path):
    # Undamped, so that both integrate one trajectory, which the index must not tell apart.
    indices = []
    for timestep in (0.5, 0.25):
        changed = {"timestep_fs": timestep, "friction_per_ps": 1e-9, "time_ps": 0.2}
        settings = SETTINGS.model_copy(update=changed)
        starts = [Replica(n, 300.0, dimer(1.1 + 0.02 * n)) for n in range(4)]
        result = run(tmp_path / str(timestep), replicas=starts, settings=settings)
        indices.append(result.traces.groupby("replica")["cli_error"].last().to_numpy())
    assert indices[0].min() > 0
    np.testing.assert_allclose(indices[0], indices[1], atol=0.004)


def test_permuted_replicas_give_the_same_numbers(tmp_path):
    # The thermostat's noise is each replica's own: to the last bit the same trajectory, whatever
    # the order, and alone in its batch.
    starts = [Replica(n, 600.0, dimer(1.05 + 0.02 * n)) for n in range(4)]
    in_order = run(tmp_path / "a", replicas=starts)
    other = run(tmp_path / "b", replicas=[starts[i] for i in (2, 0, 3, 1)])
    alone = run(tmp_path / "c", replicas=starts[2:3])
    assert other.traces.equals(in_order.traces)
    third = in_order.traces[in_order.traces["replica"] == 2].reset_index(drop=True)
    assert alone.traces.equals(third)


@pytest.mark.parametrize("block", [1, 3, 7])
def test_how_many_steps_are_looked_at_at_once_changes_nothing(tmp_path, monkeypatch, block):
    replicas = [Replica(n, 15000.0, dimer()) for n in range(4)]  # some of them break
    normal = run(tmp_path / "a", replicas=replicas, signals=MORE)
    monkeypatch.setattr("halcyon.exploration.replicas.BLOCK_STEPS", block)
    same(run(tmp_path / "b", replicas=replicas, signals=MORE), normal)
    assert any(r.failure for r in normal.replicas)


def breaks_first(number, gone):
    """A successor; the first of all breaks as well."""
    return Replica(number, gone.temperature_K, dimer(1.9 if number == 3 else 1.0))


def test_failed_replicas_are_replaced_until_the_time_is_over(tmp_path):
    replicas = [Replica(n, 600.0 + n, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    result = run(tmp_path / "a", replicas=replicas, successor=breaks_first)
    ends = {r.replica: r for r in result.replicas}
    assert sorted(ends) == [0, 1, 2, 3, 4]
    assert [ends[n].failure for n in (1, 3)] == ["bond broken"] * 2
    assert [ends[n].temperature_K for n in (3, 4)] == [601.0] * 2
    # A new one enters where a candidate interval of 20 steps begins.
    assert [ends[n].began_ps for n in (0, 3, 4)] == pytest.approx([0, 0.020, 0.040])
    assert ends[4].time_ps == pytest.approx(0.360)
    last = result.traces.groupby("replica").last()
    assert last["time"][4] == pytest.approx(0.360)
    assert result.steps == 400 + 1 + 400 + 1 + 360
    for interruption in (0, 2, 3, 20):
        with pytest.raises(Interrupted):
            run(
                tmp_path / "b",
                replicas=replicas,
                successor=breaks_first,
                stop=after(interruption),
            )
    same(run(tmp_path / "b", replicas=replicas, successor=breaks_first), result)


@pytest.mark.parametrize("kind", ["none", "metadynamics"])
def test_when_all_have_failed_others_begin_as_many_as_allowed(tmp_path, kind):
    replicas = [Replica(n, 600.0, dimer(1.9)) for n in range(2)]
    settings = SETTINGS.model_copy(update={"replacements": 3})
    if kind == "metadynamics":
        settings = settings.model_copy(update={"bias": STRETCH})
    result = run(tmp_path, replicas=replicas, settings=settings, successor=breaks_first)
    # 0, 1 and 2 break at once; of them 2 is the successor of 0.
    assert [r.failure for r in result.replicas] == ["bond broken"] * 2 + [
        None,
        "bond broken",
    ] + [None]
    assert [r.began_ps for r in result.replicas] == pytest.approx([0, 0, 0.02, 0.02, 0.04])


def test_without_a_thermostat_the_total_energy_stays(tmp_path):
    settings = SETTINGS.model_copy(update={"ensemble": "nve"})
    result = run(tmp_path, settings=settings)
    kinetic = result.traces["kinetic_energy"]
    total = (result.traces["potential_energy"] + kinetic).groupby(result.traces["replica"])
    assert (total.max() - total.min()).max() < 0.002
    assert [r.failure for r in result.replicas] == [None] * 4


@pytest.mark.parametrize(
    ("timestep", "failure"), [(1.0, None), (5.0, "total energy not conserved")]
)
def test_a_time_step_too_long_shows_as_energy_drift(tmp_path, timestep, failure):
    # Velocity Verlet's error grows with (ω dt)²: with ω = sqrt(k/μ) = 0.17/fs it is 0.7 or 17 %.
    changed = STRAINED | {"timestep_fs": timestep}
    starts = [Replica(n, 1.0, dimer(1.15)) for n in range(2)]
    result = run(tmp_path, replicas=starts, settings=SETTINGS.model_copy(update=changed))
    assert {end.failure for end in result.replicas} == {failure}


def test_the_drift_is_looked_at_at_every_step_whatever_the_length_of_a_block(tmp_path, monkeypatch):
    settings = SETTINGS.model_copy(update=STRAINED | {"timestep_fs": 5.0})
    starts = [Replica(n, 1.0, dimer(1.10 + 0.02 * n)) for n in range(4)]
    results = []
    for block in (50, 7, 1):
        monkeypatch.setattr("halcyon.exploration.replicas.BLOCK_STEPS", block)
        results.append(run(tmp_path / str(block), replicas=starts, settings=settings))
    ends = results[0].replicas
    assert {end.failure for end in ends} == {"total energy not conserved"}
    # The energy's error swings with the bond, a period of 36 fs: the limit is passed within it.
    assert all(end.time_ps <= 0.040 for end in ends)
    same(results[1], results[0])
    same(results[2], results[0])


def test_without_a_thermostat_a_run_begins_equilibrated_whatever_its_start(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.15)) for n in range(200)]  # 0.225 eV of strain
    result = run(tmp_path, replicas=replicas, settings=NVE)
    # Equipartition: 3/2 kT of rotation and vibration, and 1/2 kT of the harmonic bond. Its
    # standard error is sqrt(2) kT / sqrt(200): 5 %.
    first = result.traces.groupby("replica").first()
    temperature = first["temperature"].mean()
    internal = 3 / 2 * units.kB * temperature + first["potential_energy"].mean()
    assert internal == pytest.approx(2 * units.kB * 600, rel=0.2)
    # The drift is measured from the end of equilibration: 0.225 eV went before.
    assert {end.failure for end in result.replicas} == {None}


def test_equilibration_does_not_count(tmp_path):
    # Every step is outside: Λ is the time, and it is the time without a thermostat.
    bounds = replace(domain(), label={"N": (-2.0, -1.0)})
    result = run(tmp_path, settings=NVE, bounds=bounds)
    last = result.traces.groupby("replica").last()
    assert (result.traces["time"] > 0).all()
    np.testing.assert_allclose(last["time"], 0.4)
    np.testing.assert_allclose(last["cli_label"], 0.4)
    assert (last["excursions_label"] == 2).all()
    np.testing.assert_allclose([end.time_ps for end in result.replicas], 0.4)
    assert {end.began_ps for end in result.replicas} == {0.0}
    assert result.steps == 4 * (400 + 110)
    times = [frame.info["time"] for frame in result.candidates]
    assert min(times) < 0 < max(times)


def test_a_failure_while_equilibrated_is_a_failure_and_says_so(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 0 else 1.0)) for n in range(3)]
    result = run(tmp_path, replicas=replicas, settings=NVE)
    failed, *others = result.replicas
    assert failed.failure == "bond broken at 0.001 of 0.11 ps of equilibration"
    assert failed.time_ps == 0
    assert {end.failure for end in others} == {None}
    (point,) = result.traces[result.traces["replica"] == 0].to_dict("records")
    assert (point["time"], point["rate_label"]) == (0, 0)
    rate = failures(result.replicas, confidence=0.95)
    assert (rate.failures, rate.time_ps) == (1, pytest.approx(0.8))


def test_an_equilibrated_run_is_the_same_when_killed_and_in_blocks_of_any_length(
    tmp_path, monkeypatch
):
    # A successor is equilibrated while others run without a thermostat.
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.1)) for n in range(3)]
    options = {"replicas": replicas, "successor": breaks_first, "settings": NVE}
    whole = run(tmp_path / "whole", **options)
    ends = {end.replica: end for end in whole.replicas}
    # The run begins at step −110; they enter where intervals of 20 steps begin.
    assert [ends[n].began_ps for n in (0, 3, 4)] == pytest.approx([0, -0.1 + 0.11, -0.08 + 0.11])
    assert ends[4].time_ps == pytest.approx(0.37)
    for interruption in range(12):
        with pytest.raises(Interrupted):
            run(tmp_path / "killed", **options, stop=after(interruption % 3))
    same(run(tmp_path / "killed", **options), whole)
    alone = run(tmp_path / "alone", replicas=replicas[2:], settings=NVE)
    assert alone.traces.equals(whole.traces[whole.traces["replica"] == 2].reset_index(drop=True))
    monkeypatch.setattr("halcyon.exploration.replicas.BLOCK_STEPS", 3)
    same(run(tmp_path / "blocks", **options), whole)


def test_a_successor_that_could_only_be_equilibrated_does_not_begin(tmp_path):
    settings = NVE.model_copy(update={"equilibration_ps": 0.39})
    replicas = [Replica(0, 600.0, dimer()), Replica(1, 600.0, dimer(1.9))]
    result = run(tmp_path, replicas=replicas, settings=settings, successor=breaks_first)
    assert [end.replica for end in result.replicas] == [0, 1, 2]
    late = run(
        tmp_path / "late",
        Spring(fail_after=500),
        replicas=replicas[:1],
        settings=settings,
        successor=lambda number, gone: Replica(number, gone.temperature_K, dimer()),
    )
    assert [end.replica for end in late.replicas] == [0]


class IdealGas(ModelInterface):
    """No forces at all, in periodic cells."""

    def __init__(self):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, True

    def forward(self, state):
        n, systems = len(state.positions), len(state.cell)
        return {
            "energy": torch.zeros(systems, dtype=torch.float64),
            "forces": torch.zeros(n, 3, dtype=torch.float64),
            "stress": torch.zeros(systems, 3, 3, dtype=torch.float64),
            "node_energy": torch.zeros(n, dtype=torch.float64),
        }


def gas(atoms=8, edge=12.7):
    random = np.random.default_rng(5)
    info = {"charge": 0, "multiplicity": 1, "structure": "dimer"}
    return Atoms(
        f"N{atoms}", random.uniform(0, edge, (atoms, 3)), cell=[edge] * 3, pbc=True, info=info
    )


def test_constant_pressure_gives_each_replica_the_volume_of_an_ideal_gas(tmp_path):
    # Exact: p(V) ~ V^N exp(-PV/kT), so <V> = (N + 1) kT / P, with variance (N + 1) (kT / P)².
    # The pressure is high and the barostat fast, so that a short run has seen many volumes.
    settings = ExplorationSettings(
        ensemble="npt",
        pressure_bar=[300.0, 600.0],
        barostat_ps=0.002,
        temperatures_K=[500.0, 600.0],
        time_ps=10.0,
        timestep_fs=5.0,
        trajectory_every_fs=20.0,
        min_distance_A=1e-9,
        friction_per_ps=20.0,
        checkpoint_s=1e6,
    )
    temperatures = {n: 600.0 if n % 2 else 500.0 for n in range(32)}
    replicas = [Replica(n, kelvin, gas()) for n, kelvin in temperatures.items()]
    bounds = replace(domain(), classes={"dimer": ["N"] * 8}, bonds={})
    result = run(
        tmp_path,
        IdealGas(),
        replicas=replicas,
        settings=settings,
        bounds=bounds,
        system_kind="reactive",
    )
    frames = [f for path in result.trajectory for f in read_frames(path) if f.info["time"] > 1.0]
    for kelvin, bar in ((500.0, 300.0), (600.0, 600.0)):
        of_these = [f for f in frames if temperatures[f.info["replica"]] == kelvin]
        volumes = np.array([f.get_volume() for f in of_these])
        scale = units.kB * kelvin / (bar * units.bar)
        assert volumes.mean() / scale == pytest.approx(9, rel=0.1)
        assert volumes.std() / scale == pytest.approx(3, rel=0.2)


def test_constant_pressure_needs_a_periodic_cell(tmp_path):
    with pytest.raises(InputError, match=r"npt.*dimer"):
        run(tmp_path, settings=SETTINGS.model_copy(update={"ensemble": "npt"}))


def test_a_trajectory_is_written_only_if_asked_and_survives_a_kill(tmp_path):
    assert run(tmp_path / "none").trajectory == []
    settings = SETTINGS.model_copy(update={"trajectory_every_fs": 10.0})
    whole = run(tmp_path / "a", settings=settings)
    for interruption in (4, 11):
        with pytest.raises(Interrupted):
            run(tmp_path / "b", settings=settings, stop=after(interruption))
    parts = run(tmp_path / "b", settings=settings).trajectory
    assert len(parts) > 1
    assert join(whole.trajectory, tmp_path / "a.parquet") == 4 * 40
    assert join(parts, tmp_path / "b.parquet") == 4 * 40
    frames = [read_frames(tmp_path / f"{name}.parquet") for name in "ab"]
    for a, b in zip(*frames, strict=True):
        assert a.info == b.info
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.arrays["forces"], b.arrays["forces"])
    assert not any(path.exists() for path in parts)
    # Asked again, what was joined stays.
    assert join(parts, tmp_path / "b.parquet") == 0
    assert len(read_frames(tmp_path / "b.parquet")) == 4 * 40
    assert join([], tmp_path / "none.parquet") == 0
    assert not (tmp_path / "none.parquet").exists()


def test_progress_and_result_are_told_in_a_line(tmp_path):
    progress = Progress(done=0.25, ns_per_day=3.14, seconds_left=300.0, failed=2)
    assert str(progress) == ("25%, 3.1 ns/day over all replicas, 2 failed, about 5.0 min left")
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    result = run(tmp_path, replicas=replicas)
    cli = result.traces.groupby("replica")["cli_error"].last().mean()
    assert result.describe() == (
        f"0.801 ps, 1 of 3 replicas failed, Λ {cli:.3g} ps, {len(result.candidates)} candidates"
    )
    path = tmp_path / "exploration.json"
    result.summary().write(path)
    written = ExplorationSummary.read(path)
    assert written.replicas == result.replicas
    assert written.replica_steps == result.steps
    assert written.candidates_passed_over == result.passed_over


def test_the_identity_is_of_the_files_that_are_read(tmp_path):
    paths = [tmp_path / name for name in ("model", "domain", "member")]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    model, inside, member = paths

    def identity(*signals):
        settings = DomainSettings(signals=["node_energy", *signals], committee=[member])
        return identity_of(model, inside, settings)

    everything = b"".join(path.read_bytes() for path in paths)
    assert identity("committee") == hashlib.sha256(everything).hexdigest()
    assert identity() == hashlib.sha256(everything[:20]).hexdigest()


def test_hills_drive_replicas_further_and_the_traces_say_how_far(tmp_path):
    settings = SETTINGS.model_copy(update={"bias": STRETCH, "temperatures_K": [300.0]})
    replicas = [Replica(n, 300.0, dimer()) for n in range(4)]
    plain = run(tmp_path / "plain", replicas=replicas)
    pushed = run(tmp_path / "pushed", replicas=replicas, settings=settings)
    table = pushed.traces
    assert table["variable_1"].std() > 1.5 * np.sqrt(units.kB * 300 / STIFFNESS)  # its own spread
    assert table["variable_2"].isna().all()
    assert table.groupby("replica")["bias_energy"].last().min() > 0.05
    # The model's own energy, without the bias, is what is traced and scored.
    energy = STIFFNESS / 2 * (table["variable_1"] - LENGTH) ** 2
    np.testing.assert_allclose(table["potential_energy"], energy)
    late = [r.traces.groupby("replica")["cli_error"].last().mean() for r in (plain, pushed)]
    assert late[1] > late[0]
    write_traces(tmp_path / "t.parquet", table)


def test_hills_go_on_after_a_kill_a_failure_and_a_replacement(tmp_path):
    settings = SETTINGS.model_copy(update={"bias": STRETCH})
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    options = {"replicas": replicas, "settings": settings, "successor": breaks_first}
    whole = run(tmp_path / "a", **options)
    for interruption in (1, 4, 17):
        with pytest.raises(Interrupted):
            run(tmp_path / "b", **options, stop=after(interruption))
    same(run(tmp_path / "b", **options), whole)


def test_a_ramp_heats_each_replica_from_its_own_start(tmp_path):
    ramp = RampBias(kind="ramp", to_K=3000.0, time_ps=0.2)
    changed = {"bias": ramp, "friction_per_ps": 100.0, "bond_stretch_A": 5.0, "time_ps": 1.0}
    replicas = [Replica(n, 300.0, dimer()) for n in range(16)]
    result = run(tmp_path, replicas=replicas, settings=SETTINGS.model_copy(update=changed))
    table = result.traces
    early = table[table["time"].between(0.0, 0.05)]["temperature"].mean()
    late = table[table["time"] > 0.4]["temperature"].mean()
    assert early < 1000
    assert late == pytest.approx(3000, rel=0.1)
