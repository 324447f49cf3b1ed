"""Is a verdict true? Campaigns on a published set, and the final model on frames they never saw.

A campaign takes its labels from published frames of one reaction channel (backend `dataset`), and
ends with a verdict. Here the verdicts of its generations stand beside the error of its last model
on published frames of the same channel that it has not learned from:

1. `aimd`: frames of ab initio dynamics, where the set has them; no campaign is given those;
2. `nm`: frames displaced along normal modes, less those that the campaign labelled.

    python benchmarks/retrospective.py --data FOLDER results/channel-11-500K ...   make the cells
    python benchmarks/retrospective.py                                             what they say

The set is "A Benchmark Data Set for Hydrogen Combustion" (X. Guan et al., Sci. Data 9, 215, 2022),
which is not part of this repository: `--data` names the folder with its files, `11_nm.npz` and so
on. A campaign is of one system named `ch11`, explored at one temperature, with

    reference: {backend: dataset, files: [11_irc.npz, 11_nm.npz], energy_unit: kcal/mol}

Not for: which signals see wrong forces (see `signal_truth`), or whether verdicts are true of the
model's own dynamics (see `verdict_truth`).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from halcyon import files
from halcyon.config import DatasetLayout
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key
from halcyon.labels.published import read_set
from halcyon.models import mace

RESULTS = Path(__file__).resolve().parent / "results" / "retrospective"
SCHEMA = 1
KINDS = ("aimd", "nm")
FORCE_CAP_EV_PER_A = 20.0
"""Published frames with a greater force on an atom are left out: no dynamics comes there."""
MOST_FRAMES = 1000
"""Of a kind, drawn at random."""
RESAMPLES, SEED = 500, 20261129


def cell_of(campaign: Path, data: Path) -> dict[str, Any]:
    """What a campaign said generation by generation, and what is true of its last model.

    Args:
        campaign: its folder of results.
        data: folder of the published set.

    Raises:
        InputError: it has no generation that ended, or its system is no channel.
    """
    folders = [path for path in campaign.iterdir() if (path / "seed").is_dir()]
    if len(folders) != 1 or not folders[0].name.startswith("ch"):
        raise InputError(f"{campaign}: expected results of one system, named ch11 or the like")
    channel = folders[0].name.removeprefix("ch")
    ended = sorted(folders[0].glob("gen*/verdict.json"))
    if not ended:
        raise InputError(f"{campaign}: no generation has ended: run the campaign first")
    verdicts = [files.read_json(path) for path in ended]
    model = mace.load(ended[-1].parent / "model.model", device="cpu")
    known = {
        structure_key(atoms)
        for path in folders[0].glob("*/labels/*.parquet")
        for atoms in read_frames(path)
    }
    return {
        "schema": SCHEMA,
        "channel": channel,
        "temperature_K": verdicts[-1]["explored"]["temperatures_K"][0],
        "ended": verdicts[-1]["decision"] != "continue",
        "generations": [
            _generation(verdict, files.read_json(path.parent / "metrics.json"))
            for verdict, path in zip(verdicts, ended, strict=True)
        ],
        "truth": {
            kind: errors(model, _unseen(path, known))
            for kind in KINDS
            if (path := data / f"{channel}_{kind}.npz").is_file()
        },
    }


def _generation(verdict: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """What a generation's verdict said; of the audit, its worst part; `{}` without any."""
    calm, audit = verdict["saturation"], verdict["audit"]
    part = max(calm["parts"], key=lambda part: part["events_bound_per_ns"] or np.inf)
    audited: dict[str, Any] = max(
        audit["parts"],
        key=lambda part: (part["forces_mae_meV_per_A"] or {"high": 0})["high"],
        default={},
    )
    return {
        "generation": verdict["generation"],
        "decision": verdict["decision"],
        "reason": verdict["reason"],
        "calm": calm["finding"],
        "events_bound_per_ns": part["events_bound_per_ns"],
        "unreliable_bound": part["unreliable_bound"],
        "bonds_changed": calm["bonds_changed"],
        "failed": calm["failed"],
        "audit": audit["finding"],
        "audit_frames": audited.get("frames", 0),
        "audit_forces_mae_meV_per_A": audited.get("forces_mae_meV_per_A") or {},
        "labels": verdict["labels"],
        "test_forces_mae_meV_per_A": metrics["test"]["forces_mae_meV_per_A"],
    }


def _unseen(path: Path, known: set[str]) -> list[Atoms]:
    """Frames of a file that a campaign did not label, at most `MOST_FRAMES` of them."""
    frames = [
        atoms
        for atoms in read_set(path, DatasetLayout(energy_unit="kcal/mol"))
        if np.linalg.norm(atoms.arrays["forces"], axis=1).max() < FORCE_CAP_EV_PER_A
    ]
    order = np.random.default_rng(SEED).permutation(len(frames))
    unseen = [i for i in order if structure_key(frames[i]) not in known]
    return [frames[i] for i in unseen[:MOST_FRAMES]]


def errors(model: Any, frames: Sequence[Atoms]) -> dict[str, Any]:
    """Force MAE over all components with its 95 % interval (bootstrap over frames), and more."""
    predicted = mace.evaluate(model, frames).forces
    wrong = [
        forces - atoms.arrays["forces"] for forces, atoms in zip(predicted, frames, strict=True)
    ]
    of_frame = 1000 * np.array([np.abs(error).mean() for error in wrong])
    of_atom = np.concatenate([np.linalg.norm(error, axis=1) for error in wrong])
    random = np.random.default_rng(SEED)
    drawn = of_frame[random.integers(len(frames), size=(RESAMPLES, len(frames)))].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {
        "frames": len(frames),
        "forces_mae_meV_per_A": {
            "value": float(of_frame.mean()),
            "low": float(low),
            "high": float(high),
        },
        "forces_median_meV_per_A": float(np.median(of_frame)),
        "atoms_over_0.5_eV_per_A": float((of_atom > 0.5).mean()),
    }


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Generations of all cells as a table of Markdown, the truth beside the last of each."""
    lines = [
        "| channel | T / K | generation | learned | test | audit (frames) | events bound / ns⁻¹ "
        "| verdict | ab initio dynamics | normal modes |",
        "|" + "---|" * 10,
    ]
    for cell in cells:
        for said in cell["generations"]:
            last = said is cell["generations"][-1]
            truth = [_interval(cell["truth"].get(kind)) if last else "" for kind in KINDS]
            audit = said["audit_forces_mae_meV_per_A"]
            lines.append(
                f"| {cell['channel']} | {cell['temperature_K']:g} | {said['generation']} "
                f"| {said['labels']['train']} | {said['test_forces_mae_meV_per_A']:.0f} | "
                + (f"{audit['value']:.0f}, up to {audit['high']:.0f}" if audit else "–")
                + f" ({said['audit_frames']}) | {_number(said['events_bound_per_ns'])} "
                f"| {said['calm']}; audit: {said['audit']} | {truth[0]} | {truth[1]} |"
            )
    return "\n".join(lines)


def _interval(truth: dict[str, Any] | None) -> str:
    if truth is None:
        return "–"
    mae = truth["forces_mae_meV_per_A"]
    return f"{mae['value']:.0f} ({mae['low']:.0f}–{mae['high']:.0f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make cells of the campaigns named, and print the table of all."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaigns", nargs="*", type=Path, metavar="DIR", help="folders of results")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the published set")
    parser.add_argument("--cells", type=Path, metavar="DIR", default=RESULTS, help="of the cells")
    args = parser.parse_args(arguments)
    try:
        if args.campaigns and args.data is None:
            raise InputError("--data: name the folder of the published set")
        for campaign in args.campaigns:
            cell = cell_of(campaign, args.data)
            name = f"channel-{cell['channel']}_{cell['temperature_K']:g}K.json"
            files.write_json(args.cells / name, cell)
    except InputError as error:
        sys.exit(str(error))
    cells = [files.read_json(path) for path in sorted(args.cells.glob("*.json"))]
    print(table(cells) if cells else f"{args.cells}: no cell yet")


if __name__ == "__main__":
    main()
