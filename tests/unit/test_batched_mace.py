"""The fast evaluation of a model agrees with MACE's own, alone and in batches of any size."""

import warnings

import numpy as np
import pytest
import torch
import torch_sim
from ase import Atoms
from ase.build import molecule
from mace import modules
from mace.modules.models import o3  # e3nn can be imported only after MACE

from halcyon.errors import InputError
from halcyon.models import batched, groups
from halcyon.models.batched import BatchedMace
from halcyon.models.fast import radials, tensor_steps
from halcyon.models.fast.evaluate import FastMace
from halcyon.models.fast.radial_table import RadialTable
from halcyon.models.fast.solid_harmonics import SolidHarmonics

ELEMENTS = [1, 6, 7, 8]
# eV per atom, eV per node, eV/Å
TOLERANCE = {torch.float32: (1e-6, 1e-5, 1e-5), torch.float64: (1e-9, 1e-9, 1e-6)}


def random_model(dtype=torch.float64, **changes):
    """A MACE model with random weights, of the kind that campaigns train."""
    first = changes.pop("first", "RealAgnosticInteractionBlock")
    later = changes.pop("later", "RealAgnosticResidualInteractionBlock")
    channels, max_L = changes.pop("channels", 4), changes.pop("max_L", 0)
    options = {
        "r_max": 3.5,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 3,
        "interaction_cls": modules.interaction_classes[later],
        "interaction_cls_first": modules.interaction_classes[first],
        "num_interactions": 2,
        "num_elements": len(ELEMENTS),
        "hidden_irreps": (channels * o3.Irreps.spherical_harmonics(max_L)).sort()[0].simplify(),
        "MLP_irreps": o3.Irreps("8x0e"),
        "gate": torch.nn.functional.silu,
        "atomic_energies": np.array([-0.5, -38.0, -54.5, -75.0]),
        "avg_num_neighbors": 8.0,
        "atomic_numbers": ELEMENTS,
        "correlation": 2,
        "atomic_inter_scale": 0.7,
        "atomic_inter_shift": 0.1,
    }
    torch.manual_seed(7)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return modules.ScaleShiftMACE(**options | changes).to(dtype)
    finally:
        torch.set_default_dtype(default)


def plain(model, **options):
    """The same wrapper around MACE's own forward."""
    wrapper = BatchedMace(model, **options)
    wrapper._fast = None
    return wrapper


def as_state(frames, dtype=torch.float64):
    return torch_sim.io.atoms_to_state(frames, torch.device("cpu"), dtype)


def moved(atoms, seed=0):
    atoms = atoms.copy()
    atoms.positions += np.random.default_rng(seed).normal(0, 0.05, atoms.positions.shape)
    return atoms


def water_box(side=2, edge=3.1):
    random = np.random.default_rng(3)
    box = Atoms(cell=[side * edge, side * edge, side * edge + 0.4], pbc=True)
    for place in np.ndindex(side, side, side):
        one = molecule("H2O")
        one.euler_rotate(*random.uniform(0, 360, 3), center="COM")
        one.translate(edge * (np.array(place) + 0.5))
        box += one
    return box


def sheared(atoms):
    """The same box in a skewed cell."""
    atoms = atoms.copy()
    cell = atoms.cell.array
    atoms.set_cell(cell + 0.3 * cell[[1, 2, 0]], scale_atoms=True)
    return atoms


# As the newer foundation models have it.
BY_DENSITY = {
    "first": "RealAgnosticDensityInteractionBlock",
    "later": "RealAgnosticDensityResidualInteractionBlock",
}
FOUNDATION = BY_DENSITY | {
    "max_L": 1,
    "correlation": 3,
    "distance_transform": "Agnesi",
    "pair_repulsion": True,
}

FRAMES = {
    "molecules": [moved(molecule("CH3CH2OH"), seed) for seed in range(3)],
    "several elements and sizes": [molecule(n) for n in ("CH3CN", "H2O", "C6H6", "CO2")],
    "more than fit a rectangle": [moved(molecule("C6H6") + molecule("CH3CH2OH"))],
    "one atom": [Atoms("O")],
    "two atoms apart": [Atoms("OH", positions=[[0, 0, 0], [9, 0, 0]]), molecule("H2O")],
    "two atoms far apart": [Atoms("OH", positions=[[0, 0, 0], [1e7, 0, 0]])],
    "liquid": [water_box(), moved(water_box())],
    "skewed cell": [sheared(water_box())],
    "small cell": [moved(molecule("CH3OH", cell=[3.4, 4.0, 5.0], pbc=True))],
    "cell with many images": [Atoms("OH", [[0, 0, 0], [0.1, 1, 0]], cell=[0.7, 4, 4], pbc=True)],
}


DENSE = {"first": "RealAgnosticDensityInteractionBlock"}


def compare(found, expected, system_idx, tolerance):
    per_atom, node, force = tolerance
    sizes = torch.bincount(system_idx)
    # The total holds the elements' own energies, and is rounded to the last bit of their sum.
    torch.testing.assert_close(found["energy"], expected["energy"], atol=1e-6, rtol=2e-7)
    difference = found["node_energy"] - expected["node_energy"]
    per_system = torch.zeros(len(sizes), dtype=torch.float64).index_add(0, system_idx, difference)
    assert float((per_system / sizes).abs().max()) < per_atom
    for name, limit in (("node_energy", node), ("forces", force), ("descriptors", node)):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=limit)


@pytest.fixture(scope="module", params=[torch.float32, torch.float64])
def pair(request):
    model = random_model(request.param)
    return request.param, BatchedMace(model, compute_stress=True), plain(model, compute_stress=True)


@pytest.fixture(scope="module")
def exact():
    return BatchedMace(random_model())


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES.keys())
def test_agrees_with_maces_own_forward(pair, frames):
    dtype, fast, own = pair
    assert fast._fast is not None
    state = as_state(frames, dtype)
    found, expected = fast(state), own(state)
    compare(found, expected, state.system_idx, TOLERANCE[dtype])
    torch.testing.assert_close(
        found["stress"], expected["stress"], rtol=0, atol=TOLERANCE[dtype][2]
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"correlation": 1},
        {"max_L": 1},
        {"max_L": 1, "correlation": 3},
        {"max_L": 2, "correlation": 3, "num_interactions": 3},
        {"max_L": 1, "max_ell": 2},
        {"max_L": 1, "first": "RealAgnosticResidualInteractionBlock"},
        {"correlation": 3},
        {"num_interactions": 1},
        {"num_interactions": 3},
        {"max_ell": 1},
        {"first": "RealAgnosticResidualInteractionBlock"},
        {"use_last_readout_only": True},
        {"use_agnostic_product": True},
        {"channels": 5},
        {"pair_repulsion": True},
        {"distance_transform": "Agnesi"},
        {"distance_transform": "Soft", "max_L": 1},
        BY_DENSITY,
        {"first": "RealAgnosticDensityResidualInteractionBlock", "num_interactions": 3},
        FOUNDATION,
    ],
    ids=str,
)
def test_agrees_for_every_kind_of_model(changes):
    model = random_model(**changes)
    fast, state = BatchedMace(model), as_state(FRAMES["several elements and sizes"])
    assert fast._fast is not None
    compare(fast(state), plain(model)(state), state.system_idx, TOLERANCE[torch.float64])


@pytest.mark.parametrize(
    "first", ["RealAgnosticInteractionBlock", "RealAgnosticResidualInteractionBlock"]
)
@pytest.mark.parametrize("max_L", [0, 1])
def test_agrees_for_a_model_of_one_element(first, max_L):
    one = {"num_elements": 1, "atomic_numbers": [1], "atomic_energies": np.array([-0.5])}
    model = random_model(first=first, max_L=max_L, **one)
    fast, state = BatchedMace(model), as_state([moved(molecule("H2")), moved(molecule("H2"), 1)])
    assert fast._fast is not None
    compare(fast(state), plain(model)(state), state.system_idx, TOLERANCE[torch.float64])


@pytest.mark.parametrize(
    "changes",
    [{"correlation": 4, "max_ell": 1}, {"later": "RealAgnosticAttResidualInteractionBlock"}],
    ids=str,
)
def test_other_models_go_through_mace(changes):
    model = random_model(**changes)
    wrapper = BatchedMace(model)
    assert wrapper._fast is None
    result = wrapper(as_state(FRAMES["molecules"]))
    assert np.isfinite(result["energy"]).all()


def test_where_pairs_of_elements_are_too_many_for_tables_mace_evaluates(monkeypatch):
    model, state = random_model(distance_transform="Agnesi"), as_state(FRAMES["molecules"])
    expected = BatchedMace(model)(state)
    # Of three elements there are six pairs.
    one = 1024 * 2 * 8 * (4 * 4 * 4)  # float64: 2,048 intervals; cubics of 4 paths and channels
    monkeypatch.setattr(radials, "MOST_BYTES", 2 * 6 * one - 1)
    wrapper = BatchedMace(model)
    compare(wrapper(state), expected, state.system_idx, TOLERANCE[torch.float64])
    assert wrapper._batch.groups[0].sorted_atoms is None
    monkeypatch.setattr(radials, "MOST_BYTES", 2 * 6 * one)
    wrapper = BatchedMace(model)
    wrapper(state)
    assert wrapper._batch.groups[0].sorted_atoms is not None


def test_a_foundation_model_in_a_skewed_cell_in_both_precisions():
    # In float32 MACE's own repulsion is rounded more than the fast one: both against float64.
    rounded = as_state(FRAMES["skewed cell"], torch.float32)
    exact = as_state(FRAMES["skewed cell"])
    exact.positions, exact.cell = rounded.positions.double(), rounded.cell.double()
    expected = plain(random_model(**FOUNDATION), compute_stress=True)(exact)
    for state in (rounded, exact):
        dtype = state.positions.dtype
        found = BatchedMace(random_model(dtype, **FOUNDATION), compute_stress=True)(state)
        found = {name: values.double() for name, values in found.items()}
        compare(found, expected, state.system_idx, TOLERANCE[dtype])
        torch.testing.assert_close(
            found["stress"], expected["stress"], rtol=0, atol=TOLERANCE[dtype][2]
        )


def test_repulsion_at_short_distances_is_maces():
    model = random_model(pair_repulsion=True)
    for distance in (0.05, 0.3, 0.9, 1.3):  # Å
        state = as_state([Atoms("OC", positions=[[0, 0, 0], [0, 0, distance]])])
        found, expected = BatchedMace(model)(state), plain(model)(state)
        for name in ("node_energy", "forces"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("path", ["interactions.1.linear", "products.0.linear"])
def test_a_block_that_is_not_what_it_seems_goes_through_mace(path):
    model = random_model(max_L=1)
    owner, name = model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2]
    linear = getattr(owner, name)
    twisted = torch.nn.Sequential(linear, torch.nn.Tanh())
    twisted.irreps_out = linear.irreps_out
    setattr(owner, name, twisted)
    assert FastMace.of(model) is None
    setattr(owner, name, linear)
    assert FastMace.of(model) is not None


@pytest.mark.parametrize("changes", [{}, {"max_L": 1}, FOUNDATION], ids=str)
@pytest.mark.parametrize("frames", ["several elements and sizes", "small cell"])
def test_tensor_operations_and_compiled_loops_agree(changes, frames, monkeypatch):
    # What a GPU does, on a CPU, in parts of a few atoms each.
    monkeypatch.setattr(tensor_steps, "NUMBERS_AT_ONCE", 20_000)
    wrapper = BatchedMace(random_model(**{"correlation": 3} | changes), compute_stress=True)
    state = as_state(FRAMES[frames])
    compiled = wrapper(state)
    fast = wrapper._fast
    fast._steps = tensor_steps.TensorSteps(fast._layers)
    found = wrapper(state)
    for name, expected in compiled.items():
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("frames", ["molecules", "more than fit a rectangle", "liquid"])
@pytest.mark.parametrize("changes", [{}, {"correlation": 3}, {"channels": 6}, DENSE], ids=str)
def test_one_call_for_all_steps_gives_what_they_give_one_by_one(changes, frames, monkeypatch):
    wrapper, state = BatchedMace(random_model(**changes)), as_state(FRAMES[frames])
    at_once = wrapper(state)
    (group,) = wrapper._batch.groups
    assert (group.at_once is None) == (changes is DENSE)
    monkeypatch.setattr(wrapper, "_at_once", lambda *_args, **_options: None)
    from_neighbours = wrapper(state)
    monkeypatch.setattr(wrapper._fast, "_at_once", None)
    one_by_one = wrapper(state)
    for name, values in at_once.items():
        torch.testing.assert_close(from_neighbours[name], values, rtol=0, atol=1e-10)
        torch.testing.assert_close(one_by_one[name], values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("changes", [{}, DENSE], ids=["at once", "one by one"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_system_that_blew_up_is_nan_and_no_other_is(changes, value):
    wrapper, state = BatchedMace(random_model(**changes)), as_state(FRAMES["molecules"])
    sound = wrapper(state)
    state.positions[11, 1] = value  # of the second molecule
    broken = wrapper(state)
    for name, values in sound.items():
        before, after = values.chunk(3), broken[name].chunk(3)
        assert after[1].isnan().all()
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(after[2], before[2], rtol=0, atol=1e-10)


def test_a_small_models_results_do_not_depend_on_the_batch_to_the_last_bit():
    wrapper = BatchedMace(random_model(torch.float32, channels=16))
    frames = [moved(molecule(name), seed) for seed, name in enumerate(("CH3OH", "H2O", "CH3OH"))]
    together = wrapper(as_state(frames, torch.float32))["forces"].split([6, 3, 6])
    for frame, forces in zip(frames, together, strict=True):
        assert torch.equal(wrapper(as_state([frame], torch.float32))["forces"], forces)


def test_wide_models_are_evaluated_at_once_for_few_atoms_only():
    narrow, wide = (
        BatchedMace(random_model(channels=channels))._fast._at_once for channels in (16, 64)
    )
    assert narrow.is_faster(10**6)
    assert wide.is_faster(64)
    assert not wide.is_faster(65)


@pytest.fixture
def threads():
    """Sets PyTorch's number of threads for a test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [2, 5])
@pytest.mark.parametrize("name", ["molecules", "liquid"])
def test_threads_share_the_systems_and_change_no_bit(name, number, threads):
    threads(1)
    wrapper, state = BatchedMace(random_model()), as_state(FRAMES[name])
    alone = wrapper(state)
    assert len(wrapper._batch.groups) == 1
    threads(number)
    together = wrapper(state)
    assert len(wrapper._batch.groups) == min(number, len(FRAMES[name]))
    for key, expected in alone.items():
        assert torch.equal(together[key], expected)


@pytest.mark.parametrize("name", ["molecules", "cell with many images"])
def test_threads_share_the_atoms(name, threads):
    frames = FRAMES[name] * 2
    threads(1)
    wrapper, state = BatchedMace(random_model(**DENSE)), as_state(frames)
    alone = wrapper(state)
    threads(3)
    for key, expected in wrapper(state).items():
        torch.testing.assert_close(alone[key], expected, rtol=0, atol=1e-12)
    assert len(wrapper._batch.groups) == 1


def test_threads_leave_cells_that_no_loop_searches_to_the_steps_one_by_one(threads):
    state = as_state(FRAMES["cell with many images"] * 2)
    threads(1)
    wrapper = BatchedMace(random_model())
    alone = wrapper(state)
    threads(2)
    for key, expected in wrapper(state).items():
        torch.testing.assert_close(alone[key], expected, rtol=0, atol=1e-12)


def test_systems_are_shared_by_atoms():
    assert list(groups._shares([0, 5, 10, 15, 20], 2)) == [(0, 2), (2, 4)]
    assert list(groups._shares([0, 5, 10], 5)) == [(0, 1), (1, 2)]
    assert list(groups._shares([0, 30, 33, 36, 40], 2)) == [(0, 1), (1, 4)]
    assert list(groups._shares([0, 7], 1)) == [(0, 1)]


@pytest.mark.parametrize("name", ["molecules", "liquid"])
def test_forces_are_the_slope_of_the_energy(exact, name):
    atoms, step = FRAMES[name][0], 1e-4
    forces = exact(as_state([atoms]))["forces"]
    for index, axis in ((0, 0), (3, 1), (5, 2)):
        both = []
        for sign in (1, -1):
            other = atoms.copy()
            other.positions[index, axis] += sign * step
            both.append(float(exact(as_state([other]))["node_energy"].sum()))
        slope = (both[0] - both[1]) / (2 * step)
        assert float(forces[index, axis]) == pytest.approx(-slope, abs=1e-6)


def test_stress_is_the_slope_of_the_energy_by_strain():
    model, atoms, step = BatchedMace(random_model(), compute_stress=True), water_box(), 1e-5
    stress = model(as_state([atoms]))["stress"][0]
    for a, b in ((0, 0), (2, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            other = atoms.copy()
            other.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            energies.append(float(model(as_state([other]))["node_energy"].sum()))
        slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        assert float(stress[a, b]) == pytest.approx(slope, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", ["molecules", "liquid", "more than fit a rectangle"])
def test_the_same_input_gives_the_same_bits(exact, name):
    first, again = (exact(as_state(FRAMES[name])) for _ in range(2))
    new = BatchedMace(random_model())(as_state(FRAMES[name]))
    for key, values in first.items():
        assert torch.equal(values, again[key])
        assert torch.equal(values, new[key])


@pytest.mark.parametrize("name", ["more than fit a rectangle", "liquid"])
def test_large_systems_take_their_neighbours_from_a_list(name, exact, monkeypatch):
    expected = exact(as_state(FRAMES[name]))
    monkeypatch.setattr(groups, "COMPARED_MAX_ATOMS", 10)
    monkeypatch.setattr(batched, "neighbours", None)
    found = BatchedMace(random_model())(as_state(FRAMES[name]))
    for key, values in expected.items():
        torch.testing.assert_close(found[key], values, rtol=0, atol=1e-10)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("name", ["several elements and sizes", "liquid"])
def test_splitting_changes_nothing(name, fast):
    model = random_model()
    wrapper = BatchedMace(model, compute_stress=True) if fast else plain(model, compute_stress=True)
    state = as_state(FRAMES[name])
    whole = wrapper(state)
    assert len(wrapper._batch.groups) == 1
    wrapper._edge_limit, wrapper._batch = 80, None
    split = wrapper(state)
    assert len(wrapper._batch.groups) > 1
    for key, values in whole.items():
        torch.testing.assert_close(split[key], values, rtol=0, atol=1e-10)


def test_runs_hold_as_many_systems_as_fit():
    bounds = [0, 5, 10, 15, 20]  # 5 atoms with 4 neighbours each: 20 edges
    assert list(groups._limited(bounds, 45, 4.0)) == [(0, 2), (2, 4)]
    assert list(groups._limited(bounds, 1, 4.0)) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert list(groups._limited(bounds, float("inf"), 4.0)) == [(0, 4)]


class SmallMemory(torch.nn.Module):
    """A MACE model on a device that holds few atoms."""

    def __init__(self, model, most):
        super().__init__()
        self.inner, self.most, self.calls = model, most, []

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner, name)

    def forward(self, data, **options):
        self.calls.append(len(data["positions"]))
        if self.calls[-1] > self.most:
            raise torch.OutOfMemoryError("out of memory")
        return self.inner(data, **options)


def test_a_batch_that_does_not_fit_is_halved_until_it_does():
    model = random_model()
    state = as_state([moved(molecule("CH3OH"), seed) for seed in range(8)])
    wrapper = BatchedMace(SmallMemory(model, most=13))
    with pytest.warns(UserWarning, match="cpu has not enough memory for 8 systems at once"):
        found = wrapper(state)
    assert wrapper.model.calls == [48, 24, *[12] * 4]
    compare(found, plain(model)(state), state.system_idx, TOLERANCE[torch.float64])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        wrapper(state)
    assert wrapper.model.calls[7:] == [12] * 3  # and the size that fits is kept


def test_a_system_that_does_not_fit_alone_is_an_error_that_says_what_to_do():
    wrapper = BatchedMace(SmallMemory(random_model(), most=5))
    with (
        pytest.warns(UserWarning, match="several passes"),
        pytest.raises(InputError, match=r"system of 6 atoms does not fit .* use a smaller"),
    ):
        wrapper(as_state([molecule("CH3OH")] * 2))


def test_radial_table_gives_exact_slopes_and_nothing_beyond():
    def function(r):
        return torch.cat([torch.sin(2 * r), torch.exp(-r)], dim=1) * (4 - r) ** 3

    like = torch.zeros(1, dtype=torch.float64)
    table = RadialTable([[function]], widths=[1], r_max=4.0, like=like)
    lengths = torch.linspace(0.3, 5, 400, dtype=torch.float64)
    [(values, slopes)] = table(lengths)
    inside = lengths < 4
    torch.testing.assert_close(values[inside], function(lengths[inside, None]), rtol=0, atol=1e-9)
    assert (values[~inside] == 0).all()
    assert (slopes[~inside] == 0).all()
    [(above, _)], [(below, _)] = table(lengths + 1e-6), table(lengths - 1e-6)
    torch.testing.assert_close((above - below) / 2e-6, slopes, rtol=0, atol=1e-5)


def test_solid_harmonics_are_e3nns_with_their_gradient():
    def reference(vectors):
        return o3.spherical_harmonics(
            [0, 1, 2, 3, 4], vectors, normalize=False, normalization="component"
        )

    like = torch.zeros(1, dtype=torch.float64)
    harmonics = SolidHarmonics(reference, 4, like=like)
    vectors = torch.randn(3, 9, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(9, 25, dtype=torch.float64)
    values = harmonics(vectors.detach())
    expected = reference(vectors.T)
    torch.testing.assert_close(values.T, expected.detach())
    slope = torch.autograd.grad((expected * weights).sum(), vectors)[0]
    torch.testing.assert_close(harmonics.pulled_back(values, weights), slope)
    with pytest.raises(ValueError, match="not spherical harmonics of degree 1"):
        SolidHarmonics(lambda x: torch.cat([x[:, :1] * 0 + 1, x**3], dim=1), 1, like=like)
