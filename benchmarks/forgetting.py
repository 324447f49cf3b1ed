"""What does a fine-tuning forget, and what do replay, frozen layers and adapters save of it?

A small "foundation" model learns four molecules from GFN1-xTB: methanol, dimethyl ether, ethane and
water, frames of hot dynamics, displaced and stretched ones. It is fine-tuned on 50 labels of
ethanol by GFN2-xTB, 500 K, in several ways, each with several seeds of the fine-tuning. Measured:
force errors on ethanol and on the old molecules, walls, and how many replicas survive at 1000 K.

    python benchmarks/forgetting.py                         all cells, or go on where it stopped
    python benchmarks/forgetting.py --only lora             ways whose names begin so
    python benchmarks/forgetting.py --summary               no computing: the table

Two runs started at once share the cells. Frames and models are kept in benchmarks/work, which git
ignores; each cell is a JSON file in benchmarks/results/forgetting.

Not for: published foundation models, whose training sets and sizes are another matter.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.io import iread, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.neighborlist import natural_cutoffs, neighbor_list
from tblite.ase import TBLite

from halcyon import files
from halcyon.config import ExplorationSettings, ModelSettings, PretrainingSettings, TrainingSettings
from halcyon.exploration.dynamics import Dynamics, Replica
from halcyon.models import forgetting, mace, replay, training
from halcyon.models.batched import BatchedMace

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "forgetting"
WORK = ROOT / "benchmarks" / "work" / "forgetting"
OLD = ("CH3OH", "CH3OCH3", "C2H6", "H2O")
NEW = "CH3CH2OH"
ELEMENTS = [1, 6, 8]
SEED = 20261121
SEEDS = (1, 2, 3)
MODEL = ModelSettings()
FIT = TrainingSettings(updates=(500, 500))
REPLAYED = 200
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "replay-0.1": {"replay": 0.1},
    "replay-0.1-and-old": {"replay": 0.1, "old": True},
    "replay-1-and-old": {"replay": 1.0, "old": True},
    "freeze-interactions": {"freeze": "interactions"},
    "freeze-all-but-readouts": {"freeze": "all_but_readouts"},
    "lora-4": {"lora_rank": 4},
}
REPLICAS, TIME_PS, KELVIN = 8, 2.0, 1000.0
LONGEST = 1.8
"""A replica has failed when a bond is so many times as long as at the start."""


def dynamics(start: Atoms, method: str, kelvin: float, *, frames: int, seed: int) -> list[Atoms]:
    """Geometries of Langevin dynamics, every 20 fs, the first 200 fs left out."""
    random = np.random.default_rng(seed)
    atoms = start.copy()
    atoms.calc = TBLite(method=method, verbosity=0)
    thermalize_momenta(atoms, temperature_K=kelvin, rng=random)
    run = Langevin(
        atoms, 1.0 * units.fs, temperature_K=kelvin, friction=0.01 / units.fs, rng=random
    )
    run.run(200)
    kept = []
    for _ in range(frames):
        run.run(20)
        kept.append(Atoms(atoms.numbers, atoms.positions))
    return kept


def walls(frames: Sequence[Atoms], *, number: int, seed: int) -> list[Atoms]:
    """Copies with displaced atoms, and as many with one atom moved along a bond."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        atoms = frames[int(random.integers(len(frames)))].copy()
        atoms.positions += random.normal(scale=random.uniform(0.05, 0.3), size=(len(atoms), 3))
        made.append(atoms)
        atoms = frames[int(random.integers(len(frames)))].copy()
        first, second = bonds(atoms)[int(random.integers(len(bonds(atoms))))]
        vector = atoms.positions[second] - atoms.positions[first]
        atoms.positions[second] += (random.uniform(0.7, 1.5) - 1) * vector
        made.append(atoms)
    return made


def bonds(atoms: Atoms) -> list[tuple[int, int]]:
    """Pairs of indices."""
    i, j = neighbor_list("ij", atoms, natural_cutoffs(atoms, mult=1.25))
    return [(int(a), int(b)) for a, b in zip(i, j, strict=True) if a < b]


def labelled(frames: Sequence[Atoms], method: str) -> list[Atoms]:
    """Frames with energies and forces; those with a force over 50 eV/Å are left out."""
    kept = []
    for atoms in frames:
        atoms.calc = TBLite(method=method, verbosity=0)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = None
        if np.linalg.norm(forces, axis=1).max() < 50:
            atoms.info["energy"], atoms.arrays["forces"] = float(energy), forces
            kept.append(atoms)
    return kept


def frame_sets() -> dict[str, list[Atoms]]:
    """All frames, made once."""
    names = ("foundation", "old_test", "train", "validation", "test", "hot", "own")
    paths = {name: WORK / f"{name}.xyz" for name in names}
    if not all(path.exists() for path in paths.values()):
        sets: dict[str, list[Atoms]] = {"foundation": [], "old_test": []}
        for number, name in enumerate(OLD):
            run = dynamics(molecule(name), "GFN1-xTB", 800, frames=60, seed=SEED + number)
            shown = [*run[:45], *walls(run, number=20, seed=number)]
            sets["foundation"] += labelled(shown, "GFN1-xTB")
            sets["old_test"] += labelled(run[45:], "GFN1-xTB")
        calm = dynamics(molecule(NEW), "GFN2-xTB", 500, frames=120, seed=SEED)
        labels = labelled(calm, "GFN2-xTB")
        order = np.random.default_rng(SEED).permutation(len(labels))
        picked = [labels[i] for i in order]
        sets |= {"train": picked[:50], "validation": picked[50:70], "test": picked[70:]}
        hot = dynamics(molecule(NEW), "GFN2-xTB", 1000, frames=40, seed=SEED + 9)
        sets["hot"] = labelled(hot, "GFN2-xTB")
        own = dynamics(molecule(NEW), "GFN1-xTB", 800, frames=60, seed=SEED + 10)
        sets["own"] = [*own, *walls(own, number=30, seed=10)]
        for name, path in paths.items():
            with files.replacing(path) as temporary:
                write(temporary, sets[name], format="extxyz")
    return {name: _read(path) for name, path in paths.items()}


def _read(path: Path) -> list[Atoms]:
    frames = list(iread(path, ":", format="extxyz"))
    for atoms in frames:
        if atoms.calc is not None:
            atoms.arrays["forces"] = atoms.calc.results["forces"]
            atoms.info["energy"] = float(atoms.calc.results["energy"])
            atoms.calc = None
        atoms.info |= {"charge": 0, "multiplicity": 1, "structure": str(atoms.symbols)}
    return frames


def foundation(sets: dict[str, list[Atoms]]) -> Path:
    """The model to start from, made once."""
    path = WORK / "foundation.model"
    if not path.exists():
        fit = PretrainingSettings(epochs=40)
        recipe = training.Recipe(elements=ELEMENTS, model=MODEL, fit=fit, seed=SEED)
        training.train(
            sets["foundation"], sets["old_test"], recipe, out=path, work=WORK / "foundation"
        )
    return path


def cell(way: str, seed: int, sets: dict[str, list[Atoms]], start: Path) -> dict[str, Any]:
    """Fine-tune once, and measure."""
    options = WAYS[way]
    before = mace.load(start, device="cpu", dtype="float64")
    replayed = replay.drawn(sets["own"], number=REPLAYED, seed=seed)
    if options.get("old"):
        replayed += replay.drawn(sets["foundation"], number=REPLAYED, seed=seed)
    frames, dropped = replay.labelled(before, replayed, cap_eV_per_A=100.0)
    recipe = training.Recipe(
        elements=ELEMENTS, model=MODEL, fit=FIT, seed=seed, start=start,
        freeze=options.get("freeze", "nothing"), lora_rank=options.get("lora_rank", 0),
    )  # fmt: skip
    path = WORK / f"{way}-{seed}.model"
    summary = training.train(
        sets["train"],
        sets["validation"],
        recipe,
        out=path,
        work=WORK / f"{way}-{seed}",
        replay=training.Replay(frames, options.get("replay", 0.0)),
    )
    return {
        "way": way,
        "seed": seed,
        "seconds": summary.seconds,
        "replay_frames_dropped": dropped,
    } | measured(path, before, sets)


def measured(path: Path, before: torch.nn.Module, sets: dict[str, list[Atoms]]) -> dict[str, Any]:
    """Errors, walls and stability of a model."""
    after = mace.load(path, device="cpu", dtype="float64")
    errors = {
        f"{name}_forces_mae_meV_per_A": mace.errors(mace.evaluate(after, sets[name]), sets[name])[
            "forces_mae_meV_per_A"
        ]
        for name in ("test", "hot", "old_test")
    }
    start = molecule(NEW)
    scans = [
        *forgetting.dimers(ELEMENTS),
        *forgetting.bond_stretches(NEW, start, bonds(start), start.get_chemical_symbols()),
    ]
    frames = forgetting.frames_of(scans)
    energies = (
        [nodes.sum() for nodes in mace.evaluate(model, frames).node_energy]
        for model in (before, after)
    )
    found = forgetting.compared(scans, *energies)
    return errors | {
        "dimers_rms_above_eV": found.median_rms_above("dimer"),
        "bonds_rms_above_eV": found.median_rms_above("bond"),
        "dimer_walls_that_turn": sum(
            s.turns_after_A is not None for s in found.scans if s.kind == "dimer"
        ),
        "survivors_of_8_at_1000K_2ps": survivors(path),
    }


def survivors(path: Path) -> int:
    """Replicas of `REPLICAS` whose bonds last."""
    start = molecule(NEW)
    pairs = np.array(bonds(start)).T
    lengths = torch.tensor(
        np.linalg.norm(start.positions[pairs[0]] - start.positions[pairs[1]], axis=1)
    )
    settings = ExplorationSettings(ensemble="nvt", timestep_fs=0.5)
    run = Dynamics(BatchedMace(mace.load(path, device="cpu")), settings, seed=SEED)
    replicas = [Replica(number, KELVIN, start) for number in range(REPLICAS)]
    state = run.begin(replicas)
    run.lay_out(state, replicas, began=[0] * REPLICAS)
    alive = torch.ones(REPLICAS, dtype=torch.bool)
    for step in range(int(TIME_PS * 1000 / 0.5)):
        state = run.step(state, step=step)
        positions = state.positions.detach().double().reshape(REPLICAS, len(start), 3)
        now = torch.linalg.vector_norm(positions[:, pairs[0]] - positions[:, pairs[1]], dim=-1)
        alive &= (now < LONGEST * lengths).all(1)  # false for NaN, too
    return int(alive.sum())


def summary() -> None:
    """Print the table: mean over seeds, with least and greatest."""
    cells = [files.read_json(path) for path in sorted(RESULTS.glob("*.json"))]
    keys = [k for k in cells[0] if k not in ("way", "seed", "replay_frames_dropped")]
    print("| way | seeds |", " | ".join(keys), "|")
    for way in ("start", *WAYS):
        rows = [c for c in cells if c["way"] == way]
        texts = []
        for key in keys if rows else ():
            values = np.array([row[key] for row in rows if row.get(key) is not None])
            spread = f" ({values.min():.3g}–{values.max():.3g})" if len(values) > 1 else ""
            texts.append(f"{values.mean():.3g}{spread}" if len(values) else "–")
        if rows:
            print(f"| {way} | {len(rows)} |", " | ".join(texts), "|")


def main() -> None:
    """Compute what is missing, and print the table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--only", default="", help="beginning of the ways' names")
    arguments.add_argument("--summary", action="store_true", help="only print the table")
    args = arguments.parse_args()
    if not args.summary:
        WORK.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        sets = frame_sets()
        start = foundation(sets)
        if not (RESULTS / "start.json").exists():
            before = mace.load(start, device="cpu", dtype="float64")
            content = {"way": "start", "seed": 0, "seconds": 0.0} | measured(start, before, sets)
            files.write_json(RESULTS / "start.json", content)
        for seed in SEEDS:
            for way in WAYS:
                path, taken = RESULTS / f"{way}-{seed}.json", WORK / f"{way}-{seed}.taken"
                if not way.startswith(args.only) or path.exists() or taken.exists():
                    continue
                taken.touch()
                try:
                    files.write_json(path, cell(way, seed, sets, start))
                finally:
                    taken.unlink()
                print(path.name, flush=True)
    summary()


if __name__ == "__main__":
    main()
