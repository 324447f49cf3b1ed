"""MACE behind one door: build, load and evaluate models; their energy zero.

Only this module and `halcyon.final.lammps_export` import `mace`: what changes with its version
stays here.

Model files are pickles, as MACE writes them: `load` executes what they contain. Give it only
files that a campaign made or that the user named.

    from halcyon.models.mace import errors, evaluate, load

    predictions = evaluate(load("m.model", dtype="float32"), frames)
    errors(predictions, frames)["forces_mae_meV_per_A"]

Not for: training (see `training`), the dynamics itself (see `halcyon.exploration`), how a model is
evaluated in a batch (see `batched`), or what a node energy means (see `halcyon.domain`).
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from halcyon.config import DomainSettings, ModelSettings
from halcyon.domain.states import State, is_periodic
from halcyon.errors import InputError
from halcyon.files import REMADE
from halcyon.labels.stress import GPA, is_possible, voigt
from halcyon.models.batched import BatchedMace


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """Imports of a module that is not loaded yet fail meanwhile, as if it were not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


# MACE prints notes on packages that are not installed: a user cannot act on them. It does without
# PyTorch's compiler where there is none; nothing here uses it, and loading it takes 1.5 s.
with (
    warnings.catch_warnings(),
    contextlib.redirect_stdout(io.StringIO()),
    without("torch._dynamo"),
):
    warnings.simplefilter("ignore")
    from mace import modules, tools
    from mace.modules import lora
    from mace.modules.models import o3  # type: ignore[attr-defined]
    from mace.tools import finetuning_utils, scripts_utils

# e3nn's modules cause this warning each time one is built or read.
warnings.filterwarnings("ignore", message="The TorchScript type system doesn't support")

DTYPES = {"float32": torch.float32, "float64": torch.float64}

FROZEN: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "embedding": ("node_embedding",),
    "interactions": ("node_embedding", "interactions"),
}
"""Parts of a MACE model that do not learn, by the setting `training.freeze`, as MACE's own option
`--freeze` has them (1 and 5). With `all_but_readouts`, nothing but the readouts learns."""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for frames, in their order."""

    energy: np.ndarray
    """Total energies, eV, shape (n,)."""
    forces: list[np.ndarray]
    """Forces, eV/Å, each of shape (N, 3)."""
    node_energy: list[np.ndarray]
    """Interaction energies of atoms (their element's energy removed), eV, each of shape (N,)."""
    descriptors: list[np.ndarray]
    """Rotation-invariant MACE features of atoms, each of shape (N, D)."""
    stress: list[list[float] | None] = field(default_factory=list)
    """Stresses, six numbers each, eV/Å³, tension positive; None: the frame is not periodic."""


def load(
    path: Path | str,
    *,
    device: str = "auto",
    dtype: str | None = None,
) -> torch.nn.Module:
    """Read a MACE model.

    The file is a pickle: reading it runs code that it contains. Give only files that a campaign
    made, or that the user named.

    Args:
        path: the file.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        dtype: "float32" or "float64"; by default the file's own.

    Raises:
        InputError: the file is missing, or not a model.
    """
    try:
        model = torch.load(path, map_location=chosen_device(device), weights_only=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model file") from error
    except Exception as error:  # a pickle may fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable MACE model ({reason}). {REMADE}") from error
    if not hasattr(model, "atomic_energies_fn"):
        raise InputError(f"{path}: holds a {type(model).__name__}, not a MACE model of energies")
    model = model.eval().requires_grad_(False)
    return model if dtype is None else model.to(DTYPES[dtype])


def load_committee(
    settings: DomainSettings,
    elements: Sequence[int] = (),
    *,
    device: str = "auto",
    dtype: str | None = None,
) -> list[BatchedMace]:
    """The other models of the signal `committee`; none where it is not watched.

    Args:
        settings: signals, and the models' files.
        elements: atomic numbers that each must know.
        device: as for `load`.
        dtype: as for `load`.

    Raises:
        InputError: a file is missing, or not a model; a model has several heads, or lacks an
            element.
    """
    committee = []
    for path in settings.watched_committee:
        member = load(path, device=device, dtype=dtype)
        if len(heads := heads_of(member)) > 1:
            raise InputError(
                f"{path}: the model has several heads ({', '.join(heads)}): expected a model with "
                "one. Keep one head of it (MACE's command mace_select_head), and name that file"
            )
        _refuse_missing(path, member, elements, "the model of the committee")
        committee.append(BatchedMace(member))
    return committee


def evaluate(
    model: Path | str | torch.nn.Module,
    frames: Sequence[Atoms],
    *,
    device: str = "auto",
    batch_size: int = 64,
) -> Predictions:
    """Predict energies, forces and node energies of frames, of any compositions.

    Args:
        model: a model file, or a model as `load` returns it.
        frames: any number; periodic in all directions or in none.
        device: used where `model` is a file.
        batch_size: frames per pass.

    Raises:
        InputError: an element that the model was not trained for, or a frame that is periodic
            in some directions only.
    """
    loaded = model if isinstance(model, torch.nn.Module) else load(model, device=device)
    wrapper = BatchedMace(loaded)
    with_stress = BatchedMace(loaded, compute_stress=True) if _any_stress(frames) else wrapper
    energies: list[float] = []
    forces: list[np.ndarray] = []
    node_energy: list[np.ndarray] = []
    descriptors: list[np.ndarray] = []
    stress: list[list[float] | None] = []
    for batch in _batches(frames, batch_size):
        sizes = [len(atoms) for atoms in batch]
        state = State.of(batch, device=wrapper.device, dtype=wrapper.dtype)
        result = (with_stress if is_periodic(batch[0]) else wrapper)(state)
        parts = {
            name: [part.cpu().numpy() for part in torch.split(values, sizes)]
            for name, values in (
                ("forces", result["forces"].double()),
                ("node_energy", result["node_energy"]),
                ("descriptors", result["descriptors"]),
                ("e0s", wrapper.e0s(state.atomic_numbers)),
            )
        }
        tensors = result["stress"].double().cpu().numpy() if "stress" in result else ()
        stress += [voigt(tensor) for tensor in tensors] or [None] * len(batch)
        forces += parts["forces"]
        node_energy += parts["node_energy"]
        descriptors += parts["descriptors"]
        # In float64: a total of thousands of eV would lose meV in float32.
        energies += [
            float(e0s.sum() + nodes.sum())
            for e0s, nodes in zip(parts["e0s"], parts["node_energy"], strict=True)
        ]
    return Predictions(np.array(energies), forces, node_energy, descriptors, stress)


def _any_stress(frames: Sequence[Atoms]) -> bool:
    return any(is_possible(frame) for frame in frames)


def errors(predictions: Predictions, frames: Sequence[Atoms]) -> dict[str, float]:
    """Errors of predictions against the frames' own energies, forces and stresses.

    Returns:
        `energy_mae_meV_per_atom`, `energy_rmse_meV_per_atom`, `forces_mae_meV_per_A` and
        `forces_rmse_meV_per_A` (over components); and where labels have a stress `stress_mae_GPa`,
        `stress_mae_eV_per_A3` (over its six numbers) and `frames_with_stress`.

    Raises:
        ValueError: no frames.
    """
    if not frames:
        raise ValueError("errors of no frames are not defined")
    energy = np.array(
        [
            1e3 * (predicted - atoms.info["energy"]) / len(atoms)
            for predicted, atoms in zip(predictions.energy, frames, strict=True)
        ]
    )
    force = 1e3 * np.concatenate(
        [
            (predicted - atoms.arrays["forces"]).ravel()
            for predicted, atoms in zip(predictions.forces, frames, strict=True)
        ]
    )
    stress = [
        np.subtract(predicted, atoms.info["stress"])
        for predicted, atoms in zip(predictions.stress, frames, strict=bool(predictions.stress))
        if predicted is not None and "stress" in atoms.info
    ]
    stress_mae = float(np.abs(stress).mean()) if stress else 0.0
    of_stress = {
        "stress_mae_GPa": stress_mae / GPA,
        "stress_mae_eV_per_A3": stress_mae,
        "frames_with_stress": len(stress),
    }
    return (of_stress if stress else {}) | {
        "energy_mae_meV_per_atom": float(np.abs(energy).mean()),
        "energy_rmse_meV_per_atom": float(np.sqrt((energy**2).mean())),
        "forces_mae_meV_per_A": float(np.abs(force).mean()),
        "forces_rmse_meV_per_A": float(np.sqrt((force**2).mean())),
    }


def new(
    settings: ModelSettings, e0s: dict[int, float], *, scale: float, mean_neighbours: float
) -> torch.nn.Module:
    """A model with random weights, in torch's default precision, from torch's random numbers.

    Args:
        settings: its size.
        e0s: energies of all its elements, eV.
        scale: of interaction energies, eV; MACE takes the root-mean-square force component.
        mean_neighbours: of an atom within the cutoff.
    """
    irreps = "+".join(
        f"{settings.channels}x{degree}{'eo'[degree % 2]}" for degree in range(settings.max_L + 1)
    )
    blocks = modules.interaction_classes
    elements = sorted(e0s)
    model: torch.nn.Module = modules.ScaleShiftMACE(
        r_max=settings.r_max_A,
        num_bessel=settings.radial_basis,
        num_polynomial_cutoff=5,
        max_ell=3,
        interaction_cls=blocks["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=blocks["RealAgnosticInteractionBlock"],
        num_interactions=settings.layers,
        num_elements=len(elements),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps("16x0e"),
        atomic_energies=np.array([[e0s[z] for z in elements]]),
        avg_num_neighbors=mean_neighbours,
        atomic_numbers=elements,
        correlation=settings.correlation,
        gate=torch.nn.functional.silu,
        pair_repulsion=settings.pair_repulsion,
        use_reduced_cg=False,
        atomic_inter_scale=scale,
        atomic_inter_shift=0.0,
        radial_MLP=[64, 64, 64],
        heads=["Default"],
    )
    return model


def load_start(
    path: Path,
    elements: Sequence[int],
    *,
    dtype: str,
    device: str = "auto",
    head: str | None = None,
) -> torch.nn.Module:
    """Read a model to fine-tune, and keep one head and some elements of it.

    Args:
        path: the file, see `load`.
        elements: atomic numbers that it must know; others are left out.
        dtype: as for `load`.
        device: as for `load`.
        head: name of the head; needed where it has several.

    Raises:
        InputError: as for `load`; an element is missing; the head is missing, or not named.
    """
    model: Any = load(path, device=device, dtype=dtype)
    _refuse_missing(path, model, elements, "the model to fine-tune")
    heads = heads_of(model)
    if head is not None and head not in heads:
        raise InputError(
            f"{path}: pretraining.start_head = {head!r}: expected one of {', '.join(heads)}"
        )
    if head is None and len(heads) > 1:
        raise InputError(
            f"{path}: pretraining.start_head is missing: the model has several heads; expected "
            f"one of {', '.join(heads)}"
        )
    with torch.no_grad(), precision(DTYPES[dtype]):
        if len(heads) > 1:
            model = scripts_utils.remove_pt_head(model, head)
        if set(model.atomic_numbers.tolist()) != set(elements):
            model = _with_elements(model, sorted(elements))
    return model.to(device=chosen_device(device), dtype=DTYPES[dtype]).requires_grad_(False)


def freeze(model: Any, blocks: str) -> None:
    """Let all weights of a model learn, but for those of some blocks.

    Args:
        model: changed.
        blocks: a key of `FROZEN`, or `all_but_readouts`.
    """
    model.requires_grad_(blocks != "all_but_readouts")
    if blocks == "all_but_readouts":
        scripts_utils.freeze_module(model.readouts, freeze=False)
        return
    for block in FROZEN[blocks]:
        scripts_utils.freeze_module(getattr(model, block))


def add_adapters(model: Any, rank: int) -> None:
    """Let a product of two thin matrices beside each linear map learn, and no other weight.

    Low-rank adaptation (E. J. Hu et al., ICLR 2022), as MACE has it for equivariant maps. The maps
    of chemical elements and the contractions are no linear layers: they stay as they are. At first
    the products are zero, so that the model is the same.

    Args:
        model: changed; in torch's default precision.
        rank: number of columns of the first matrix.
    """
    lora.inject_LoRAs(model, rank=rank, alpha=rank)


def merge_adapters(model: Any) -> Any:
    """The model with its adapters added to the weights beside them: an ordinary MACE model."""
    return lora.merge_lora_weights(model)


def heads_of(model: Any) -> list[str]:
    """Names of a model's heads; a model from before heads has the one that MACE calls Default."""
    return list(getattr(model, "heads", None) or ["Default"])


def _refuse_missing(path: Path, model: Any, elements: Sequence[int], role: str) -> None:
    """Refuse a model that lacks an element; `role` names the model in the message."""
    of_model = [int(z) for z in model.atomic_numbers]
    if missing := set(elements) - set(of_model):
        raise InputError(
            f"{path}: {role} lacks {symbols(missing)}; it knows {symbols(of_model)}. Name a model "
            "that was trained with these elements"
        )


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Build models in this precision; torch's default is put back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def described(model: Any) -> str:
    """A model's elements and size in a line, for people."""
    size = sum(parameter.numel() for parameter in model.parameters())
    return (
        f"{symbols([int(z) for z in model.atomic_numbers])}; {int(model.num_interactions)} layers, "
        f"cutoff {float(model.r_max):g} Å, {size:,} parameters"
    )


def _with_elements(model: Any, elements: list[int]) -> Any:
    """A model without the weights of its elements other than these."""
    table = tools.AtomicNumberTable(elements)
    columns = [model.atomic_numbers.tolist().index(z) for z in elements]
    settings = scripts_utils.extract_config_mace_model(model) | {
        "atomic_numbers": elements,
        "num_elements": len(elements),
        "atomic_energies": model.atomic_energies_fn.atomic_energies[..., columns].cpu().numpy(),
    }
    return finetuning_utils.load_foundations_elements(
        type(model)(**settings),
        model,
        table,
        load_readout=True,
        max_L=settings["hidden_irreps"].lmax,
        default_dtype=next(model.parameters()).dtype,
    )


def _batches(frames: Sequence[Atoms], size: int) -> Iterator[list[Atoms]]:
    """Consecutive frames, at most `size`, that are all periodic or all not."""
    batch: list[Atoms] = []
    for atoms in frames:
        if batch and (len(batch) == size or is_periodic(atoms) != is_periodic(batch[0])):
            yield batch
            batch = []
        batch.append(atoms)
    if batch:
        yield batch


def chosen_device(name: str) -> torch.device:
    """The device that "cpu", "cuda" or "auto" means."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def symbols(elements: Sequence[int] | set[int]) -> str:
    """Symbols of elements, for messages."""
    return ", ".join(chemical_symbols[z] for z in sorted(elements))
