"""Bonds that form and break in reactive systems: what is counted, and what is not."""

import io

import numpy as np
import pytest
import torch
from ase import Atoms
from fabricated import calm_traces, made_up_audit, made_up_verdict, replica_end
from test_explore import SETTINGS, after, dimer, run, same
from torch_sim.models.interface import ModelInterface

from halcyon.config import SaturationSettings, Settings
from halcyon.errors import Interrupted
from halcyon.exploration.explore import Replica
from halcyon.exploration.reactions import BREAKS, FORMS, BondWatch
from halcyon.frames import read_frames
from halcyon.verdict.forms import Assessment, AuditFinding, Decision, Finding, Product, ReplicaEnd
from halcyon.verdict.reactions import ProductSeen, bonds_changed, products_seen, with_reactions
from halcyon.verdict.saturation import assess_run, decide, explored, goes_on

APART = 4.0


def line(*distances, symbols="H2OH"):
    """Atoms on a line, Å from one to the next."""
    return Atoms(symbols, positions=[[x, 0, 0] for x in np.cumsum([0.0, *distances])])


def watched(*frames, every_ps=0.05):
    watch = BondWatch(frames[0].numbers)
    for number, frame in enumerate(frames):
        watch.look(frame, time_ps=number * every_ps)
    return watch


def test_a_vibration_is_no_reaction():
    # H-H of H2 between 0.62 and 0.90 Å, O-H of OH between 0.85 and 1.35 Å.
    frames = [line(0.74 + 0.14 * np.sin(k), APART, 1.1 + 0.25 * np.cos(1.7 * k)) for k in range(40)]
    watch = watched(*frames)
    assert (watch.changes, watch.products()) == (0, [])


def test_atoms_that_nearly_meet_have_not_reacted():
    far, near = line(0.74, APART, 0.97), line(0.74, 1.4 * 0.97, 0.97)
    watch = watched(far, near, far, near, near)
    assert (watch.changes, watch.products()) == (0, [])


def test_a_pair_that_is_in_between_at_first_is_decided_later_without_a_change():
    long_bond = 1.4 * 2 * 0.31
    watch = watched(line(long_bond, APART, 0.97), line(0.72, APART, 0.97), line(0.74, APART, 0.97))
    assert (watch.changes, watch.products()) == (0, [])
    watch.look(line(3.0, APART, 0.97), time_ps=0.15)
    assert watch.changes == 1


def test_what_comes_about_is_counted_with_its_time():
    before, after_it = line(0.74, APART, 0.97), line(APART, 0.97, 0.97)
    watch = watched(before, before, after_it, after_it, before, before, after_it, after_it)
    assert watch.changes == 3 * 2, "each time one bond breaks and one forms"
    hydrogen, water = watch.products()
    assert hydrogen == Product(formula="H", graph="[H]", formed=2, first_ps=0.1, at_end=1)
    assert water == Product(formula="H2O", graph="[H][O][H]", formed=2, first_ps=0.1, at_end=1)


def test_atoms_that_only_meet_are_no_product():
    before, contact = line(0.74, APART, 0.97), line(0.74, 1.15, 0.97)
    watch = watched(before, before, contact, before, before)
    assert watch.changes == 2
    assert watch.products() == []


def test_isomers_are_told_apart_by_their_graph():
    apart = Atoms("HOOH", positions=[[0, 0, 0], [4, 0, 0], [8, 0, 0], [12, 0, 0]])
    peroxide = line(0.97, 1.45, 0.97, symbols="HOOH")
    oxywater = peroxide.copy()
    oxywater.positions[0] = oxywater.positions[2] + [0, 0.97, 0]
    graphs = []
    for molecule in (peroxide, oxywater):
        (product,) = watched(apart, apart, molecule, molecule).products()
        assert product.formula == "H2O2"
        graphs.append(product.graph)
    assert graphs == ["[H][O][O][H]", "[H][O]([H])[O]"]


def test_bonds_reach_over_periodic_boundaries():
    split = Atoms("H2", positions=[[0.1, 0, 0], [9.4, 0, 0]], cell=[10.0] * 3, pbc=True)
    broken = split.copy()
    broken.positions[1, 0] = 5.0
    assert watched(split, split).changes == 0
    assert watched(split, broken).changes == 1


def test_its_state_survives_a_file():
    frames = [line(0.74, APART, 0.97)] * 2 + [line(APART, 0.97, 0.97)] * 3
    for stop in range(1, 5):
        buffer = io.BytesIO()
        torch.save(watched(*frames[:stop]).state(), buffer)
        buffer.seek(0)
        watch = BondWatch.restored(torch.load(buffer, weights_only=True))
        for number in range(stop - 1, 5):  # the last look once more changes nothing
            watch.look(frames[number], time_ps=number * 0.05)
        whole = watched(*frames)
        assert (watch.changes, watch.products()) == (whole.changes, whole.products())


class Swing(ModelInterface):
    """Diatomic molecules whose bond length swings about 2.0 Å."""

    def __init__(self):
        super().__init__()
        self._device, self._dtype = torch.device("cpu"), torch.float64
        self._compute_forces, self._compute_stress = True, False

    def forward(self, state):
        pairs = state.positions.reshape(-1, 2, 3)
        vector = pairs[:, 1] - pairs[:, 0]
        length = vector.norm(dim=1, keepdim=True)
        energy = (length - 2.0).squeeze(1) ** 2
        pull = 2 * (length - 2.0) * vector / length
        return {
            "energy": energy,
            "forces": torch.stack([pull, -pull], dim=1).reshape(-1, 3),
            "node_energy": energy.repeat_interleave(2) / 2,
        }


@pytest.fixture
def swinging():
    """Options of a run in which nitrogen molecules dissociate and form again and again."""
    settings = SETTINGS.model_copy(
        update={"trajectory_every_fs": 20.0, "friction_per_ps": 0.1, "time_ps": 0.41}
    )
    replicas = [Replica(n, 100.0, dimer(1.0 + n / 10)) for n in range(3)]
    return {"settings": settings, "replicas": replicas, "system_kind": "reactive"}


def test_an_exploration_counts_the_bonds_that_changed(tmp_path, swinging):
    result = run(tmp_path, Swing(), **swinging)
    frames = [frame for path in result.trajectory for frame in read_frames(path)]
    for end in result.replicas:
        lengths = [f.get_distance(0, 1) for f in frames if f.info["replica"] == end.replica]
        bonded, changes = True, 0
        for length in lengths:  # covalent radius of nitrogen: 0.71 Å
            if bonded and length > BREAKS * 1.42:
                bonded, changes = False, changes + 1
            elif not bonded and length < FORMS * 1.42:
                bonded, changes = True, changes + 1
        assert changes >= 4
        assert end.bonds_changed == changes
        (atoms,) = end.products
        assert (atoms.formula, atoms.graph, atoms.formed % 2) == ("N", "[N]", 0)
        assert 0 < atoms.first_ps < 0.1
    quiet = run(tmp_path / "quiet", system_kind="reactive")
    assert [end.bonds_changed for end in quiet.replicas] == [0] * 4
    watched_no_bonds = run(tmp_path / "molecule")
    assert [end.bonds_changed for end in watched_no_bonds.replicas] == [None] * 4


def test_killed_and_restarted_it_counts_the_same(tmp_path, swinging):
    undisturbed = run(tmp_path / "whole", Swing(), **swinging)
    for interruption in (2, 5, 9):
        with pytest.raises(Interrupted):
            run(tmp_path / "broken", Swing(), stop=after(interruption), **swinging)
    same(run(tmp_path / "broken", Swing(), **swinging), undisturbed)
    same(run(tmp_path / "broken", Swing(), **swinging), undisturbed)


def test_what_a_replica_counts_does_not_depend_on_the_others(tmp_path, swinging):
    together = run(tmp_path / "together", Swing(), **swinging)
    first = swinging | {"replicas": swinging["replicas"][:1]}
    alone = run(tmp_path / "alone", Swing(), **first)
    assert alone.replicas[0].bonds_changed == together.replicas[0].bonds_changed
    assert alone.replicas[0].products == together.replicas[0].products


def end(number, changes, *products):
    return ReplicaEnd(
        replica=number,
        structure="mixture",
        temperature_K=1500.0,
        atoms=12,
        time_ps=2.0,
        failure=None,
        bonds_changed=changes,
        products=list(products),
    )


def assessment(finding):
    return Assessment(finding=finding, reason="of the index", confidence=0.95, replicas=8, failed=0)


def test_calm_dynamics_without_reactions_are_not_enough_data():
    still, settings = [end(n, 0) for n in range(8)], SaturationSettings()
    calm = assessment(Finding.SATURATED)
    judged = with_reactions(calm, still, settings)
    assert judged.finding is Finding.NOT_ENOUGH_DATA
    assert judged.reason.startswith("no bond changed in 16 ps")
    assert judged.bonds_changed == 0
    unasked = with_reactions(calm, still, SaturationSettings(reactions_needed=False))
    assert unasked.finding is Finding.SATURATED
    assert unasked.reason == "of the index; no bond changed in 16 ps"
    active = with_reactions(assessment(Finding.NOT_SATURATED), still, settings)
    assert active.finding is Finding.NOT_SATURATED
    assert active.reason == "of the index; no bond changed in 16 ps"
    reacting = with_reactions(calm, [*still, end(8, 2)], settings)
    assert (reacting.finding, reacting.reason) == (Finding.SATURATED, "of the index")
    assert reacting.bonds_changed == 2
    not_reactive = [end(n, None) for n in range(8)]
    assert with_reactions(calm, not_reactive, settings) == calm


def test_products_of_all_replicas_are_counted_by_formula_and_graph():
    peroxide, oxywater = "[H][O][O][H]", "[H][O]([H])[O]"
    water = "[H][O][H]"

    def product(graph, formed, first_ps, at_end, formula="H2O2"):
        return Product(
            formula=formula, graph=graph, formed=formed, first_ps=first_ps, at_end=at_end
        )

    replicas = [
        end(0, 4, product(peroxide, 1, 0.4, 1), product(water, 3, 0.6, 2, formula="H2O")),
        end(1, 2, product(peroxide, 1, 0.2, 0), product(oxywater, 1, 1.0, 0)),
        end(2, 0),
    ]
    assert products_seen(replicas) == [
        ProductSeen("H2O", water, formed=3, replicas=1, first_ps=0.6, at_end=2),
        ProductSeen("H2O2", peroxide, formed=2, replicas=2, first_ps=0.2, at_end=1),
        ProductSeen("H2O2", oxywater, formed=1, replicas=1, first_ps=1.0, at_end=0),
    ]
    assert bonds_changed(replicas) == 6


def reactive_run(changes, settings):
    """The assessment of a calm, long, reactive exploration; changes of each replica."""
    ends = [
        replica_end(n, 40.0, activity_ps=[], molecules=1, bonds_changed=number)
        for n, number in enumerate(changes)
    ]
    return assess_run(calm_traces(ends), ends, settings)


def test_a_reactive_campaign_does_not_saturate_while_nothing_reacts():
    settings = Settings(exploration={"time_ps": 40.0})
    unasked = settings.model_copy(update={"saturation": SaturationSettings(reactions_needed=False)})
    audit = made_up_audit(AuditFinding.PASSED, "forces are right")

    def decided(assessment):
        return decide(assessment, audit, generation=0, labels=10, settings=settings)

    decision, reason = decided(reactive_run([0] * 8, settings))
    assert decision is Decision.CONTINUE
    assert reason.startswith("not enough data: no bond changed in 320 ps")
    assert decided(reactive_run([0] * 7 + [2], settings))[0] is Decision.SATURATED
    still = reactive_run([0] * 8, unasked)
    assert decided(still)[0] is Decision.SATURATED
    verdict = made_up_verdict(
        "saturated",
        saturation=still.model_dump(mode="json"),
        explored=explored(unasked).model_dump(mode="json"),
    )
    assert not goes_on(verdict, unasked)
    assert goes_on(verdict, settings), "reactions are asked for now"
