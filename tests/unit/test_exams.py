"""Observables of the exams against analytic answers, and the machinery around them."""

import itertools
import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_sim
import yaml
from ase import Atoms, units
from ase.build import bulk
from torch_sim.models.interface import ModelInterface

from conftest import ROOT
from halcyon.campaign.campaign import Campaign
from halcyon.config import DistanceVariable, MetadynamicsBias, NoBias, StructureSettings
from halcyon.exploration.dynamics import Replica
from halcyon.labels.reference.base import Record, Status

sys.path.append(str(ROOT / "benchmarks"))

import exam as command
from exams import computing, results
from exams import observables as measure
from exams.computing import Cell, grid
from exams.definitions import EXAMS
from exams.page import page
from exams.potentials import ReferencePotential
from exams.segments import HILLS, Criteria, Run, Segment, integrate


def test_vibrations_of_a_harmonic_oscillator_are_at_its_frequency():
    # An independent clock: a wave of 1500 1/cm has the period 1 / (c · 1500 1/cm) = 22.24 fs.
    period_fs = 1e15 / (2.99792458e10 * 1500.0)
    times = np.arange(0, 4000, 2.0)
    velocities = np.zeros((len(times), 2, 3))
    velocities[:, 0, 1] = np.cos(2 * np.pi * times / period_fs)
    edges = np.arange(0.0, 4001.0, 10.0)
    density = measure.vibrations(velocities, np.array([1.0, 16.0]), every_fs=2.0, edges=edges)
    assert density.sum() == pytest.approx(1.0, abs=1e-6)
    # A Hann window is four bins of 1/4 ps, 8.3 1/cm each, wide.
    near = (edges[:-1] > 1500 - 30) & (edges[1:] < 1500 + 30)
    assert density[near].sum() > 0.99
    assert abs(edges[density.argmax()] + 5 - 1500) < 10


def test_heavy_atoms_count_more_in_vibrations():
    times = np.arange(0, 2000, 2.0)
    velocities = np.zeros((len(times), 2, 3))
    for atom, per_cm in enumerate((1000.0, 3000.0)):
        velocities[:, atom, 0] = np.cos(2 * np.pi * times * per_cm * 2.99792458e-5)
    edges = np.array([0.0, 2000.0, 4000.0])
    density = measure.vibrations(velocities, np.array([3.0, 1.0]), every_fs=2.0, edges=edges)
    # Power is m v²: three to one.
    assert density == pytest.approx([0.75, 0.25], abs=0.01)


def test_radial_distribution_of_an_ideal_gas_is_one():
    random = np.random.default_rng(1)
    frames = [
        Atoms("O60H60", random.uniform(0, 12, (120, 3)), cell=[12] * 3, pbc=True) for _ in range(40)
    ]
    for pair, per_frame in (((8, 8), 60 * 59), ((8, 1), 60 * 60)):
        g = measure.radial(frames, pair, range_A=5.9, bins=6)
        # Each shell has so many pairs (twice counted where alike) that its error is 1/√n of them.
        shells = 4 / 3 * np.pi * np.diff(np.linspace(0, 5.9, 7) ** 3) / 12**3
        pairs = 40 * per_frame * shells / (2 if pair[0] == pair[1] else 1)
        expected = 59 / 60 if pair[0] == pair[1] else 1.0  # no atom is its own neighbour
        assert np.abs(g - expected).max() < 5 / np.sqrt(pairs.min())
        assert np.all(np.abs(g - expected) < 5 / np.sqrt(pairs) + 0.01)


def test_radial_distribution_of_a_simple_cubic_lattice_peaks_at_its_neighbours():
    crystal = bulk("Po", "sc", a=3.0) * (5, 5, 5)
    g = measure.radial([crystal], (84, 84), range_A=6.0, bins=60)
    centres = np.arange(0.05, 6.0, 0.1)
    occupied = centres[g > 0]
    # 3 · 1, √2, √3 Å; the shell at 6 Å is the range's end.
    for distance in (3.0, 3 * math.sqrt(2), 3 * math.sqrt(3)):
        assert np.abs(occupied - distance).min() < 0.1
    assert g[(centres > 3.2) & (centres < 4.1)].max() == 0
    # Six neighbours: g ρ 4πr²Δr, summed over the bins at 3 Å.
    near = np.abs(centres - 3.0) < 0.15
    assert (g[near] * 4 * np.pi * centres[near] ** 2 * 0.1 / 27).sum() == pytest.approx(6, rel=0.05)


def test_diffusion_of_a_random_walk_is_the_given_one_within_its_interval():
    # D of 2.3e-9 m²/s is 0.23 Å²/ps: each component has the variance 2 D Δt per step.
    random, every_ps, given = np.random.default_rng(2), 0.5, 2.3
    cell = 12.4 * np.eye(3)
    parts = []
    for _ in range(8):
        steps = random.normal(scale=math.sqrt(2 * given / 10 * every_ps), size=(200, 64, 3))
        wrapped = np.cumsum(steps, axis=0) % 12.4
        parts.append(measure.mean_square_displacement(measure.unwrapped(wrapped, cell))[:7])

    def coefficient(chosen):
        return measure.diffusion(chosen.mean(axis=0), every_ps=every_ps, fit_ps=(1.0, 3.0))

    interval = measure.bootstrap(np.array(parts), coefficient)
    assert interval.low < given < interval.high
    assert interval.value == pytest.approx(given, rel=0.05)
    assert math.isnan(measure.diffusion(np.array([0.0, 1.0]), every_ps=0.5, fit_ps=(1.0, 3.0)))


def test_drift_is_the_slope_per_atom():
    energies = -100 + 0.006 * np.arange(0, 1, 0.002)  # 6 meV/ps
    assert measure.drift(energies, every_fs=2.0, atoms=3) == pytest.approx(2.0)


def test_torsion_is_that_of_ase_for_any_turn():
    chain = Atoms("H4", [[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]])
    for turn in (-170.0, -60.0, 10.0, 175.0):
        chain.set_dihedral(0, 1, 2, 3, turn)
        (angle,) = measure.torsions(chain.positions[None], (0, 1, 2, 3))
        assert angle == pytest.approx(turn)


def test_overlap_is_one_of_equals_and_none_of_strangers():
    assert measure.overlap(np.array([1, 3]), np.array([2, 6])) == pytest.approx(1)
    assert measure.overlap(np.array([1, 0]), np.array([0, 5])) == 0
    assert measure.overlap(np.array([1, 1]), np.array([1, 3])) == pytest.approx(0.75)


def test_intervals_cover_the_truth_as_often_as_they_say(monkeypatch):
    random = np.random.default_rng(4)
    monkeypatch.setattr(measure, "RESAMPLES", 200)
    held = 0
    for _ in range(200):
        interval = measure.difference(random.normal(1, 1, 16), random.normal(0, 1, 16), np.mean)
        held += interval.low <= 1 <= interval.high
    # Of 95 %, a little less with 16 parts; 3 standard deviations of 200 trials at 91 % are 6 %.
    assert 0.85 < held / 200 < 0.99
    assert math.isnan(measure.bootstrap(np.array([1.0]), np.mean).low)


def test_molecules_that_are_not_allowed_count_once_each_time_they_last():
    apart = Atoms("OHHH", [[0, 0, 0], [0.97, 0, 0], [0, 3, 0], [0, 3.74, 0]])
    close = apart.copy()
    close.positions[2:] -= [0, 2, 0]  # H3O
    counted = measure.kinds([apart, close, close, close, apart, close, apart])
    assert counted[0] == {"HO": 1, "H2": 1}
    assert counted[1] == {"H3O": 1}
    # The last was at one look only.
    assert measure.unphysical(counted, ["HO", "H2"]) == {"H3O": 1}
    assert measure.unphysical(counted, ["HO", "H2", "H3O"]) == {}


class DoubleWell(ModelInterface):
    """Two atoms at a distance r = 2 + x Å: E = h ((x/w)² - 1)² in x, two wells at ± w."""

    height, width = 0.15, 0.4

    def __init__(self):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, False

    def forward(self, state, **_):
        pairs = state.positions.reshape(-1, 2, 3)
        vector = pairs[:, 1] - pairs[:, 0]
        length = vector.norm(dim=1)
        x = (length - 2) / self.width
        pull = 4 * self.height * x * (x**2 - 1) / self.width
        force = pull[:, None] * vector / length[:, None]
        forces = torch.stack([force, -force], dim=1).reshape(-1, 3)
        return {"energy": self.height * (x**2 - 1) ** 2, "forces": forces}


WELL = MetadynamicsBias(
    kind="metadynamics",
    variables=[DistanceVariable(kind="distance", atoms=(0, 1), sigma_A=0.1)],
    height_eV=0.01,
    pace_fs=20.0,
    bias_factor=8.0,
)
UNWATCHED = Criteria(kind="reactive", bonds={}, bond_stretch_A=0.5, min_distance_A=0.3)


PAIR = StructureSettings(name="pair", smiles="[H][H]")


def pairs(number):
    start = Atoms("H2", [[0, 0, 0], [0, 0, 1.6]])
    start.info = {"charge": 0, "multiplicity": 1, "structure": "pair"}
    return [Replica(n, 600.0, start) for n in range(number)]


def run_of(**more):
    settings = {"replicas": 4, "batch": 4, "segments": 2, "segment_ps": 0.1, "every_fs": 5.0}
    return Run(
        name="r",
        who="model",
        structure="pair",
        temperature_K=600.0,
        **settings | {"ensemble": "nvt", "timestep_fs": 0.5} | more,
    )


def test_free_energy_of_a_double_well_is_the_analytic_one():
    run = run_of(replicas=16, batch=16, segments=4, segment_ps=2.0, timestep_fs=1.0)
    grid = np.linspace(1.2, 2.9, 86)
    ends, profiles = [], []
    for number in range(run.segments):
        parts = integrate(
            DoubleWell(),
            Segment(run, number),
            pairs(16),
            criteria=UNWATCHED,
            bias=WELL,
            before=ends,
        )
        ends = [part.end for part in parts]
        profiles.append(
            [measure.hills_on(grid, end["centers"][0], end["heights"], 0.1) for end in ends]
        )
    biases = np.mean(profiles[2:], axis=0)
    basins = (1.4, 1.8), (2.2, 2.6)

    def height(chosen):
        return measure.barrier(grid, measure.free_energy(chosen.mean(axis=0), 8.0), *basins)

    # Free energy of the distance of two free atoms: E - 2 kT ln r.
    kT = units.kB * 600.0
    x = (grid - 2) / DoubleWell.width
    analytic = DoubleWell.height * (x**2 - 1) ** 2 - 2 * kT * np.log(grid)
    truth = measure.barrier(grid, analytic, *basins)
    interval = measure.bootstrap(biases, height)
    assert interval.low - 0.01 < truth < interval.high + 0.01
    assert interval.high - interval.low < 0.06
    surface = measure.free_energy(biases.mean(axis=0), 8.0)
    inside = analytic - analytic.min() < 0.25
    apart = (surface - (analytic - analytic.min()))[inside]
    assert np.abs(apart - apart.mean()).max() < 0.04


def test_segments_go_on_from_json_as_the_same_trajectory():
    run = run_of()
    first = integrate(
        DoubleWell(), Segment(run, 0), pairs(4), criteria=UNWATCHED, bias=WELL, before=[]
    )
    ends = json.loads(json.dumps([part.end for part in first]))
    assert len(first[0].end[HILLS[1]]) == 5  # 100 fs, one every 20 fs
    together, alone = (
        integrate(
            DoubleWell(), Segment(run, 1), members, criteria=UNWATCHED, bias=WELL, before=before
        )
        for members, before in ((pairs(4), ends), (pairs(4)[2:3], ends[2:3]))
    )
    assert np.array_equal(together[2].positions, alone[0].positions)
    assert not np.array_equal(together[2].positions[-1], first[2].positions[-1])
    assert together[2].end == alone[0].end
    assert len(together[2].end[HILLS[1]]) == 10


def test_without_a_thermostat_frames_count_from_its_end_and_energy_is_conserved():
    run = run_of(ensemble="nve", segments=3, first_ps=0.15, later_ps=0.02)
    nothing = NoBias(kind="none")
    ends = []
    for number, analysed in ((0, 0), (1, 10), (2, 16)):
        parts = integrate(
            DoubleWell(),
            Segment(run, number),
            pairs(4),
            criteria=UNWATCHED,
            bias=nothing,
            before=ends,
        )
        ends = [part.end for part in parts]
        assert [len(part.positions) for part in parts] == [analysed] * 4
    # The well's greatest energy is 0.15 eV; velocity Verlet at 0.5 fs keeps it to a per mille.
    assert max(np.ptp(part.energies) for part in parts) < 1e-3


def test_a_replica_that_fails_leaves_and_the_others_go_on():
    members = pairs(3)
    near = Criteria(kind="reactive", bonds={}, bond_stretch_A=0.5, min_distance_A=1.3)
    broken = members[1].start.copy()
    broken.positions[1, 2] = 1.2
    members[1] = Replica(1, 600.0, broken)
    run = run_of(segment_ps=0.02, every_fs=0.5)
    parts = integrate(DoubleWell(), Segment(run, 0), members, criteria=near, bias=WELL, before=[])
    assert [part.failure for part in parts] == [None, "atoms overlap", None]
    assert parts[1].end is None
    assert parts[1].ps == pytest.approx(0.0005)
    assert [part.ps for part in parts if not part.failure] == pytest.approx([0.02, 0.02])
    ordered = integrate(
        DoubleWell(), Segment(run, 0), members[2:], criteria=near, bias=WELL, before=[]
    )
    assert np.array_equal(ordered[0].positions, parts[2].positions)


class Spring:
    """E = r²/2 of two atoms; no label beyond 1.75 Å."""

    def label(self, frames, _work, _cores):
        for frame in frames:
            vector = frame.positions[1] - frame.positions[0]
            if np.linalg.norm(vector) > 1.75:
                yield Record(status=Status.UNCONVERGED, core_seconds=2.0)
            else:
                forces = np.array([vector, -vector])
                yield Record(
                    status=Status.OK,
                    energy=float(vector @ vector) / 2,
                    forces=forces,
                    core_seconds=1.0,
                )


def test_the_reference_is_integrated_as_a_model_and_its_failures_are_not_finite(tmp_path):
    members = pairs(2)
    far = members[1].start.copy()
    far.positions[1, 2] = 1.9
    members[1] = Replica(1, 600.0, far)
    potential = ReferencePotential(Spring(), members[0].start, PAIR, tmp_path)
    parts = integrate(
        potential,
        Segment(run_of(segment_ps=0.01), 0),
        members,
        criteria=UNWATCHED,
        bias=NoBias(kind="none"),
        before=[],
    )
    assert [part.failure for part in parts] == [None, "values not finite"]
    # The second has no label at its start, and is not computed again.
    assert potential.evaluations == 2 + 20
    assert potential.core_seconds == 1 + 2 + 20


def test_the_references_dynamics_are_those_of_the_lowest_spin(tmp_path):
    """Of a quadratic energy that grows with the multiplicity at short distance, and else falls."""

    class Crossing(Spring):
        def label(self, frames, work, cores):
            for frame, record in zip(frames, super().label(frames, work, cores), strict=True):
                spin = frame.info["multiplicity"]
                long = frame.get_distance(0, 1) > 1.65
                yield replace(record, energy=record.energy + (-spin if long else spin))

    start = pairs(1)[0].start
    scanned = PAIR.model_copy(update={"multiplicities": [1, 3]})
    potential = ReferencePotential(Crossing(), start, scanned, tmp_path)
    for length, shift in ((1.6, 1.0), (1.7, -3.0)):
        frame = start.copy()
        frame.positions[1, 2] = length
        state = torch_sim.initialize_state([frame], torch.device("cpu"), torch.float64)
        assert float(potential(state)["energy"]) == pytest.approx(length**2 / 2 + shift)
    assert (potential.evaluations, potential.core_seconds) == (2, 4.0)


def test_a_segment_is_given_all_hills_of_those_before_it(tmp_path):
    exam = EXAMS["hydrogen"]
    place = computing.Place(exam, tmp_path, tmp_path, {}, tmp_path)
    run = next(run for run in exam.runs if run.name == "reference")
    cells = [Cell(kind="dynamics", run=run, batch=0, number=number) for number in range(3)]
    for number, cell in enumerate(cells[:2]):
        end = {"positions": [[number] * 3], "centers": [[number + 0.5]], "heights": [number]}
        rows = [{"replica": 0, "end": end}, {"replica": 1, "end": None if number else end}]
        place.path(cell).write_text(json.dumps({"replicas": rows}))
    before = computing._before(cells[2], place)
    # The second replica failed in the second segment.
    assert before == {0: {"positions": [[1] * 3], "centers": [[0.5, 1.5]], "heights": [0, 1]}}
    assert computing.waits_for(cells[2], place) == ""
    place.path(cells[1]).unlink()
    assert computing.waits_for(cells[2], place) == "the segment before"
    errors = Cell(kind="errors", run=run, batch=0, number=0)
    assert computing.waits_for(errors, place) == "the campaign"


def test_each_exam_has_a_campaign_that_is_accepted_and_cells_with_names_of_their_own():
    for exam in EXAMS.values():
        path = ROOT / "benchmarks/exams" / f"{exam.name}.yaml"
        campaign = Campaign.resolve(yaml.safe_load(path.read_text()), str(path))
        plan = campaign.systems[exam.system]
        assert {run.structure for run in exam.runs} == set(plan.explored)
        names = [cell.name for cell in grid(exam)]
        assert len(set(names)) == len(names)
    start = (
        Campaign.resolve(
            yaml.safe_load((ROOT / "benchmarks/exams/aspirin.yaml").read_text()), "aspirin"
        )
        .systems["aspirin"]
        .start("aspirin")
    )
    for atoms in EXAMS["aspirin"].torsions.values():
        for i, j in itertools.pairwise(atoms):
            assert start.get_distance(i, j) < 1.6  # they are a chain
    assert Cell(kind="campaign", variant="scratch").name == "campaign_scratch"


def fabricated(exam):
    """Dynamics of the reference and of a model with 30 meV more of a barrier."""
    barrier = exam.barrier
    x = np.linspace(*barrier.grid)
    known = []
    for cell in grid(exam):
        if cell.kind != "dynamics" or cell.run.structure != barrier.structure or cell.number > 3:
            continue
        more = 0.03 * (cell.run.who == "model")
        rows = []
        for replica in range(cell.batch * cell.run.batch, (cell.batch + 1) * cell.run.batch):
            noise = 0.004 * np.random.default_rng(replica).normal()
            top = (0.3 + more + noise) * np.exp(-(((x - 1.4) / 0.12) ** 2) / 2)
            bias = -7 / 8 * (top + 3 * (np.abs(x - 1.4) > 0.6)) + replica
            failed = cell.run.who == "model" and replica == 3 and cell.number == 3
            rows.append(
                {
                    "replica": replica,
                    "ps": 1.0,
                    "failure": "atoms overlap" if failed else None,
                    "temperature_K": 1500.0 + replica,
                    "bias_eV": bias.tolist(),
                    "bias_factor": 8.0,
                    "unphysical": {"H3O": 1} if failed else {},
                }
            )
        run = {**vars(cell.run)}
        known.append(
            {
                "kind": "dynamics",
                "variant": cell.variant,
                "run": run,
                "core_s": 36.0,
                "replicas": rows,
            }
        )
    return known


def test_the_summary_finds_the_barrier_error_and_the_page_shows_it():
    exam = EXAMS["hydrogen"]
    found = results.summarised(exam, fabricated(exam), of=999)
    (line,) = [line for line in found["table"] if line["quantity"].startswith("barrier")]
    assert line["arms"]["reference"]["value"] == pytest.approx(0.3, abs=0.01)
    error = line["minus_reference"]["model"]
    assert error["low"] < 0.03 < error["high"]
    assert error["value"] == pytest.approx(0.03, abs=0.006)
    (run,) = [run for run in found["dynamics"] if run["arm"] == "model"]
    assert run["failures"] == [{"replica": 3, "ps": 4.0, "reason": "atoms overlap"}]
    # One failure in 64 ps: the exact one-sided 95 % bound is 4.744 per that time.
    assert run["failures_per_ns_bound"] == pytest.approx(4744 / 64, rel=1e-3)
    assert run["unphysical"] == {"H3O": 1}
    shown = page(exam, found)
    assert "999 cells are done" in shown
    assert "atoms overlap" in shown
    assert "1 H3O" in shown
    json.dumps(found, allow_nan=False)


def made_rows(exam, structure, make):
    """A segment of the reference and of the model: `make(who)` gives a replica's entries."""
    known = []
    for cell in grid(exam):
        of = cell.run
        if cell.kind != "dynamics" or cell.number or of.structure != structure:
            continue
        if of.ensemble == "npt":
            continue
        batch = range(cell.batch * of.batch, (cell.batch + 1) * of.batch)
        rows = [
            {"replica": n, "ps": 1.0, "failure": None, "temperature_K": 300.0, **make(of.who)}
            for n in batch
        ]
        known.append(
            {
                "kind": "dynamics",
                "variant": cell.variant,
                "run": vars(of),
                "core_s": 1.0,
                "replicas": rows,
            }
        )
    return known


def test_the_summary_of_aspirin_has_the_overlap_of_its_torsions_and_vibrations():
    def make(who):
        # Half of the model's frames are where the reference has none; its spectrum is the same.
        angles, spectrum = (
            np.zeros(len(results.ANGLES_DEG) - 1),
            np.ones(len(results.FREQUENCIES_PER_CM) - 1),
        )
        angles[3] = 10
        angles[8] = 10 * (who == "model")
        return {
            "torsions": dict.fromkeys(exam.torsions, angles.tolist()),
            "vibrations": spectrum.tolist(),
            "drift_meV_per_atom_ps": 0.01,
        }

    exam = EXAMS["aspirin"]
    found = results.summarised(exam, made_rows(exam, "aspirin", make), of=999)
    overlaps = {
        line["quantity"]: line["arms"]["model"]["value"]
        for line in found["table"]
        if line["quantity"].startswith("overlap")
    }
    assert overlaps.pop("overlap: vibrations (aspirin, nve)") == pytest.approx(1)
    assert len(overlaps) == len(exam.torsions)
    assert list(overlaps.values()) == pytest.approx([0.5] * len(overlaps))
    assert "torsion acetyl" in page(exam, found)


def test_the_summary_of_water_compares_only_the_box_that_the_reference_ran():
    def make(who):
        g = np.full(results.RADIAL_BINS, 1.0 + 0.1 * (who == "model"))
        return {"radial": dict.fromkeys(exam.radial, g.tolist()), "drift_meV_per_atom_ps": 0.01}

    exam = EXAMS["water"]
    known = [row for box in ("box", "box16") for row in made_rows(exam, box, make)]
    found = results.summarised(exam, known, of=999)
    areas = [line for line in found["table"] if line["quantity"].startswith("area")]
    assert {line["quantity"] for line in areas} == {
        f"area between g and the reference's, {pair} (box16, nve)" for pair in exam.radial
    }
    for line in areas:  # 0.1 too much over 3.6 Å
        assert line["arms"]["model"]["value"] == pytest.approx(0.36)
    titles = {curve["title"] for curve in found["curves"]}
    assert "radial distribution O-O (box, nve)" in titles


def test_an_exam_lists_its_cells(tmp_path, capsys):
    command.main(["hydrogen", "--list", "--cells", str(tmp_path), "--work", str(tmp_path)])
    listed = capsys.readouterr().out
    assert "campaign_scratch" in listed
    assert "reference_b05_s029" in listed
    assert "done" not in listed
    with pytest.raises(SystemExit, match="nothing to summarise"):
        command.main(["hydrogen", "--summary", "--cells", str(tmp_path), "--work", str(tmp_path)])
