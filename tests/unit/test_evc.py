"""Eigenvector continuation: exact where it was trained, variational everywhere, true forces."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import molecule
from ase.units import Bohr, Hartree

from halcyon.commands.main import main
from halcyon.config import EvcReference
from halcyon.errors import InputError
from halcyon.labels.reference import Status, make_reference
from halcyon.labels.reference.evc import full_ci, growth, states_file
from halcyon.labels.reference.evc.body_frame import BodyFrame
from halcyon.labels.reference.evc.continuation import Continuation
from halcyon.labels.reference.evc.integrals import molecule_of

SINGLET = {"charge": 0, "multiplicity": 1}


def state_of(atoms, **info):
    atoms = atoms.copy()
    atoms.info = SINGLET | info
    return atoms


WATER = state_of(molecule("H2O"))


def moved(atoms, seed, width=0.08):
    """A distorted copy, turned and shifted."""
    other = state_of(atoms, **atoms.info)
    random = np.random.default_rng(seed)
    other.positions += random.normal(0, width, other.positions.shape)
    other.rotate(360 * random.random(), random.normal(size=3))
    other.translate(random.normal(size=3))
    return other


def chain(*distances, **info):
    """Hydrogen atoms on a line, by the distances between them, Å."""
    places = np.cumsum([0.0, *distances])
    return state_of(Atoms(f"H{len(places)}", [[0, 0, z] for z in places]), **info)


def trained(frames, basis="sto-3g"):
    continuation = Continuation.begin(frames[0], basis)
    for frame in frames:
        continuation = continuation.with_states(frame, continuation.exact(frame))
    return continuation


@pytest.fixture(scope="module")
def water():
    """Five training geometries."""
    frames = [WATER, *(moved(WATER, seed) for seed in range(4))]
    return frames, trained(frames)


CASES = {
    "water": [WATER, *(moved(WATER, seed) for seed in range(2))],
    "chain": [chain(0.9, 1.0, 1.1), chain(1.2, 0.8, 1.2), chain(1.5, 1.5, 1.5)],
    "radical": [
        state_of(Atoms("OH", [[0, 0, 0], [0, 0, d]]), multiplicity=2) for d in (0.9, 1.0, 1.2)
    ],
    "triplet": [
        state_of(Atoms("CH2", [[0, 0, 0], [x, 0, 0.5], [-x, 0, 0.55]]), multiplicity=3)
        for x in (0.9, 1.0, 1.05)
    ],
    "cation": [
        state_of(Atoms("H3", [[0, 0, 0], [d, 0, 0], [0.4, d, 0]]), charge=1) for d in (0.8, 1.0)
    ],
}


def test_the_exact_energy_is_that_of_the_literature():
    # H2 at 1.4 Bohr, STO-3G, full configuration interaction: A. Szabo and N. S. Ostlund, Modern
    # Quantum Chemistry (1989), section 4.1: -1.1167 - 0.0206 Ha.
    frame = chain(1.4 * Bohr)
    [state] = Continuation.begin(frame, "sto-3g").exact(frame)
    assert state.energy == pytest.approx(-1.1373, abs=1e-4)


@pytest.mark.parametrize("frames", CASES.values(), ids=CASES)
def test_exact_at_every_training_geometry(frames):
    continuation = trained(frames)
    for frame, energy in zip(frames, continuation.energies, strict=True):
        [exact] = continuation.exact(frame)
        [result] = continuation.results(frame)
        assert result.energy / Hartree == pytest.approx(energy, abs=1e-8)
        assert exact.energy == pytest.approx(energy, abs=1e-8)
        expected = continuation.forces_of(frame, exact)
        np.testing.assert_allclose(result.forces, expected, rtol=0, atol=1e-4)


def test_never_below_the_exact_energy_and_lower_with_each_state(water):
    frames, _ = water
    for seed in range(50, 54):
        frame = moved(WATER, seed, width=0.15)
        few, more = (trained(frames[:n]).energy(frame) for n in (2, 4))
        [exact] = trained(frames[:1]).exact(frame)
        assert few >= more - 1e-9 >= exact.energy * Hartree - 2e-9


@pytest.mark.parametrize("frames", CASES.values(), ids=CASES)
def test_forces_are_the_slope_of_the_energy(frames):
    continuation, step = trained(frames), 1e-4
    frame = state_of(frames[0], **frames[0].info)
    linear = len(frame) == 2 or not np.abs(frame.positions[:, :2]).any()
    random = np.random.default_rng(3)
    frame.positions[:, 2] += random.normal(0, 0.05, len(frame))
    if not linear:
        frame = moved(frame, 3, width=0.03)
    [result] = continuation.results(frame)
    for index, axis in [(0, 2), (1, 2)] + ([] if linear else [(0, 0), (2, 1)]):
        energies = []
        for sign in (1, -1):
            other = state_of(frame, **frame.info)
            other.positions[index, axis] += sign * step
            energies.append(continuation.energy(other))
        slope = (energies[0] - energies[1]) / (2 * step)
        assert result.forces[index, axis] == pytest.approx(-slope, abs=1e-5)


def test_turning_and_shifting_a_molecule_changes_nothing(water):
    _, continuation = water
    frame = moved(WATER, 77)
    [before] = continuation.results(frame)
    np.testing.assert_allclose(before.forces.sum(0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cross(frame.positions, before.forces).sum(0), 0, atol=1e-10)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    turned = state_of(frame)
    turned.positions = frame.positions @ rotation + [1.0, -2.0, 3.0]
    [after] = continuation.results(turned)
    assert after.energy == pytest.approx(before.energy, abs=1e-9)
    np.testing.assert_allclose(after.forces, before.forces @ rotation, atol=1e-8)


def test_several_states_of_a_geometry():
    frames = [chain(0.9, 1.0, 1.1), chain(1.2, 0.8, 1.2)]
    continuation = Continuation.begin(frames[0], "sto-3g")
    for frame in frames:
        continuation = continuation.with_states(frame, continuation.exact(frame, 3))
    expected = [state.energy for state in continuation.exact(frames[1], 3)]
    assert expected[0] < expected[1] < expected[2]
    results = continuation.results(frames[1], 3)
    assert [result.energy / Hartree for result in results] == pytest.approx(expected, abs=1e-7)


def test_a_state_that_changes_its_character_along_a_scan():
    """Four hydrogen atoms from one rectangle to the other: the pairs that are bonded change."""

    def rectangle(x):
        return state_of(Atoms("H4", [[0, 0, 0], [x, 0, 0], [0, 2.4 - x, 0], [x, 2.4 - x, 0]]))

    continuation = trained([rectangle(0.9), rectangle(1.5)])
    scan = np.linspace(0.9, 1.5, 25)
    energies = np.array([continuation.energy(rectangle(x)) for x in scan])
    exact = np.array([continuation.exact(rectangle(x))[0].energy * Hartree for x in scan])
    assert (energies >= exact - 1e-8).all()
    np.testing.assert_allclose(energies, energies[::-1], atol=1e-6)  # the same from both ends
    # No jump: it is the lower of two states everywhere, and bends as the exact one does at most
    # several times as sharply.
    assert np.abs(np.diff(energies, 2)).max() < 5 * np.abs(np.diff(exact, 2)).max()


def test_growing_stops_when_new_frames_are_within_the_tolerance():
    frames = [WATER, *(moved(WATER, seed, width=0.05) for seed in range(60))]
    lines = []
    grown = growth.grow(
        frames, "sto-3g", growth.Effort(tolerance_meV=2.0), seed=4, say=lines.append
    )
    assert grown.converged
    assert max(grown.errors_meV) <= 2.0
    assert grown.exact_calculations == 1 + 5 * len(lines)
    assert grown.history[-1]["training_states"] == len(grown.continuation.energies)
    errors = []
    for seed in range(200, 210):
        frame = moved(WATER, seed, width=0.05)
        [exact] = grown.continuation.exact(frame)
        errors.append(growth.error_meV(grown.continuation, growth.Known(frame, exact)))
    assert 0 <= min(errors) <= max(errors) < 6.0  # frames that nothing was chosen by
    again = growth.grow(frames, "sto-3g", growth.Effort(tolerance_meV=2.0), seed=4)
    np.testing.assert_array_equal(again.continuation.geometries, grown.continuation.geometries)


def test_what_cannot_grow():
    frames = [WATER, *(moved(WATER, seed) for seed in range(6))]
    few = growth.grow(frames, "sto-3g", growth.Effort(tolerance_meV=1e-6, most_states=2), seed=1)
    assert not few.converged
    with pytest.raises(InputError, match="7 frames, and all were used"):
        growth.grow(frames, "sto-3g", growth.Effort(tolerance_meV=1e-6), seed=1)
    with pytest.raises(InputError, match=r"make 441 determinants .*max_determinants is 440"):
        growth.grow(frames, "sto-3g", growth.Effort(max_determinants=440), seed=1)


def test_dependent_training_states_are_refused(water):
    frames, continuation = water
    same = moved(WATER, 0)  # one of them, turned elsewhere
    with pytest.raises(InputError, match="training state 6 depends linearly on the others"):
        continuation.with_states(same, continuation.exact(frames[1]))


@pytest.mark.parametrize(
    ("frame", "basis", "expected"),
    [
        (WATER, "sto-33g", "reference.basis = sto-33g: PySCF has it not for all of H, O"),
        (state_of(molecule("CO2")), "sto-3g", "the first geometry's atoms are on a line"),
    ],
)
def test_what_cannot_begin(frame, basis, expected):
    with pytest.raises(InputError, match=expected):
        Continuation.begin(frame, basis)


def test_atoms_on_top_of_each_other():
    continuation = trained([chain(0.7), chain(0.9)])
    with pytest.raises(InputError, match="the overlap of the atomic orbitals is singular"):
        continuation.energy(chain(1e-4))


def test_a_state_that_does_not_converge(monkeypatch):
    monkeypatch.setattr(full_ci, "STEPS", 1)
    frame = state_of(molecule("NO"), multiplicity=2)
    with pytest.raises(InputError, match="did not converge in 1 steps"):
        Continuation.begin(frame, "sto-3g").exact(frame)


def test_a_state_of_another_spin(monkeypatch):
    # The lowest state with as many α as β electrons is the triplet of CH2.
    monkeypatch.setattr(full_ci, "SPIN_PENALTY_Ha", 0.0)
    frame = state_of(molecule("CH2_s3B1d"))
    with pytest.raises(InputError, match=r"⟨S²⟩ = 2.0000, expected 0.00 of multiplicity 1"):
        Continuation.begin(frame, "sto-3g").exact(frame)


def test_the_orientation_of_atoms_on_a_line_is_not_defined():
    bent = np.array([[0.0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]])
    frame = BodyFrame(bent, weights=np.array([8.0, 1, 1]))
    assert frame.defined(bent)
    assert not frame.defined(np.array([[0.0, 0, 0], [0, 0.9, 0], [0, -0.9, 0]]))
    mirrored = frame.placed(bent * [1, 1, -1])
    assert np.linalg.det(mirrored.rotation) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def states(tmp_path_factory, water):
    path = tmp_path_factory.mktemp("states") / "water.npz"
    _, continuation = water
    states_file.write(path, growth.Grown(continuation, True, 6, [0.5], 3.0))
    return path


def reference(states, **changes):
    return make_reference(
        EvcReference(**{"backend": "evc", "basis": "sto-3g", "states": states} | changes)
    )


def test_the_backend_labels_what_it_can(states, tmp_path, water):
    _, continuation = water
    frames = [moved(WATER, 5), *(moved(WATER, 5) for _ in range(5))]
    frames[1].info["multiplicity"] = 3
    frames[2] = state_of(frames[2][[1, 0, 2]])
    frames[3].positions[1] = frames[3].positions[2] + 1e-5
    frames[4].pbc = True
    frames[5].positions[0] = np.nan
    backend = reference(states)
    backend.check([WATER])
    records = list(backend.label(frames, tmp_path, 1))
    messages = [
        "",
        "multiplicity = 3, and the training states have 1",
        "atoms HOH, and the training states are of OH2",
        "nearly on a line",
        "the frame is periodic",
        "not a finite number",
    ]
    assert [record.status for record in records] == [Status.OK] + [Status.REJECTED] * 5
    for record, message in zip(records, messages, strict=True):
        assert message in record.message
    [expected] = continuation.results(frames[0])
    assert records[0].energy == expected.energy
    np.testing.assert_array_equal(records[0].forces, expected.forces)


def test_a_frame_whose_calculation_fails_is_a_crashed_label(tmp_path):
    path = tmp_path / "chain.npz"
    states_file.write(path, growth.Grown(trained([chain(0.7)]), True, 6, [0.5], 3.0))
    [record] = reference(path).label([chain(1e-4)], tmp_path, 1)
    assert record.status is Status.CRASHED
    assert "overlap of the atomic orbitals is singular" in record.message


def test_the_level_is_that_of_the_training_states(states, tmp_path, water):
    frames, continuation = water
    level = reference(states).level
    assert level["training_states"] == 5
    copied = tmp_path / "copied.npz"
    states_file.write(copied, growth.Grown(continuation, True, 99, [0.1], 1.0))
    assert reference(copied).level == level  # the same states
    other = tmp_path / "other.npz"
    states_file.write(other, growth.Grown(trained(frames[:3]), True, 6, [0.5], 3.0))
    assert reference(other).level != level


def test_states_that_may_not_be_used(states, tmp_path, water):
    _, continuation = water
    with pytest.raises(InputError, match=r"of .*water.npz are of sto-3g"):
        reference(states, basis="6-31g").check([WATER])
    with pytest.raises(InputError, match=r"none.npz: expected a set of training states .*halcyon"):
        reference(tmp_path / "none.npz").check([WATER])
    broken = tmp_path / "broken.npz"
    broken.write_bytes(states.read_bytes()[:500])
    with pytest.raises(InputError, match=r"broken.npz: expected a set of training states"):
        reference(broken).check([WATER])
    unfinished = tmp_path / "unfinished.npz"
    states_file.write(unfinished, growth.Grown(continuation, False, 6, [12.0], 3.0))
    with pytest.raises(InputError, match=r"did not reach the tolerance .*off by 12 meV"):
        reference(unfinished).check([WATER])
    with pytest.raises(InputError, match="structure methane: atoms CH4, and the training states"):
        reference(states).check([state_of(molecule("CH4"), structure="methane")])


def test_the_command_makes_states_for_a_campaign(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("systems").mkdir()
    system = {"name": "h2", "structures": [{"name": "h2", "smiles": "[H][H]"}]}
    Path("systems/h2.yaml").write_text(yaml.safe_dump(system))
    content = {
        "campaign": "it",
        "systems": ["h2"],
        "systems_folder": "systems",
        "reference": {"backend": "evc", "basis": "6-31g", "states": "made/h2.npz"},
    }
    Path("it.yaml").write_text(yaml.safe_dump(content))
    assert main(["states", "--configfile", "it.yaml", "--tolerance", "1"]) == 0
    assert "training states from" in capsys.readouterr().out
    continuation, about = states_file.read(Path("made/h2.npz"))
    assert about["converged"]
    assert max(about["errors_meV"]) <= 1.0
    assert len(continuation.energies) == about["history"][-1]["training_states"]
    assert main(["states", "--configfile", "it.yaml"]) == 2
    assert "made/h2.npz: is there already" in capsys.readouterr().err
    assert main(["states", "--configfile", "it.yaml", "--replace", "--most-states", "1"]) == 2
    assert "new frames are still off" in capsys.readouterr().err
    content["reference"] = {"backend": "xtb"}
    Path("it.yaml").write_text(yaml.safe_dump(content))
    assert main(["states", "--configfile", "it.yaml"]) == 2
    assert "reference.backend = xtb: expected evc" in capsys.readouterr().err


def test_a_larger_basis_set_counts_its_determinants():
    # C(13, 5)², by hand: 1287².
    assert full_ci.determinants(int(molecule_of(WATER, "6-31g").nao), (5, 5)) == 1_656_369
