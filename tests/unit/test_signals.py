"""What every signal must do, then what each one says, against numpy."""

import dataclasses
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from ase import Atoms

from halcyon.config import DomainSettings, SignalName
from halcyon.domain import calibration, samples, signals
from halcyon.domain.environments import environment_classes
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample, Samples
from halcyon.domain.scoring import scores_of
from halcyon.domain.states import State
from halcyon.errors import InputError
from halcyon.frames import PER_ATOM

NAMES = get_args(SignalName)
THRESHOLDED = [name for name in NAMES if name not in signals.TIERS]
EVERY = ("error", *NAMES)
CPU = torch.device("cpu")
CLASSES = {"water": ["O", "H", "H"], "hydroxyl": ["O", "H"]}
SHAPES = {
    "water": Atoms("OH2", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]),
    "hydroxyl": Atoms("OH", positions=[[0, 0, 0], [0.98, 0, 0]]),
}


class Toy:
    """Made-up energies, forces and descriptors of molecules; systems do not feel each other."""

    def __init__(self, strength=1.0):
        self.strength = strength

    def __call__(self, state):
        r = state.positions.double()
        vectors = r[None] - r[:, None]
        other = state.system_idx[None] == state.system_idx[:, None]
        other = other & ~torch.eye(len(r), dtype=torch.bool, device=r.device)
        distance = vectors.square().sum(-1).add(1e-30).sqrt()
        decay = torch.exp(-distance)
        heavy = state.atomic_numbers.double()

        def summed(values):
            return torch.where(other, values, 0.0).sum(1)

        features = [summed(f) for f in (decay, decay**2, 1 / distance, decay * distance)]
        features += [features[0] * heavy, summed(decay * heavy), summed(decay**3)]
        push = vectors * (decay / distance)[..., None]
        push = torch.where(other[..., None], push, 0.0).sum(1)
        energy = self.strength * heavy * (features[0] - features[1])
        return {
            "node_energy": energy,
            "energy": torch.zeros(3, device=r.device),
            "forces": self.strength * push,
            "descriptors": torch.stack(features, dim=1),
        }


COMMITTEE = [Toy(0.9), Toy(1.2)]


def frames(number, seed, spread=0.05):
    random = np.random.default_rng(seed)
    found = []
    for i in range(number):
        name = ("water", "hydroxyl")[i % 3 == 2]
        atoms = SHAPES[name].copy()
        atoms.positions += random.normal(scale=spread, size=(len(atoms), 3))
        atoms.info = {"structure": name}
        # A reference that the model misses by more the further an atom is from its place.
        moved = atoms.positions - SHAPES[name].positions
        atoms.arrays["forces"] = Toy()(state_of([atoms]))["forces"].numpy() + 2.5 * moved
        found.append(atoms)
    return found


def state_of(atoms, dtype=torch.float64, device=CPU):
    return State.of(atoms, device=device, dtype=dtype)


def sample(drawn):
    outputs = [Toy()(state_of([atoms])) for atoms in drawn]
    names = ("node_energy", "descriptors", "forces")
    return Sample(drawn, *([output[name].numpy() for output in outputs] for name in names))


TRAIN, HELD_OUT, CHECK = (sample(frames(n, seed)) for n, seed in ((90, 1), (150, 2), (300, 3)))
TEACHER = sample(frames(200, 4, spread=0.15))


def fit(**changed):
    settings = {"signals": list(NAMES), "committee": ["a"], "alpha": 1e-3}
    lengths = {
        name: np.mean(
            [f.get_all_distances() for f in TRAIN.frames if f.info["structure"] == name], 0
        )
        for name in CLASSES
    }
    bonded = {"water": [(0, 1), (0, 2)], "hydroxyl": [(0, 1)]}
    arguments = {
        "classes": CLASSES,
        "bonds": {k: [(i, j, lengths[k][i, j]) for i, j in pairs] for k, pairs in bonded.items()},
        "settings": DomainSettings(**(settings | changed.pop("settings", {}))),
        "seed": 0,
        "committee": COMMITTEE,
    }
    samples = {"train": TRAIN, "teacher": TEACHER, "held_out": HELD_OUT, "check": CHECK}
    samples |= {"earlier": (), "free": {}}
    samples |= {name: changed.pop(name) for name in samples if name in changed}
    return calibration.fit_domain(Samples(**samples), **(arguments | changed))


DOMAINS = {kind: fit(settings={"classes": kind}) for kind in ("element", "environment")}


@pytest.fixture(params=list(DOMAINS))
def domain(request) -> Domain:
    return DOMAINS[request.param]


def make(domain, name):
    made = signals.make_signals(domain, [name], COMMITTEE)
    return next(signal for signal in made.values() if signal.name == name)


def scores(signal, batch, output=None, state=None):
    state = state or state_of(batch)
    return signal.for_batch(batch, CPU)(state, output or Toy()(state))


# Conformance: any signal, for any classes.


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_scores_atoms_and_says_what_it_costs(domain, name):
    signal = make(domain, name)
    batch = frames(7, seed=9, spread=0.2)
    found = scores(signal, batch)
    assert found.dtype == torch.float64
    assert found.shape == (sum(len(atoms) for atoms in batch),)
    assert torch.isfinite(found).all()
    assert (found >= 0).all()
    assert signal.forward_passes == (2 if name == "committee" else 0)
    assert f"{signal.forward_passes or 'no'} more forward pass" in signal.describe()
    assert signal.describe().startswith(name)


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_has_the_training_frames_inside_and_distortions_outside(domain, name):
    signal = make(domain, name)
    if name != "error":  # which promises nothing about training frames
        assert float(scores(signal, TRAIN.frames).max()) == 0
    # The guards hold the teacher's distorted frames, too: squeeze or pull hard.
    found = []
    for factor in (0.4, 3.0):
        far = [SHAPES[structure].copy() for structure in CLASSES]
        for atoms, structure in zip(far, CLASSES, strict=True):
            atoms.info = {"structure": structure}
            atoms.positions *= factor
        found.append(float(scores(signal, far).max()))
    assert max(found) > 0


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_takes_replicas_in_any_order_and_number(domain, name):
    signal = make(domain, name)
    batch = frames(8, seed=9, spread=0.2)
    sizes = [len(atoms) for atoms in batch]
    alone = [scores(signal, [atoms]) for atoms in batch]
    together = scores(signal, batch).split(sizes)
    order = np.random.default_rng(1).permutation(8)
    permuted = scores(signal, [batch[i] for i in order]).split([sizes[i] for i in order])
    for place, i in enumerate(order):
        torch.testing.assert_close(permuted[place], together[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(alone[i], together[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_is_infinite_for_the_replica_that_is_not_finite_and_no_other(domain, name):
    signal = make(domain, name)
    batch = frames(3, seed=9)
    sound = scores(signal, batch)
    state = state_of(batch)
    output = Toy()(state)
    broken = slice(3, 6)
    state.positions[broken] = torch.nan
    for key in ("node_energy", "forces", "descriptors"):
        output[key][broken] = torch.nan
    found = scores(signal, batch, output, state)
    assert torch.isinf(found[broken]).all()
    others = torch.tensor([0, 1, 2, 6, 7])
    torch.testing.assert_close(found[others], sound[others])


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_takes_single_precision(domain, name):
    signal = make(domain, name)
    batch = frames(5, seed=9, spread=0.2)
    state = state_of(batch, torch.float32)
    output = {key: value.float() for key, value in Toy()(state).items()}
    found = scores(signal, batch, output, state)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, scores(signal, batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_every_signal_stays_on_the_device_and_does_not_wait_for_it(domain, name):
    # The meta device has no numbers: a transfer, or a look at a value, raises.
    meta = torch.device("meta")
    batch = frames(4, seed=9)
    state = state_of(batch, device=meta)
    found = make(domain, name).for_batch(batch, meta)(state, Toy()(state))
    assert found.device == meta
    assert found.shape == (11,)


# Calibration.


@pytest.mark.parametrize("name", THRESHOLDED)
def test_thresholds_keep_their_promise_on_frames_they_never_saw(domain, name):
    found = domain.signals[name]
    assert found.threshold.low <= found.threshold.value <= found.threshold.high
    assert found.threshold.alpha < 0.1
    assert found.exceedance.low <= max(found.threshold.alpha, 1e-3) * 5
    fresh = frames(300, seed=12)
    outside = float((scores(make(domain, name), fresh) > 0).double().mean())
    assert outside < 0.05


def test_calibration_survives_the_file(domain, tmp_path):
    domain.write(tmp_path / "domain.json")
    again = Domain.read(tmp_path / "domain.json")
    assert again.signals.keys() == set(THRESHOLDED)
    batch = frames(5, seed=9, spread=0.2)
    for name in EVERY:
        assert torch.equal(scores(make(again, name), batch), scores(make(domain, name), batch))


def test_a_signal_that_was_not_calibrated_is_refused():
    bare = dataclasses.replace(fit(settings={"signals": []}), signals={})
    with pytest.raises(InputError, match=r"signal latent: .* Delete"):
        signals.make_signals(bare, ["latent"])
    with pytest.raises(InputError, match=r"domain\.committee"):
        signals.make_signals(DOMAINS["element"], ["committee"])


def test_what_decides_comes_first_and_signals_are_named_as_in_the_traces():
    made = signals.make_signals(DOMAINS["element"], ["bond_stretch", "guard"], COMMITTEE)
    assert list(made) == ["error", "label", "guard", "latent", "bond_stretch"]


def test_a_domain_of_an_early_release_is_refused_with_the_way_out():
    early = dataclasses.replace(DOMAINS["element"], expected=None)
    with pytest.raises(InputError, match=r"no expected force errors.*Delete domain\.json"):
        signals.make_signals(early, [])


# Which frames calibrate, and which say what errors to expect.


def with_roles(part, roles):
    part = dataclasses.replace(part, frames=[atoms.copy() for atoms in part.frames])
    for atoms, role in zip(part.frames, roles, strict=True):
        if role:
            atoms.info["role"] = role
    return part


def test_selected_frames_do_not_calibrate_but_say_what_errors_to_expect():
    plain = fit(held_out=HELD_OUT.take(range(100)))
    roles = [None] * 50 + ["audit"] * 50 + ["selected"] * 25 + ["diverse"] * 25
    mixed = fit(held_out=with_roles(HELD_OUT, roles))
    assert mixed.margin == plain.margin
    assert mixed.signals == plain.signals
    assert (mixed.report.held_out_frames, mixed.report.selected_left_out) == (100, 50)
    assert (plain.expected.frames, mixed.expected.frames) == (100, 150)


def test_where_too_few_others_are_there_selected_frames_calibrate_and_the_domain_says_so():
    few = samples.FEWEST_CALIBRATING - 1
    roles = [None] * few + ["selected"] * (150 - few)
    mixed = fit(held_out=with_roles(HELD_OUT, roles))
    assert mixed.margin == DOMAINS["element"].margin
    assert mixed.report.selected_used == 150 - few
    assert any("146 of the 150 held-out frames that calibrate" in line for line in mixed.lines())


def earlier(number, *, error, generation):
    """Frames that an earlier model visited, all of whose errors are the same."""
    found = frames(number, seed=31)
    for i, atoms in enumerate(found):
        atoms.info |= {"generation": generation, "key": f"{generation} {i}"}
        atoms.arrays["model_forces"] = atoms.arrays["forces"] + [0.0, 0.0, error]
        atoms.arrays["distance_latent"] = np.full(len(atoms), 9.0, dtype=np.float32)
    return found


def test_frames_of_earlier_generations_say_what_errors_to_expect():
    more = [*earlier(20, error=4.0, generation=1), *earlier(20, error=1.0, generation=3)]
    found = fit(earlier=more, settings={"signals": []}).expected
    assert found.signals == ["latent"]
    assert (found.frames, found.pairs) == (190, 400 + 54 + 54)
    # At a distance of 9 by hand: the older ones count a quarter of the newer ones.
    for curve in found.curves["latent"].values():
        expected = np.interp(9.0, curve.distance, curve.error)
        assert expected == pytest.approx((0.25 * 4 + 1) / 1.25)


def test_all_that_a_domain_says_of_frames(domain):
    values = scores_of(CHECK, domain, COMMITTEE)
    assert len(values) == 300
    names = {f"distance_{name}" for name in NAMES} | {"expected_error"}
    for atoms, of_frame in zip(CHECK.frames, values, strict=True):
        assert of_frame.keys() == names <= PER_ATOM.keys()
        assert all(array.shape == (len(atoms),) for array in of_frame.values())
    score = signals.ExpectedError(domain).for_batch(CHECK.frames, CPU)
    state = state_of(CHECK.frames)
    tolerance = domain.expected.tolerance_eV_per_A
    beyond = np.concatenate([v["expected_error"] for v in values]) / tolerance - 1
    np.testing.assert_allclose(score(state, Toy()(state)), np.maximum(beyond, 0), atol=1e-9)
    assert "distance_committee" not in scores_of(CHECK, domain)[0]
    early = dataclasses.replace(domain, expected=None)
    assert "expected_error" not in scores_of(CHECK, early)[0]


# Known answers.

BATCH = frames(6, seed=21, spread=0.2)


def expected(per_frame):
    return np.concatenate([per_frame(i, atoms) for i, atoms in enumerate(BATCH)])


@pytest.mark.parametrize(("name", "tier"), [("node_energy", "label"), ("guard", "guard")])
def test_node_energy_is_the_distance_outside_the_interval_in_widths(domain, name, tier):
    said = sample(BATCH)

    def by_hand(i, atoms):
        names = atoms.get_chemical_symbols()
        if domain.environments:
            names = environment_classes(domain.environments, names, said.descriptors[i])
        bounds = [getattr(domain, tier)[name] for name in names]
        return [
            max(0.0, low - e, e - high) / (high - low)
            for e, (low, high) in zip(said.node_energy[i], bounds, strict=True)
        ]

    found = scores(make(domain, name), BATCH).numpy()
    assert name == "guard" or found.max() > 0
    np.testing.assert_allclose(found, expected(by_hand), rtol=1e-12)


def shrunk_by_hand(values):
    """Ledoit and Wolf's estimate, in the words of their paper."""
    mean, scale = values.mean(0), values.std(0)
    x = (values - mean) / scale
    n, p = x.shape
    plain = np.cov(x.T, bias=True)
    m = np.trace(plain) / p
    d2 = np.linalg.norm(plain - m * np.eye(p)) ** 2 / p
    b2 = sum(np.linalg.norm(np.outer(row, row) - plain) ** 2 / p for row in x) / n**2
    b2 = min(b2, d2)
    return mean, np.diag(scale) @ (b2 / d2 * m * np.eye(p) + (1 - b2 / d2) * plain) @ np.diag(scale)


def mahalanobis(values, mean, covariance):
    return np.sqrt([(x - mean) @ np.linalg.solve(covariance, x - mean) for x in values])


def of_element(drawn, symbol):
    return np.concatenate(
        [
            descriptors[[s == symbol for s in atoms.get_chemical_symbols()]]
            for atoms, descriptors in drawn.described()
        ]
    )


def test_latent_is_the_mahalanobis_distance_over_its_radius():
    domain = DOMAINS["element"]
    known = {s: shrunk_by_hand(of_element(TRAIN, s)) for s in "OH"}
    distances = {s: mahalanobis(of_element(TRAIN, s), *known[s]) for s in "OH"}
    radius = domain.signals["latent"].threshold.value
    assert radius >= max(d.max() for d in distances.values()) * (1 - 1e-9)
    said = sample(BATCH)

    def by_hand(i, atoms):
        return [
            max(0.0, mahalanobis([x], *known[s])[0] / radius - 1)
            for s, x in zip(atoms.get_chemical_symbols(), said.descriptors[i], strict=True)
        ]

    found = scores(make(domain, "latent"), BATCH).numpy()
    assert found.max() > 0
    np.testing.assert_allclose(found, expected(by_hand), rtol=1e-6, atol=1e-9)


def test_a_model_of_single_precision_has_the_distances_of_its_descriptors():
    domain = DOMAINS["element"]
    known = {s: shrunk_by_hand(of_element(TRAIN, s)) for s in "OH"}
    radius = domain.signals["latent"].threshold.value
    single = Toy()(state_of(BATCH))["descriptors"].float()
    found = make(domain, "latent").distance(BATCH, CPU)(None, {"descriptors": single})
    symbols = [s for atoms in BATCH for s in atoms.get_chemical_symbols()]
    by_hand = [
        mahalanobis([x], *known[s])[0] / radius
        for s, x in zip(symbols, single.double().numpy(), strict=True)
    ]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_hand, rtol=1e-5)


def test_a_class_of_few_values_does_not_widen_the_radius_of_others():
    # Three molecules have the only hydroxyls: their class has three values for seven descriptors.
    classes = {"water": ["O", "H", "H"], "hydroxyl": ["O'", "H'"]}
    numbers = {
        name: [i for i, f in enumerate(TRAIN.frames) if f.info["structure"] == name]
        for name in CLASSES
    }
    few = TRAIN.take([*numbers["water"], *numbers["hydroxyl"][:3]])
    mixed = fit(train=few, classes=classes).signals["latent"].data.sets[0]
    water = [i for i, f in enumerate(HELD_OUT.frames) if f.info["structure"] == "water"]
    alone = (
        fit(
            train=TRAIN.take(numbers["water"]),
            held_out=HELD_OUT.take(water),
            check=CHECK.take([]),
            classes={"water": classes["water"]},
            settings={"signals": []},
            teacher=TEACHER.take([]),
        )
        .signals["latent"]
        .data.sets[0]
    )
    assert mixed.radius.value == pytest.approx(alone.radius.value)
    domain = fit(train=few, classes=classes)
    held_out = [atoms for atoms in HELD_OUT.frames if atoms.info["structure"] == "hydroxyl"]
    assert float(scores(make(domain, "latent"), held_out).max()) < 1e-9  # wide enough for them


FREE = {"O": np.zeros(7), "H": np.zeros(7)}  # Toy's descriptors are sums over other atoms


def apart(number, seed):
    """Hydroxyls whose hydrogen has left, so far that even 1/r of Toy's descriptors is 0."""
    drawn = [f for f in frames(3 * number, seed) if f.info["structure"] == "hydroxyl"]
    for atoms in drawn:
        atoms.positions[1] += [1e9, 0.0, 0.0]
    return drawn


def test_an_atom_that_has_left_all_others_is_inside_where_free_atoms_are_known():
    far = apart(5, seed=9)
    known = fit(free=FREE)
    assert float(scores(make(known, "latent"), far).max()) < 1e-9
    hydrogens = scores(make(DOMAINS["element"], "latent"), far)[1::2]
    assert float(hydrogens.min()) > 1, "O of water and hydroxyl are so unlike that all is near"
    # Between the two it is outside of both, and the more so the further from either.
    one = apart(1, seed=9)
    strength = []
    for length in (1.5, 2.0, 3.0, 8.0, 12.0):
        one[0].positions[1] = one[0].positions[0] + [length, 0.0, 0.0]
        strength.append(float(scores(make(known, "latent"), one)[1]))
    assert strength[0] < strength[1]
    assert strength[1] > strength[3] >= strength[4]
    near = [frames(1, seed=12)[0]]
    plain = scores(make(DOMAINS["element"], "latent"), near)
    np.testing.assert_allclose(scores(make(known, "latent"), near), plain)


def test_free_atoms_do_not_widen_the_distributions_of_their_class(tmp_path):
    with_some = sample([*TRAIN.frames, *apart(20, seed=10)])
    plain, known = fit(), fit(train=with_some, free=FREE)
    of = [domain.signals["latent"].data.sets[0].normals["H"] for domain in (plain, known)]
    assert [len(normals) for normals in of] == [1, 2]
    np.testing.assert_array_equal(of[1][0].whiten.unpacked(), of[0][0].whiten.unpacked())
    np.testing.assert_array_equal(of[1][0].mean.unpacked(), of[0][0].mean.unpacked())
    np.testing.assert_array_equal(of[1][1].mean.unpacked(), FREE["H"])
    np.testing.assert_allclose(of[1][1].whiten.unpacked(), 4 * of[1][0].whiten.unpacked())
    unknown = fit(train=with_some).signals["latent"].data.sets[0].normals["H"]
    assert (unknown[0].whiten.unpacked() != of[0][0].whiten.unpacked()).any()
    known.write(tmp_path / "domain.json")
    assert Domain.read(tmp_path / "domain.json") == known


def test_a_class_that_was_only_seen_as_free_atoms_has_a_distribution():
    alone = apart(20, seed=11)
    classes = {"hydroxyl": ["O", "lone"]}
    domain = fit(
        train=sample(alone),
        held_out=sample(alone),
        check=sample(alone),
        teacher=sample([]),
        classes=classes,
        bonds={"hydroxyl": []},
        settings={"signals": [], "committee": []},
        free=FREE,
    )
    assert float(scores(make(domain, "latent"), alone).max()) < 1e-9


def test_latent_guard_is_outside_of_both_the_labels_and_the_teacher():
    domain = DOMAINS["element"]
    data = domain.signals["latent_guard"].data.sets
    assert len(data) == 2
    fitted = Sample(*([v for i, v in enumerate(vs) if i % 5] for vs in vars(TEACHER).values()))
    parts = []
    for drawn, some in ((TRAIN, data[0]), (fitted, data[1])):
        known = {s: shrunk_by_hand(of_element(drawn, s)) for s in "OH"}
        parts.append((known, some.radius.value))
    far = [atoms.copy() for atoms in BATCH]
    for atoms in far:
        atoms.positions *= 0.5
    said = sample(far)
    by_hand = [
        max(0.0, min(mahalanobis([x], *known[s])[0] / radius for known, radius in parts) - 1)
        for atoms, descriptors in said.described()
        for s, x in zip(atoms.get_chemical_symbols(), descriptors, strict=True)
    ]
    found = scores(make(domain, "latent_guard"), far).numpy()
    assert found.max() > 0
    np.testing.assert_allclose(found, by_hand, rtol=1e-6, atol=1e-9)
    assert (found <= scores(make(domain, "latent"), far).numpy() + 1e-12).all()


def test_without_a_teacher_both_latent_signals_are_the_same():
    none = Sample([], [], [], [])
    domain = fit(teacher=none, settings={"signals": ["latent", "latent_guard"], "committee": []})
    found = [scores(make(domain, name), BATCH) for name in ("latent", "latent_guard")]
    assert torch.equal(*found)
    assert domain.guard == domain.label


def test_committee_is_the_standard_deviation_of_forces_over_all_models():
    domain = DOMAINS["element"]
    threshold = domain.signals["committee"].threshold.value

    def by_hand(_, atoms):
        forces = np.array([toy(state_of([atoms]))["forces"].numpy() for toy in (Toy(), *COMMITTEE)])
        spread = np.sqrt(forces.var(axis=0).sum(axis=1))
        return np.maximum(0, spread / threshold - 1)

    found = scores(make(domain, "committee"), BATCH).numpy()
    np.testing.assert_allclose(found, expected(by_hand), rtol=1e-9, atol=1e-12)


def test_potential_energy_is_a_z_score_of_the_structure_for_all_its_atoms():
    domain = DOMAINS["element"]
    threshold = domain.signals["potential_energy"].threshold.value
    assert domain.signals["potential_energy"].threshold.n == len(HELD_OUT.frames)
    said = sample(BATCH)

    def by_hand(i, atoms):
        name = atoms.info["structure"]
        seen = [
            e.sum()
            for e, f in zip(TRAIN.node_energy, TRAIN.frames, strict=True)
            if f.info["structure"] == name
        ]
        z = abs(said.node_energy[i].sum() - np.mean(seen)) / np.std(seen)
        return np.full(len(atoms), max(0, z / threshold - 1))

    found = scores(make(domain, "potential_energy"), BATCH).numpy()
    assert found.max() > 0
    np.testing.assert_allclose(found, expected(by_hand), rtol=1e-9, atol=1e-12)


def test_bond_stretch_is_the_deviation_of_the_worst_bond_of_each_atom():
    domain = DOMAINS["element"]
    threshold = domain.signals["bond_stretch"].threshold.value

    def by_hand(_, atoms):
        worst = np.zeros(len(atoms))
        for i, j, length in domain.bonds[atoms.info["structure"]]:
            off = abs(atoms.get_distance(i, j) - length)
            worst[[i, j]] = np.maximum(worst[[i, j]], off)
        return np.maximum(0, worst / threshold - 1)

    found = scores(make(domain, "bond_stretch"), BATCH).numpy()
    assert found.max() > 0
    np.testing.assert_allclose(found, expected(by_hand), rtol=1e-9, atol=1e-12)


def test_bond_stretch_follows_bonds_across_boundaries_and_leaves_free_atoms_alone():
    calibration = DOMAINS["element"].signals["bond_stretch"]
    atoms = Atoms("H2He", positions=[[0.1, 0, 0], [5.3, 0, 0], [3, 3, 3]], cell=[6] * 3, pbc=True)
    atoms.info = {"structure": "h2"}
    signal = signals.BondStretch(calibration, {"h2": [(0, 1, 0.8)]})
    state = SimpleNamespace(positions=torch.tensor(atoms.positions))
    assert signal.for_batch([atoms], CPU)(state, {}).tolist() == [0, 0, 0]
    state.positions[1, 0] = 4.0
    found = signal.for_batch([atoms], CPU)(state, {})
    assert found[0] == found[1] == pytest.approx(1.3 / calibration.threshold.value - 1)
    assert found[2] == 0


@pytest.mark.parametrize(("number", "size"), [(1, 5), (3, 5), (40, 5)])
def test_few_values_give_a_distribution_that_can_be_used(number, size):
    values = np.random.default_rng(0).normal(size=(number, size)) * [1, 2, 3, 4, 0]
    mean, whiten = calibration.fit_normal(values)
    assert np.isfinite(whiten).all()
    assert np.linalg.matrix_rank(whiten) == size
    np.testing.assert_allclose(mean, values.mean(0))
