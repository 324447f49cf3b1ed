"""Ramp and metadynamics: variables against ASE, forces against differences, hills by hand."""

import io

import numpy as np
import pytest
import torch
from ase import Atoms, units
from pydantic import TypeAdapter

from halcyon.config import BiasSettings, RampBias
from halcyon.errors import InputError
from halcyon.exploration.bias import Metadynamics, check_variables, ramped

CPU = torch.device("cpu")
DISTANCE = {"kind": "distance", "atoms": [4, 1], "sigma_A": 0.2}
TORSION = {"kind": "torsion", "atoms": [0, 1, 2, 3], "sigma_deg": 20.0}
COORDINATION = {
    "kind": "coordination",
    "group_a": [0, 5],
    "group_b": [1, 2, 3],
    "r0_A": 1.9,
    "sigma": 0.3,
}
KINDS = [DISTANCE, TORSION, COORDINATION]
GAMMA, HEIGHT_EV = 6.0, 0.04


def settings(*variables, **changed):
    content = {
        "kind": "metadynamics",
        "variables": variables,
        "height_eV": HEIGHT_EV,
        "bias_factor": GAMMA,
    }
    return TypeAdapter(BiasSettings).validate_python(content | changed)


def chain(seed, *, periodic=False, structure="chain"):
    """Six atoms along a crooked chain; in a skewed cell, scattered over its images."""
    random = np.random.default_rng(seed)
    zigzag = [[1.2 * i, 0.8 * (i % 2), 0.4 * (i // 2)] for i in range(6)]
    atoms = Atoms("C6", positions=zigzag + random.normal(scale=0.25, size=(6, 3)))
    if periodic:
        atoms.set_cell([[9, 0, 0], [2, 8, 0], [-1, 1.5, 8.5]])
        atoms.pbc = True
        atoms.positions += random.integers(-2, 3, size=(6, 3)) @ atoms.cell.array
    atoms.info["structure"] = structure
    return atoms


def positions_of(frames, dtype=torch.float64):
    return torch.tensor(np.concatenate([frame.positions for frame in frames]), dtype=dtype)


def metadynamics(starts, *variables, temperatures=None, **changed):
    kelvin = temperatures or [300.0] * len(starts)
    return Metadynamics(starts, kelvin, settings(*variables, **changed), device=CPU)


def filled(starts, *variables, hills=5, **changed):
    """With hills where the replicas were some time ago."""
    bias = metadynamics(starts, *variables, **changed)
    random = np.random.default_rng(3)
    for _ in range(hills):
        moved = [frame.copy() for frame in starts]
        for frame in moved:
            frame.positions += random.normal(scale=0.08, size=frame.positions.shape)
        bias.deposit(positions_of(moved))
    return bias


@pytest.fixture(params=[False, True], ids=["free", "periodic"])
def chains(request):
    return [chain(seed, periodic=request.param) for seed in range(4)]


# Variables.


def test_distance_is_ase_s(chains):
    values = metadynamics(chains, DISTANCE).values(positions_of(chains))
    expected = [frame.get_distance(4, 1, mic=True) for frame in chains]
    assert values[:, 0].numpy() == pytest.approx(expected)


def test_distance_is_to_the_nearest_image_in_a_skewed_cell():
    random = np.random.default_rng(2)
    cell = [[6, 0, 0], [15, 5.2, 0], [20, 8, 6]]  # far from its shortest vectors
    frames = [
        Atoms("H2", random.uniform(-9, 9, (2, 3)), cell=cell, pbc=True, info={"structure": "skew"})
        for _ in range(200)
    ]
    bias = metadynamics(frames, DISTANCE | {"atoms": [0, 1]})
    expected = [frame.get_distance(0, 1, mic=True) for frame in frames]
    assert bias.values(positions_of(frames))[:, 0].numpy() == pytest.approx(expected)


def test_torsion_is_ase_s(chains):
    values = metadynamics(chains, TORSION).values(positions_of(chains))
    expected = np.array([frame.get_dihedral(0, 1, 2, 3, mic=True) for frame in chains])
    assert values[:, 0].numpy() == pytest.approx((expected + 180) % 360 - 180)


def test_coordination_is_the_rational_switch_over_pairs(chains):
    values = metadynamics(chains, COORDINATION).values(positions_of(chains))
    for frame, value in zip(chains, values[:, 0], strict=True):
        total = 0.0
        for a in COORDINATION["group_a"]:
            for b in COORDINATION["group_b"]:
                x = frame.get_distance(a, b, mic=True) / COORDINATION["r0_A"]
                total += (1 - x**6) / (1 - x**12)
        assert float(value) == pytest.approx(total)


def test_each_structure_has_its_own_variables_in_order():
    frames = [chain(1, structure=name) for name in ("a", "b", "c")]
    bias = metadynamics(
        frames,
        TORSION | {"structure": "b"},
        DISTANCE | {"structure": "a"},
        COORDINATION | {"structure": "b"},
    )
    values = bias.values(positions_of(frames))
    assert values.isnan().tolist() == [[False, True], [False, False], [True, True]]
    assert float(values[0, 0]) == pytest.approx(frames[0].get_distance(4, 1))


# Forces.


@pytest.mark.parametrize(
    "variables",
    [*([variable] for variable in KINDS), [DISTANCE, TORSION], [TORSION, COORDINATION]],
    ids=lambda variables: "+".join(v["kind"] for v in variables),
)
def test_forces_are_the_energy_s_slope(chains, variables):
    bias = filled(chains, *variables)
    assert_slope(bias, positions_of(chains))


def assert_slope(bias, positions, step=1e-5):
    energy, forces = bias.forces(positions)
    assert float(energy.min()) > 0.01
    assert float(forces.abs().max()) > 0.01
    for atom, direction in np.ndindex(*positions.shape):
        moved = torch.zeros_like(positions)
        moved[atom, direction] = step
        up, down = bias.forces(positions + moved)[0], bias.forces(positions - moved)[0]
        slope = float((up - down).sum()) / (2 * step)
        assert float(forces[atom, direction]) == pytest.approx(-slope, abs=1e-7)


def with_torsion(degrees):
    frame = chain(7)
    frame.set_dihedral(0, 1, 2, 3, degrees, indices=[3, 4, 5])
    return frame


@pytest.mark.parametrize("here", [179.9995, -179.9995, 175.0])
@pytest.mark.parametrize("there", [-170.0, 170.0])
def test_torsion_s_seam_is_no_wall(here, there):
    bias = metadynamics([with_torsion(here)], TORSION)
    bias.deposit(positions_of([with_torsion(there)]))
    energy, _ = bias.forces(positions_of([with_torsion(here)]))
    apart = abs(here - there)
    apart = min(apart, 360 - apart)
    assert float(energy) == pytest.approx(HEIGHT_EV * np.exp(-0.5 * (apart / 20) ** 2))
    assert_slope(bias, positions_of([with_torsion(here)]))  # its steps cross the seam


def test_no_net_force_and_no_torque():
    frames = [chain(1)]
    _, forces = filled(frames, DISTANCE, COORDINATION).forces(positions_of(frames))
    assert forces.sum(dim=0).numpy() == pytest.approx(0, abs=1e-12)
    torque = np.cross(frames[0].positions, forces.numpy()).sum(axis=0)
    assert torque == pytest.approx(0, abs=1e-12)


def test_without_hills_there_is_no_force(chains):
    energy, forces = metadynamics(chains, DISTANCE).forces(positions_of(chains))
    assert not energy.any()
    assert not forces.any()


def test_a_structure_without_variables_is_not_biased():
    frames = [chain(1, structure="a"), chain(1, structure="b")]
    bias = filled(frames, DISTANCE | {"structure": "a"})
    energy, forces = bias.forces(positions_of(frames))
    assert float(energy[0]) > 0
    assert float(energy[1]) == 0
    assert not forces[6:].any()


def test_no_structure_with_variables_is_no_bias_at_all(chains):
    bias = filled(chains, DISTANCE | {"structure": "other"})
    energy, forces = bias.forces(positions_of(chains))
    assert (energy.shape, forces.shape) == ((4,), (24, 3))
    assert bias.values(positions_of(chains)).shape == (4, 0)
    bias.keep([1])
    assert not bias.forces(positions_of(chains[1:2]))[1].any()


def test_forces_are_as_precise_as_positions_and_leave_them_alone(chains):
    bias = filled(chains, TORSION)
    positions = positions_of(chains, torch.float32)
    with torch.no_grad():
        energy, forces = bias.forces(positions)
    assert (energy.dtype, forces.dtype) == (torch.float64, torch.float32)
    assert not positions.requires_grad
    assert not forces.requires_grad


def test_a_replica_that_is_not_finite_harms_no_other(chains):
    bias = filled(chains, TORSION, COORDINATION)
    positions = positions_of(chains)
    sound, forces = bias.forces(positions)
    positions[6:12] = np.nan
    bias.deposit(positions)
    energy, broken = bias.forces(positions)
    assert energy.isnan().tolist() == [False, True, False, False]
    assert broken[6:12].isnan().any()
    assert broken[:6].isfinite().all()
    bias.keep([0, 2, 3])
    assert (bias.forces(torch.cat([positions[:6], positions[12:]]))[0] > sound[[0, 2, 3]]).all()
    assert forces.isfinite().all()


def test_a_step_stays_on_the_device_and_does_not_wait_for_it():
    # The meta device has no numbers: a transfer, or a look at a value, raises.
    meta = torch.device("meta")
    frames = [chain(1), chain(2, periodic=True)]
    bias = Metadynamics(frames, [300.0] * 2, settings(*KINDS[:2]), device=meta)
    positions = positions_of(frames, torch.float32).to(meta)
    for _ in range(40):
        bias.deposit(positions)
    energy, forces = bias.forces(positions)
    assert (energy.device, forces.device) == (meta, meta)
    assert (energy.shape, forces.shape) == ((2,), (12, 3))
    assert bias.values(positions).shape == (2, 2)


# Hills.


def test_heights_shrink_as_well_tempered(chains):
    kelvin = [200.0, 300.0, 300.0, 600.0]
    bias = metadynamics(chains, DISTANCE, temperatures=kelvin)
    for _ in range(3):
        bias.deposit(positions_of(chains))  # where it was before: V is the sum of the heights
    for temperature, state in zip(kelvin, bias.state(), strict=True):
        heights = []
        for _ in range(3):
            tempering = (GAMMA - 1) * units.kB * temperature
            heights.append(HEIGHT_EV * np.exp(-sum(heights) / tempering))
        assert state["heights"].numpy() == pytest.approx(heights)


def test_hills_are_gaussians_of_both_variables():
    here, there = chain(1), chain(2)
    bias = metadynamics([here], DISTANCE, TORSION)
    bias.deposit(positions_of([here]))
    energy, _ = bias.forces(positions_of([there]))
    apart = (there.get_distance(4, 1) - here.get_distance(4, 1)) / 0.2
    turned = there.get_dihedral(0, 1, 2, 3) - here.get_dihedral(0, 1, 2, 3)
    turned = ((turned + 180) % 360 - 180) / 20
    assert float(energy) == pytest.approx(HEIGHT_EV * np.exp(-0.5 * (apart**2 + turned**2)))


def test_there_is_room_for_any_number_of_hills(chains):
    bias = filled(chains, DISTANCE, hills=150)
    states = bias.state()
    assert all(len(state["heights"]) == 150 for state in states)
    value = bias.values(positions_of(chains))[2, 0].numpy()
    centers, heights = states[2]["centers"][0].numpy(), states[2]["heights"].numpy()
    expected = (heights * np.exp(-0.5 * ((value - centers) / 0.2) ** 2)).sum()
    assert float(bias.forces(positions_of(chains))[0][2]) == pytest.approx(expected)


# Replicas come and go.


def numbers(bias, frames):
    energy, forces = bias.forces(positions_of(frames))
    return energy.numpy(), forces.numpy().reshape(len(frames), -1)


@pytest.mark.parametrize("variables", [[TORSION], [DISTANCE, COORDINATION]], ids=["1", "2"])
def test_order_of_the_batch_does_not_matter(chains, variables):
    order = [2, 0, 3, 1]
    bias = filled(chains, *variables)
    shuffled = Metadynamics(
        [chains[i] for i in order],
        [300.0] * 4,
        settings(*variables),
        device=CPU,
        states=[bias.take(i) for i in order],
    )
    for actual, other in zip(
        numbers(bias, chains), numbers(shuffled, [chains[i] for i in order]), strict=True
    ):
        assert actual[order] == pytest.approx(other, rel=1e-12)


def test_kept_replicas_go_on_as_before(chains):
    kelvin = [200.0, 300.0, 400.0, 800.0]
    bias, all_of_them = (filled(chains, *KINDS[:2], temperatures=kelvin) for _ in range(2))
    bias.keep([1, 3])
    kept = [chains[1], chains[3]]
    for _ in range(2):
        for actual, other in zip(numbers(bias, kept), numbers(all_of_them, chains), strict=True):
            assert actual == pytest.approx(other[[1, 3]], rel=1e-12)
        bias.deposit(positions_of(kept))
        all_of_them.deposit(positions_of(chains))


def test_a_fresh_replica_joins_those_with_hills(chains):
    bias = filled(chains, DISTANCE, hills=40)
    states = [bias.take(2), None, bias.take(0)]
    frames = [chains[2], chains[3], chains[0]]
    joined = Metadynamics(frames, [300.0] * 3, settings(DISTANCE), device=CPU, states=states)
    energy, _ = joined.forces(positions_of(frames))
    before, _ = bias.forces(positions_of(chains))
    assert energy.tolist() == pytest.approx([float(before[2]), 0.0, float(before[0])])
    joined.deposit(positions_of(frames))
    assert [len(state["heights"]) for state in joined.state()] == [41, 1, 41]
    assert float(joined.forces(positions_of(frames))[0][1]) == pytest.approx(HEIGHT_EV)


def test_states_of_different_lengths_survive_each_other(chains):
    old, young = filled(chains[:2], *KINDS[:2], hills=40), filled(chains[:2], *KINDS[:2], hills=3)
    states = [old.take(0), young.take(1)]
    mixed = Metadynamics(chains[:2], [300.0] * 2, settings(*KINDS[:2]), device=CPU, states=states)
    mixed.deposit(positions_of(chains[:2]))
    for before, after in zip(states, mixed.state(), strict=True):
        assert len(after["heights"]) == len(before["heights"]) + 1
        assert (after["heights"][:-1] == before["heights"]).all()
        assert (after["centers"][:, :-1] == before["centers"]).all()


def test_checkpoint_is_plain_tensors_and_goes_on_the_same(chains):
    bias = filled(chains, *KINDS[:2], hills=40)
    file = io.BytesIO()
    torch.save(bias.state(), file)
    file.seek(0)
    restored = metadynamics(chains, *KINDS[:2])
    restored.restore(torch.load(file, weights_only=True))
    for _ in range(2):
        for actual, other in zip(numbers(bias, chains), numbers(restored, chains), strict=True):
            assert (actual == other).all()
        bias.deposit(positions_of(chains))
        restored.deposit(positions_of(chains))


# It does what it is for.

BARRIER_EV, TOP_A, BASIN_A = 0.30, 2.5, 0.6
"""Double well: barrier at TOP_A, minima BASIN_A to either side; 12 kT at 300 K."""


def distance_traces(replicas, steps, bias=None, pace=40):
    """Brownian motion of two atoms on a line in the double well: distances, (steps, replicas)."""
    random = torch.Generator().manual_seed(11)
    kT, mobility = units.kB * 300, 0.015  # mobility × time step, Å²/eV
    positions = torch.zeros(replicas, 2, 3, dtype=torch.float64)
    positions[:, 1, 0] = TOP_A - BASIN_A
    trace = torch.empty(steps, replicas, dtype=torch.float64)
    for step in range(steps):
        trace[step] = x = positions[:, 1, 0].clone()
        scaled = (x - TOP_A) / BASIN_A
        force = -4 * BARRIER_EV / BASIN_A * scaled * (scaled**2 - 1)
        if bias is not None:
            force += bias.forces(positions.view(-1, 3))[1].view(replicas, 2, 3)[:, 1, 0]
            if step % pace == 0:
                bias.deposit(positions.view(-1, 3))
        noise = torch.randn(replicas, generator=random, dtype=torch.float64)
        positions[:, 1, 0] += mobility * force + (2 * kT * mobility) ** 0.5 * noise
    return trace


def test_bias_carries_over_a_barrier_and_measures_it():
    pair = Atoms("H2", positions=[[0, 0, 0], [TOP_A, 0, 0]], info={"structure": "pair"})
    variable = {"kind": "distance", "atoms": [0, 1], "sigma_A": 0.15}
    replicas, steps, gamma = 32, 9000, 10.0
    bias = metadynamics([pair] * replicas, variable, height_eV=0.03, bias_factor=gamma)

    far = TOP_A + BASIN_A / 2
    assert not (distance_traces(replicas, steps) > far).any()
    trace = distance_traces(replicas, steps, bias)
    crossed = (trace > far).any(dim=0)
    returned = ((trace > far).cumsum(dim=0).bool() & (trace < TOP_A - BASIN_A / 2)).any(dim=0)
    assert crossed.all()
    assert returned.sum() > replicas / 2

    at = np.array([TOP_A - BASIN_A, TOP_A, TOP_A + BASIN_A])
    barriers = []
    for state in bias.state():
        (centers,), heights = state["centers"].numpy(), state["heights"].numpy()
        hills = np.exp(-0.5 * ((at[:, None] - centers) / 0.15) ** 2) @ heights
        free_energy = -gamma / (gamma - 1) * hills
        barriers.append(free_energy[1] - free_energy[[0, 2]].mean())
    # One replica's scatter by 0.03 eV, so their mean is good to 0.005; the rest is for what is not
    # yet filled, and for hills too wide to resolve the top.
    assert np.mean(barriers) == pytest.approx(BARRIER_EV, abs=0.02)


# The ramp, and what is refused.


def test_ramp_is_linear_from_each_replica_s_own_temperature():
    own = torch.tensor([300.0, 600.0, 1200.0])
    ramp = RampBias(kind="ramp", to_K=900.0)
    assert ramped(ramp, own, 0.0, run_ps=4.0).tolist() == [300, 600, 1200]
    assert ramped(ramp, own, 1.0, run_ps=4.0).tolist() == [450, 675, 1125]
    assert ramped(ramp, own, 9.0, run_ps=4.0).tolist() == [900, 900, 900]
    times = torch.tensor([0.0, 2.0, 4.0])
    assert ramped(ramp, own, times, run_ps=4.0).tolist() == [300, 750, 900]
    short = RampBias(kind="ramp", to_K=900.0, time_ps=1.0)
    assert ramped(short, own, 1.0, run_ps=4.0).tolist() == [900, 900, 900]


def fault(start, *variables):
    with pytest.raises(InputError) as caught:
        check_variables(settings(*variables), start, "mine.yaml")
    return str(caught.value)


def test_an_atom_that_is_not_there_is_refused():
    assert fault(chain(1), DISTANCE, DISTANCE | {"atoms": [1, 6]}) == (
        "mine.yaml: exploration.bias.variables.1: structure chain has no atom 6: expected 0 to 5"
    )


def test_a_straight_torsion_is_refused():
    line = Atoms("C6", positions=[[i, 0, 0] for i in range(6)], info={"structure": "line"})
    assert fault(line, TORSION) == (
        "mine.yaml: exploration.bias.variables.0.atoms = [0, 1, 2, 3]: three of them lie on "
        "a line in structure line, where a torsion is not defined: expected a bent chain"
    )


def test_sound_variables_and_those_of_other_structures_pass():
    check_variables(settings(*KINDS[:2]), chain(1), "mine.yaml")
    other = DISTANCE | {"atoms": [0, 99], "structure": "other"}
    check_variables(settings(other, TORSION), chain(1), "mine.yaml")
