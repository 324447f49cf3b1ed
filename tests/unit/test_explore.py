"""Exploration with a cheap pair potential behind the interface that MACE has."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from torch_sim.models.interface import ModelInterface

from halcyon import explore as exploring
from halcyon.config import DomainSettings, ExplorationSettings
from halcyon.domain import Calibration, Domain, Margin
from halcyon.errors import InputError, Interrupted
from halcyon.explore import Replica, explore

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


def domain(upper=0.02, guard=10.0):
    return Domain(
        classes={"dimer": ["N", "N"]},
        label={"N": (-upper, upper)},
        guard={"N": (-guard, guard)},
        margin=Margin(value=0, low=0, high=0, method="conformal", alpha=0.1, n=1),
        bonds={"dimer": [(0, 1, LENGTH)]},
        report={},
        signals={
            "bond_stretch": calibrated(0.05),
            "potential_energy": calibrated(1.0, structures={"dimer": [0.0, 0.02]}),
        },
    )


def calibrated(threshold, **data):
    margin = Margin(
        value=threshold, low=threshold, high=threshold, method="conformal", alpha=0.1, n=9
    )
    return Calibration(threshold=margin, exceedance={}, data=data)


def dimer(length=LENGTH):
    return Atoms(
        "N2",
        positions=[[0, 0, 0], [0, 0, length]],
        info={"charge": 0, "multiplicity": 1, "structure": "dimer"},
    )


SETTINGS = ExplorationSettings(
    temperatures_K=[600.0],
    replicas=4,
    time_ps=0.4,
    timestep_fs=1.0,
    candidate_interval_fs=20.0,
    trace_points_per_ps=50,
    checkpoint_s=1e6,
)


def run(work, model=None, *, replicas=None, settings=SETTINGS, bounds=None, signals=(), **options):
    return explore(
        model or Spring(),
        bounds or domain(),
        replicas or [Replica(n, 600.0, dimer()) for n in range(4)],
        settings,
        DomainSettings(signals=list(signals)),
        kind="molecule",
        work=work,
        identity="test",
        seed=3,
        **options,
    )


def after(number):
    """A stop that says yes when it has been asked more than `number` times."""
    asked = itertools.count()
    return lambda: next(asked) >= number


def same(one, other):
    assert one.traces.equals(other.traces)
    assert one.replicas == other.replicas
    assert one.steps == other.steps
    assert [f.info for f in one.candidates] == [f.info for f in other.candidates]
    for a, b in zip(one.candidates, other.candidates, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)


def test_the_index_is_the_time_spent_outside(tmp_path):
    result = run(tmp_path)
    last = result.traces.groupby("replica").last()
    assert result.steps == 4 * 400
    assert last["time"].tolist() == pytest.approx([0.4] * 4)
    assert (last["cli_label"] > 0).all()
    assert (last["cli_label"] < 0.4).all()
    assert (last["cli_guard"] == 0).all()
    # Both atoms share the bond's energy: mean and maximum agree, λ is between 0 and 1.
    np.testing.assert_allclose(last["cli_label"], last["cli_label_max"])
    assert result.traces["rate_label"].between(0, 1).all()
    assert [r["failure"] for r in result.replicas] == [None] * 4


def test_the_thermostat_keeps_the_temperature(tmp_path):
    settings = SETTINGS.model_copy(update={"time_ps": 3.0, "friction_per_ps": 20.0})
    result = run(tmp_path, settings=settings)
    late = result.traces[result.traces["time"] > 0.3]
    assert late["temperature"].mean() == pytest.approx(600, rel=0.15)


def test_candidates_are_the_worst_frames_outside_the_domain(tmp_path):
    result = run(tmp_path)
    assert result.candidates
    for frame in result.candidates:
        stretch = frame.get_distance(0, 1) - LENGTH
        energy = STIFFNESS / 4 * stretch**2
        assert frame.info["score"] == pytest.approx((energy - 0.02) / 0.04)
        assert frame.info["force_max"] == pytest.approx(STIFFNESS * abs(stretch))
        assert 0 < frame.info["cli_gain"] <= 0.020 + 1e-9
    intervals = {(f.info["replica"], int(f.info["time"] / 0.0200001)) for f in result.candidates}
    assert len(intervals) == len(result.candidates)


def test_killed_and_restarted_it_is_the_same_trajectory(tmp_path):
    undisturbed = run(tmp_path / "whole")
    for interruption in (7, 33, 120, 200):
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", stop=after(interruption))
    same(run(tmp_path / "broken"), undisturbed)
    # Finished, it integrates nothing again.
    model = Spring()
    same(run(tmp_path / "broken", model), undisturbed)
    assert model.calls <= 1


def test_another_model_does_not_continue_an_old_trajectory(tmp_path):
    run(tmp_path)
    model = Spring()
    explore(
        model,
        domain(),
        [Replica(n, 600.0, dimer()) for n in range(4)],
        SETTINGS,
        DomainSettings(),
        kind="molecule",
        work=tmp_path,
        identity="another model",
        seed=3,
    )
    assert model.calls > 400


def test_a_replica_that_breaks_is_retired_and_the_others_go_on(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    result = run(tmp_path / "a", replicas=replicas)
    assert [r["failure"] for r in result.replicas] == [None, "bond broken", None]
    assert result.replicas[1]["time_ps"] == pytest.approx(0.001)
    alive = result.traces.groupby("replica")["time"].max()
    assert alive[0] == alive[2] == pytest.approx(0.4)
    assert (result.traces.groupby("replica")["cli_label"].diff().dropna() >= 0).all()
    with pytest.raises(Interrupted):
        run(tmp_path / "b", replicas=replicas, stop=after(50))
    same(run(tmp_path / "b", replicas=replicas), result)


def test_frames_before_a_failure_are_candidates(tmp_path):
    result = run(tmp_path, Spring(fail_after=50))
    assert result.replicas[0]["failure"] == "values not finite"
    before = [f for f in result.candidates if f.info["reason"] == "before failure"]
    # The others move up into the failing place of the batch one after another.
    assert [r["failure"] for r in result.replicas] == ["values not finite"] * 4
    assert len(before) == 4 * exploring.FRAMES_BEFORE_FAILURE
    for frame in before:
        failed_at = result.replicas[frame.info["replica"]]["time_ps"]
        assert failed_at - 0.02 <= frame.info["time"] < failed_at
        assert np.isfinite(frame.positions).all()


def test_all_replicas_failing_in_the_first_step_is_an_outcome(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9)) for n in range(2)]
    result = run(tmp_path, replicas=replicas)
    assert [r["failure"] for r in result.replicas] == ["bond broken"] * 2
    assert len(result.traces) == 2
    assert result.steps == 2


def test_traces_are_thinned_but_exact(tmp_path):
    coarse = run(tmp_path / "a", settings=SETTINGS.model_copy(update={"trace_points_per_ps": 10}))
    fine = run(tmp_path / "b", settings=SETTINGS.model_copy(update={"trace_points_per_ps": 500}))
    assert len(coarse.traces) == 4 * 4
    last = [r.traces.groupby("replica")["cli_label"].last() for r in (coarse, fine)]
    assert last[0].equals(last[1])


def test_traces_carry_their_units(tmp_path):
    import pyarrow.parquet as pq

    exploring.write_traces(tmp_path / "t.parquet", run(tmp_path).traces)
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert schema.names == list(exploring.TRACE_COLUMNS)
    assert schema.field("cli_label").metadata[b"unit"] == b"ps"


MORE = ("bond_stretch", "potential_energy")


def test_more_signals_add_columns_and_change_nothing_else(tmp_path):
    plain = run(tmp_path / "plain")
    result = run(tmp_path / "more", signals=MORE)
    assert list(plain.traces.columns) == list(exploring.TRACE_COLUMNS)
    assert result.traces[list(plain.traces.columns)].equals(plain.traces)
    last = result.traces.groupby("replica").last()
    for name in MORE:
        assert (last[f"cli_{name}"] > 0).all()
        assert (last[f"cli_{name}_max"] >= last[f"cli_{name}"]).all()
        assert (last[f"excursions_{name}"] > 0).all()
        assert result.traces[f"rate_{name}"].between(0, 1).all()
    exploring.write_traces(tmp_path / "t.parquet", result.traces)


def test_more_signals_go_on_after_a_kill_and_a_failure(tmp_path):
    replicas = [Replica(n, 600.0, dimer(1.9 if n == 1 else 1.0)) for n in range(3)]
    undisturbed = run(tmp_path / "whole", replicas=replicas, signals=MORE)
    with pytest.raises(Interrupted):
        run(tmp_path / "broken", replicas=replicas, signals=MORE, stop=after(60))
    same(run(tmp_path / "broken", replicas=replicas, signals=MORE), undisturbed)


def test_a_signal_without_calibration_is_refused_before_the_first_step(tmp_path):
    model = Spring()
    with pytest.raises(InputError, match="latent"):
        run(tmp_path, model, signals=["latent"])
    assert model.calls == 0


def test_half_the_time_step_gives_the_same_index(tmp_path):
    # Undamped, so that both integrate one trajectory, which the index must not tell apart.
    found = []
    for timestep in (0.5, 0.25):
        changed = {"timestep_fs": timestep, "friction_per_ps": 1e-9, "time_ps": 0.2}
        settings = SETTINGS.model_copy(update=changed)
        starts = [Replica(n, 300.0, dimer(1.1 + 0.02 * n)) for n in range(4)]
        result = run(tmp_path / str(timestep), replicas=starts, settings=settings)
        found.append(result.traces.groupby("replica")["cli_label"].last().to_numpy())
    assert found[0].min() > 0
    np.testing.assert_allclose(found[0], found[1], atol=0.004)


def test_permuted_replicas_give_the_same_numbers(tmp_path):
    # Undamped: the thermostat's noise is drawn for the batch, and starts are as they stand.
    settings = SETTINGS.model_copy(update={"friction_per_ps": 1e-12, "time_ps": 0.1})
    starts = [Replica(n, 1e-9, dimer(1.05 + 0.02 * n)) for n in range(4)]
    one = run(tmp_path / "a", replicas=starts, settings=settings)
    other = run(tmp_path / "b", replicas=[starts[i] for i in (2, 0, 3, 1)], settings=settings)
    alone = run(tmp_path / "c", replicas=starts[2:3], settings=settings)
    for name in ("cli_label", "excursions_label"):
        first = one.traces.groupby("replica")[name].last()
        np.testing.assert_allclose(other.traces.groupby("replica")[name].last(), first)
        assert alone.traces[name].iloc[-1] == pytest.approx(first[2])
