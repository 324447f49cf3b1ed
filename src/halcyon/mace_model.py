"""MACE behind one door: fit, load and evaluate.

The only module that imports `mace`, so that its version's habits stay here. Training goes
through MACE's own command (`mace.cli.run_train`), in this process; what is ours is the energy
zero, the hand-over from one energy scale to another, progress, and a clean folder afterwards.

Model files are pickles, as MACE writes them: `load` executes what they contain. Give it only
files that a campaign made or that the user named.

Not for: choosing frames or splits (see `select`, `labels`), the dynamics itself (see `explore`),
how a model is evaluated (see `batched_mace`), or what a node energy means (see `domain`).

    train(frames, held_out, elements=[1, 6, 8], model=ModelSettings(), fit=TrainingSettings(),
          start=None, out=Path("m.model"), work=Path("work"), seed=1, device="cpu")
    model = BatchedMace(load("m.model", dtype="float32"))
    model(torch_sim_state)["node_energy"]  # eV, without the elements' own energies
"""

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from halcyon import files
from halcyon.batched_mace import BatchedMace
from halcyon.config import DomainSettings, FitSettings, ModelSettings
from halcyon.errors import InputError

# Their notes on packages that are not there: no one can act on them.
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    from mace import tools
    from mace.cli import run_train

DTYPES = {"float32": torch.float32, "float64": torch.float64}
RUN = "mace-run"  # the one folder under `work` that training may delete

# MACE's own settings, the same for every campaign; measured in docs/decisions/mace.md.
FIXED_OPTIONS = {
    "model": "MACE",
    "name": "model",
    "max_ell": 3,
    "valid_batch_size": 64,
    "eval_interval": 1,
    "error_table": "PerAtomMAE",
    "energy_key": "REF_energy",
    "forces_key": "REF_forces",
    "loss": "l1l2energyforces",
    "scheduler": "ExponentialLR",
    "ema_decay": 0.99,
    "num_workers": 0,
    "pin_memory": False,
    "plot": False,
}
FINAL_LEARNING_RATE = 0.02  # of the initial one, reached in the last epoch


@dataclass(frozen=True)
class Progress:
    """One epoch of a training."""

    epoch: int
    """Epoch just done, from 1."""
    of: int
    """Epochs in all."""
    loss: float
    """Mean training loss of the epoch, in MACE's own mixed units."""
    forces_mae_meV_per_A: float
    """Validation error of force components, meV/Å; so are the next three."""
    forces_rmse_meV_per_A: float
    energy_mae_meV_per_atom: float
    energy_rmse_meV_per_atom: float


@dataclass(frozen=True)
class FitSummary:
    """What a training did."""

    epochs: list[Progress]
    """The learning curve."""
    best_epoch: int
    """Epoch with the least validation loss: the model that was kept."""
    e0s: dict[int, float]
    """Energy of each element in the model, eV, by atomic number."""
    seconds: float
    """Wall time, s."""


@dataclass(frozen=True)
class Predictions:
    """What a model says about frames, in their order."""

    energy: np.ndarray
    """Total energies, eV, shape (n,)."""
    forces: list[np.ndarray]
    """Forces, eV/Å, each of shape (N, 3)."""
    node_energy: list[np.ndarray]
    """Interaction energies of atoms (their element's energy removed), eV, each of shape (N,)."""
    descriptors: list[np.ndarray]
    """Rotation-invariant MACE features of atoms, each of shape (N, D)."""


def fit_e0s(frames: Sequence[Atoms]) -> dict[int, float]:
    """Energies of the elements that explain the frames' total energies best.

    Minimum-norm least squares of energies on compositions, so that it is defined, too, where all
    frames have one composition and only the sum over a frame has a meaning.

    Args:
        frames: frames with `info["energy"]`, eV.

    Returns:
        Energy of each element that occurs, eV, by atomic number.
    """
    return _fit_e0s(frames, np.array([atoms.info["energy"] for atoms in frames]))


def train(
    train_frames: Sequence[Atoms],
    validation_frames: Sequence[Atoms],
    *,
    elements: Sequence[int],
    model: ModelSettings,
    fit: FitSettings,
    start: Path | None,
    out: Path,
    work: Path,
    seed: int,
    device: str = "cpu",
    progress: Callable[[Progress], None] | None = None,
) -> FitSummary:
    """Train a model from scratch, or fine-tune `start`, and write it to `out`.

    The model kept is the epoch with the least validation loss (of the running average of the
    weights). The same inputs, seed and number of threads give bitwise the same model.

    The elements' energies are fitted to the training frames: before the training, to what the
    interaction energies of `start` leave unexplained, so that nothing is left to unlearn; and
    once more after it, since short trainings leave a constant offset.

    Args:
        train_frames: frames with `info["energy"]` (eV) and `arrays["forces"]` (eV/Å).
        validation_frames: the same, held out.
        elements: atomic numbers the model must know; an element without a training frame gets
            the energy 0 eV.
        model: size and precision. With `start`, its size is that model's; only the precision
            counts.
        fit: epochs, batch size, learning rate and weights.
        start: model file to fine-tune. Its energy zero does not matter.
        out: the model file, written atomically.
        work: folder for MACE's data, log and checkpoints; only `mace-run` in it is touched.
        seed: of the weights and the order of batches.
        device: "cpu", "cuda" or "auto".
        progress: called after each epoch. What it raises ends the training.

    Raises:
        InputError: no frames, or elements that `start` or `elements` does not cover.
    """
    begun = time.monotonic()
    elements = sorted({int(z) for z in elements})
    _check(train_frames, "training", elements)
    _check(validation_frames, "validation", elements)
    folder = work / RUN
    shutil.rmtree(folder, ignore_errors=True)  # stale checkpoints would be taken for this run's
    folder.mkdir(parents=True)
    options = _options(len(train_frames), model=model, fit=fit, seed=seed)
    options |= {"device": str(_device(device)), "work_dir": str(folder)}
    with _undisturbed():
        torch.set_default_dtype(DTYPES[model.dtype])
        if start is None:
            e0s = fit_e0s(train_frames)
        else:
            foundation, e0s = _handed_over(start, train_frames, elements, model.dtype, device)
            torch.save(foundation, folder / "start.model")
            options |= {
                "foundation_model": str(folder / "start.model"),
                "multiheads_finetuning": False,
            }
        e0s = {z: e0s.get(z, 0.0) for z in elements}
        options |= {"E0s": str(e0s), "atomic_numbers": str(elements)}
        for name, frames in (("train", train_frames), ("valid", validation_frames)):
            path = folder / f"{name}.xyz"
            ase.io.write(path, [_mace_frame(atoms) for atoms in frames], format="extxyz")
            options[f"{name}_file"] = str(path)
        curve = _run(folder, options, progress)
        trained = load(folder / "model.model", device=device)
        e0s |= _move_energy_zero(trained, train_frames)
    with files.replacing(out) as temporary:
        torch.save(trained.cpu(), temporary)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    losses = [loss for _, loss in curve]
    return FitSummary(
        epochs=[epoch for epoch, _ in curve],
        best_epoch=1 + int(np.argmin(losses)),
        e0s=e0s,
        seconds=time.monotonic() - begun,
    )


def load(
    path: Path | str,
    *,
    device: str = "auto",
    dtype: str | None = None,
) -> torch.nn.Module:
    """Read a MACE model.

    The file is a pickle: reading it runs code that stands in it. Only files that a campaign
    made, or that the user named, may come here.

    Args:
        path: the file.
        device: "cpu", "cuda", or "auto": cuda where there is one.
        dtype: "float32" or "float64"; by default the file's own.

    Raises:
        InputError: the file is missing, or no model.
    """
    try:
        model = torch.load(path, map_location=_device(device), weights_only=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model file") from error
    except Exception as error:  # a pickle may fail in any way
        raise InputError(f"{path}: not a readable MACE model ({error})") from error
    if not hasattr(model, "atomic_energies_fn"):
        raise InputError(f"{path}: holds a {type(model).__name__}, not a MACE model of energies")
    model = model.eval().requires_grad_(False)
    return model if dtype is None else model.to(DTYPES[dtype])


def load_committee(
    settings: DomainSettings, *, device: str = "auto", dtype: str | None = None
) -> list[BatchedMace]:
    """The other models that the signal `committee` asks; none where it is not watched.

    Args:
        settings: signals, and the models' files.
        device: as for `load`.
        dtype: as for `load`.

    Raises:
        InputError: a file is missing, or no model.
    """
    paths = settings.committee if "committee" in settings.signals else []
    return [BatchedMace(load(path, device=device, dtype=dtype)) for path in paths]


@dataclass(frozen=True)
class _Frames:
    """As much of a torch-sim state as `BatchedMace` reads."""

    positions: torch.Tensor
    atomic_numbers: torch.Tensor
    system_idx: torch.Tensor
    cell: torch.Tensor
    pbc: bool


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
    wrapper = BatchedMace(
        model if isinstance(model, torch.nn.Module) else load(model, device=device)
    )
    energies: list[float] = []
    forces: list[np.ndarray] = []
    node_energy: list[np.ndarray] = []
    descriptors: list[np.ndarray] = []
    for batch in _batches(frames, batch_size):
        sizes = [len(atoms) for atoms in batch]
        state = _as_state(batch, wrapper)
        result = wrapper(state)
        parts = {
            name: [part.cpu().numpy() for part in torch.split(values, sizes)]
            for name, values in (
                ("forces", result["forces"].double()),
                ("node_energy", result["node_energy"]),
                ("descriptors", result["descriptors"]),
                ("e0s", wrapper.e0s(state.atomic_numbers)),
            )
        }
        forces += parts["forces"]
        node_energy += parts["node_energy"]
        descriptors += parts["descriptors"]
        # In float64: a total of thousands of eV would lose meV in float32.
        energies += [
            float(e0s.sum() + nodes.sum())
            for e0s, nodes in zip(parts["e0s"], parts["node_energy"], strict=True)
        ]
    return Predictions(np.array(energies), forces, node_energy, descriptors)


def errors(predictions: Predictions, frames: Sequence[Atoms]) -> dict[str, float]:
    """Errors of predictions against the frames' own energies and forces.

    Returns:
        `energy_mae_meV_per_atom`, `energy_rmse_meV_per_atom`, `forces_mae_meV_per_A` and
        `forces_rmse_meV_per_A` (over components).

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
    return {
        "energy_mae_meV_per_atom": float(np.abs(energy).mean()),
        "energy_rmse_meV_per_atom": float(np.sqrt((energy**2).mean())),
        "forces_mae_meV_per_A": float(np.abs(force).mean()),
        "forces_rmse_meV_per_A": float(np.sqrt((force**2).mean())),
    }


def _fit_e0s(frames: Sequence[Atoms], energies: np.ndarray) -> dict[int, float]:
    elements = sorted({int(z) for atoms in frames for z in atoms.numbers})
    composition = np.array([[np.sum(atoms.numbers == z) for z in elements] for atoms in frames])
    solution = np.linalg.lstsq(composition.astype(float), energies, rcond=None)[0]
    return dict(zip(elements, solution.tolist(), strict=True))


def _handed_over(
    start: Path, frames: Sequence[Atoms], elements: Sequence[int], dtype: str, device: str
) -> tuple[torch.nn.Module, dict[int, float]]:
    """The model to fine-tune, moved to the frames' energy zero.

    The energies must be written into the model itself: where the elements agree, MACE 0.3.16
    copies them from the start model (`load_foundations_elements`), whatever `--E0s` says.
    """
    model = load(start, device=device, dtype=dtype)
    known = BatchedMace(model).elements
    if missing := set(elements) - set(known):
        raise InputError(
            f"{start}: the model to fine-tune lacks {_symbols(missing)}; it knows {_symbols(known)}"
        )
    e0s = _move_energy_zero(model, frames)
    return model.requires_grad_(True), e0s


def _move_energy_zero(model: Any, frames: Sequence[Atoms]) -> dict[int, float]:
    """Set the elements' energies to what the interaction energies leave unexplained, on average.

    Interaction energies, and with them node energies and forces, stay as they are.
    """
    inner = [nodes.sum() for nodes in evaluate(model, frames).node_energy]
    e0s = _fit_e0s(frames, np.array([atoms.info["energy"] for atoms in frames]) - inner)
    table = model.atomic_energies_fn.atomic_energies
    new = [e0s.get(int(z), 0.0) for z in model.atomic_numbers]
    table.copy_(torch.tensor(new, dtype=table.dtype, device=table.device).expand_as(table))
    return e0s


def _options(n_train: int, *, model: ModelSettings, fit: FitSettings, seed: int) -> dict[str, Any]:
    """Options of MACE's training command, without files and elements."""
    # MACE drops the last, incomplete batch of each epoch: a batch must never exceed the set.
    batch_size = min(fit.batch_size, n_train)
    return FIXED_OPTIONS | {
        "seed": seed,
        "default_dtype": model.dtype,
        "r_max": model.r_max_A,
        "num_channels": model.channels,
        "max_L": model.max_L,
        "num_interactions": model.layers,
        "correlation": model.correlation,
        "num_radial_basis": model.radial_basis,
        "max_num_epochs": fit.epochs,
        "patience": fit.epochs,
        "batch_size": batch_size,
        "lr": fit.learning_rate,
        "lr_scheduler_gamma": FINAL_LEARNING_RATE ** (1 / max(fit.epochs - 1, 1)),
        "energy_weight": fit.energy_weight,
        "forces_weight": fit.forces_weight,
    }


def _run(
    folder: Path, options: dict[str, Any], progress: Callable[[Progress], None] | None
) -> list[tuple[Progress, float]]:
    """Run MACE's training command; its log goes to `folder/logs`.

    Returns:
        Each epoch, and its validation loss.
    """
    arguments = [f"--{name}={value}" for name, value in options.items()]
    args = tools.build_default_arg_parser().parse_args([*arguments, "--ema", "--amsgrad"])
    results = folder / "results" / f"{tools.get_tag(args.name, args.seed)}_train.txt"
    watch = _Epochs(results, args.max_num_epochs, progress)
    logging.getLogger().addHandler(watch)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        run_train.run(args)
    return watch.curve


class _Epochs(logging.Handler):
    """Turns MACE's log line after each epoch into a `Progress`, from its results file."""

    def __init__(self, results: Path, of: int, progress: Callable[[Progress], None] | None) -> None:
        super().__init__()
        self.curve: list[tuple[Progress, float]] = []
        self._results = results
        self._of = of
        self._progress = progress
        self._read = 0
        self._stdout = sys.stdout

    def emit(self, record: logging.LogRecord) -> None:
        if not record.getMessage().startswith("Epoch "):
            return
        with self._results.open(encoding="utf-8") as file:
            file.seek(self._read)
            rows = [json.loads(line) for line in file]
            self._read = file.tell()
        losses = [row["loss"] for row in rows if row["mode"] == "opt"]
        valid = rows[-1]
        done = Progress(
            epoch=1 + valid["epoch"],
            of=self._of,
            loss=float(np.mean(losses)),
            forces_mae_meV_per_A=1e3 * valid["mae_f"],
            forces_rmse_meV_per_A=1e3 * valid["rmse_f"],
            energy_mae_meV_per_atom=1e3 * valid["mae_e_per_atom"],
            energy_rmse_meV_per_atom=1e3 * valid["rmse_e_per_atom"],
        )
        self.curve.append((done, valid["loss"]))
        if self._progress is not None:
            with contextlib.redirect_stdout(self._stdout):
                self._progress(done)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put back what MACE's training changes for the whole process: log, precision, warnings."""
    root = logging.getLogger()
    handlers, filters, level = root.handlers[:], root.filters[:], root.level
    dtype = torch.get_default_dtype()
    root.handlers[:] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.filters[:] = handlers, filters
        root.setLevel(level)
        torch.set_default_dtype(dtype)


def _mace_frame(atoms: Atoms) -> Atoms:
    frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.info["REF_energy"] = float(atoms.info["energy"])
    frame.arrays["REF_forces"] = np.asarray(atoms.arrays["forces"], dtype=float)
    return frame


def _check(frames: Sequence[Atoms], what: str, elements: Sequence[int]) -> None:
    if not frames:
        raise InputError(f"no {what} frames: at least one is needed")
    if missing := {int(z) for atoms in frames for z in atoms.numbers} - set(elements):
        raise InputError(
            f"the {what} frames hold {_symbols(missing)}, the system's elements are "
            f"{_symbols(elements)}"
        )


def _batches(frames: Sequence[Atoms], size: int) -> Iterator[list[Atoms]]:
    """Runs of at most `size` frames that are all periodic or all not."""
    batch: list[Atoms] = []
    for atoms in frames:
        if batch and (len(batch) == size or _periodic(atoms) != _periodic(batch[0])):
            yield batch
            batch = []
        batch.append(atoms)
    if batch:
        yield batch


def _periodic(atoms: Atoms) -> bool:
    if atoms.pbc.any() and not atoms.pbc.all():
        raise InputError(
            f"frame {atoms.get_chemical_formula()} has pbc {atoms.pbc.tolist()}: "
            "periodic in all directions or in none is supported"
        )
    return bool(atoms.pbc.all())


def _as_state(frames: Sequence[Atoms], wrapper: BatchedMace) -> _Frames:
    device, dtype = wrapper.device, wrapper.dtype
    sizes = torch.tensor([len(atoms) for atoms in frames], device=device)
    return _Frames(
        positions=torch.tensor(
            np.concatenate([atoms.positions for atoms in frames]), dtype=dtype, device=device
        ),
        atomic_numbers=torch.tensor(
            np.concatenate([atoms.numbers for atoms in frames]), dtype=torch.long, device=device
        ),
        system_idx=torch.repeat_interleave(torch.arange(len(frames), device=device), sizes),
        cell=torch.tensor(
            np.stack([atoms.cell.array.T for atoms in frames]), dtype=dtype, device=device
        ),
        pbc=_periodic(frames[0]),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _symbols(elements: Sequence[int] | set[int]) -> str:
    return ", ".join(chemical_symbols[z] for z in sorted(elements))
