"""As much of a torch-sim state as models and signals read."""

import pytest
import torch
import torch_sim
from ase import Atoms

from halcyon.domain.states import State, is_periodic
from halcyon.errors import InputError

CPU = torch.device("cpu")


def box(*, pbc=True):
    cell = [[5.0, 0, 0], [1.0, 6.0, 0], [0.5, 0.25, 7.0]]
    return Atoms("OH", [[0.1, 0.2, 0.3], [1.0, 1.1, 1.2]], cell=cell, pbc=pbc)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pbc", [True, False])
def test_it_holds_what_torch_sims_own_state_holds(pbc, dtype):
    frames = [box(pbc=pbc), box(pbc=pbc)[:1], box(pbc=pbc)]
    state = State.of(frames, device=CPU, dtype=dtype)
    own = torch_sim.io.atoms_to_state(frames, CPU, dtype)
    for name in ("positions", "atomic_numbers", "system_idx", "cell"):
        ours, theirs = getattr(state, name), getattr(own, name)
        assert ours.dtype == theirs.dtype or name == "atomic_numbers"
        assert torch.equal(ours, theirs.to(ours.dtype)), name
    assert state.pbc is pbc
    assert state.moving_cell is None


def test_it_does_not_share_memory_with_the_frame():
    atoms = box()
    State.of([atoms], device=CPU, dtype=torch.float64).positions[0] = 9.0
    assert atoms.positions[0, 0] == 0.1


def test_a_frame_that_is_periodic_in_some_directions_is_refused():
    slab = box(pbc=[True, True, False])
    with pytest.raises(InputError, match="set it to True for all three directions"):
        is_periodic(slab)
    with pytest.raises(InputError, match="set it to True for all three directions"):
        State.of([box(pbc=False), slab], device=CPU, dtype=torch.float64)
    assert is_periodic(box())
    assert not is_periodic(box(pbc=False))
