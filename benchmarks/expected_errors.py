"""Are expected force errors right?

The models and frames of `signal_truth`. The curve of the latent distance is fitted to 20 held-out
frames, as in a first generation; then expected errors are held against true ones where the
model's dynamics went, or on published frames.

1. `low`, `middle`, `top`: mean expected over mean true error, of the half of the atoms nearest to
   what was learned, the next 40 %, and the farthest tenth; 1 is right.
2. `bad_flagged`, `good_flagged`: part of the atoms wrong by over 0.5 eV/Å, and of the others, whose
   expected error is over it. `auroc`: of these two.
3. `frames_rank`: Spearman's correlation over frames of the mean expected and the mean true error.
   `worst_expected`: mean true error of the 20 frames that are expected to be worst, over that of
   all; `worst`: of the 20 that are.

Of reactions, atoms that have left all others are inside the domain, as in campaigns that label free
atoms; `without_free_atoms` has the same without.

    python benchmarks/expected_errors.py --only ethanol      cells whose names begin so
    python benchmarks/expected_errors.py --data FOLDER       with channels of the published set
    python benchmarks/expected_errors.py --summary           no computing: by system, over models

Frames and models are those that `signal_truth` keeps in benchmarks/work, and made where they are
missing. Numbers go to benchmarks/results/expected_errors.json.

Not for: which signals see wrong forces (see `signal_truth`).
"""

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from halcyon import files
from halcyon.config import DomainSettings
from halcyon.domain.calibration import distances_of_atoms, fit_domain
from halcyon.domain.curves import Pairs
from halcyon.domain.expected import ExpectedErrors, fit_expected
from halcyon.domain.samples import Sample, Samples
from halcyon.domain.signals import make_signal
from halcyon.models import mace
from halcyon.models.domains import descriptors_of_free_atoms
from signal_truth import TABLE_WIDTH, WORK, grid
from signals.systems import Frames, frames_of
from signals.visits import Case, model_of, visited

OUT = Path(__file__).resolve().parent / "results" / "expected_errors.json"
SIGNAL = "latent"
TOLERANCE_EV_PER_A = 0.5
PARTS = {"low": (0.0, 0.5), "middle": (0.5, 0.9), "top": (0.9, 1.0)}
SEED = 1
WORST = 20
"""Frames: as many as a generation selects by default."""
SHOWN = ("auroc", "bad_flagged", "good_flagged", *PARTS, "frames_rank", "worst_expected", "worst")


def pairs_of(case: Case, frames: Frames, work: Path, *, free_atoms: bool) -> tuple[Pairs, Pairs]:
    """Latent distances and errors of held-out atoms, and of those that a model is judged on.

    Args:
        case: of the model.
        frames: of its system.
        work: where models and frames are kept.
        free_atoms: whether atoms that have left all others are inside the domain, as where free
            atoms are labelled.
    """
    model = mace.load(model_of(case, frames, work), device="cpu")
    parts = frames.train[: case.labels], frames.validation, visited(case, frames, work).frames
    train, held_out, judged = (Sample.of(part, mace.evaluate(model, part)) for part in parts)
    structures = {atoms.info["structure"] for part in parts for atoms in part}
    domain = fit_domain(
        Samples(
            train=train,
            teacher=train[:0],
            held_out=held_out,
            check=held_out,
            free=descriptors_of_free_atoms(model, parts[0]) if free_atoms else {},
        ),
        classes={name: frames.classes[name] for name in structures},
        bonds={name: [] for name in structures},
        settings=DomainSettings(),
        seed=SEED,
    )
    signal = make_signal(domain, SIGNAL, ())

    def pairs(sample: Sample) -> Pairs:
        sizes = [len(atoms) for atoms in sample.frames]
        wrong = zip(sample.frames, sample.forces, strict=True)
        return Pairs(
            distances={SIGNAL: np.concatenate(distances_of_atoms(signal, sample))},
            error=np.concatenate(
                [np.linalg.norm(forces - atoms.arrays["forces"], axis=1) for atoms, forces in wrong]
            ),
            classes=np.concatenate(
                [frames.classes[atoms.info["structure"]] for atoms in sample.frames]
            ),
            frame=np.repeat(np.arange(len(sizes)), sizes),
            weight=np.ones(sum(sizes)),
        )

    return pairs(held_out), pairs(judged)


def expectation(held_out: Pairs) -> ExpectedErrors:
    """What held-out atoms let expect, as in a first generation."""
    names = [str(name) for name in np.unique(held_out.classes)]
    # Classes by symmetry, "ethanol:H0", are of H; the others are elements.
    elements = {name: name.rpartition(":")[2].rstrip("0123456789") for name in names}
    return fit_expected(held_out, elements, tolerance_eV_per_A=TOLERANCE_EV_PER_A, seed=SEED)


def judged(expected: ExpectedErrors, seen: Pairs) -> dict[str, Any]:
    """Expected errors against true ones; see the module for the keys."""
    errors = expected.at(seen.distances, seen.classes.tolist())
    flagged, bad = errors > TOLERANCE_EV_PER_A, seen.error > TOLERANCE_EV_PER_A
    order = np.argsort(seen.distances[SIGNAL], kind="stable")
    ratios = {}
    for name, (begin, end) in PARTS.items():
        rows = order[int(begin * len(order)) : int(end * len(order))]
        ratios[name] = float(errors[rows].mean() / seen.error[rows].mean())
    of_frame = np.bincount(seen.frame)
    foretold, true = (np.bincount(seen.frame, part) / of_frame for part in (errors, seen.error))
    return ratios | {
        "frames_rank": float(spearmanr(foretold, true).statistic),
        "worst_expected": float(true[np.argsort(-foretold)[:WORST]].mean() / true.mean()),
        "worst": float(np.sort(true)[-WORST:].mean() / true.mean()),
        "auroc": float(roc_auc_score(bad, errors)),
        "bad_flagged": float(flagged[bad].mean()),
        "good_flagged": float(flagged[~bad].mean()),
        "bad": int(bad.sum()),
        "atoms": len(bad),
    }


def table(cells: dict[str, dict[str, Any]]) -> Table:
    """Means over models of each system, place and kind of model, and the range of AUROC."""
    places: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, cell in cells.items():
        places[name.rpartition("-")[0]].append(cell)
    shown = Table("models of", "models", *SHOWN, "auroc, least and greatest", "without free atoms")
    for place, of_place in places.items():
        means = (np.mean([c[key] for c in of_place if key in c] or [np.nan]) for key in SHOWN)
        every = [cell["auroc"] for cell in of_place]
        ends = f"{min(every):.2f}–{max(every):.2f}"
        without = [c[key]["auroc"] for c in of_place if (key := "without_free_atoms") in c]
        last = f"{np.mean(without):.2f}" if without else ""
        shown.add_row(place, str(len(of_place)), *(f"{m:.2f}" for m in means), ends, last)
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute all cells that can be computed, print and write them."""
    first, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=first, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the published set")
    parser.add_argument("--work", type=Path, metavar="DIR", default=WORK, help="frames and models")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NAME", help="begin so"
    )
    parser.add_argument("--summary", action="store_true", help="compute nothing: read the numbers")
    parser.add_argument("--out", type=Path, metavar="FILE", default=OUT, help="of the numbers")
    args = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    cells = files.read_json(args.out) if args.out.exists() else {}
    for case in () if args.summary else grid():
        if not case.name.startswith(tuple(args.only) or "") or (
            case.system.channel and not args.data
        ):
            continue
        frames, reactive = frames_of(case.system, args.work, args.data), bool(case.system.channel)
        held_out, seen = pairs_of(case, frames, args.work, free_atoms=reactive)
        cells[case.name] = judged(expectation(held_out), seen)
        if reactive:
            held_out, seen = pairs_of(case, frames, args.work, free_atoms=False)
            cells[case.name]["without_free_atoms"] = judged(expectation(held_out), seen)
        print(case.name, json.dumps(cells[case.name]), flush=True)
        files.write_json(args.out, cells)
    console = Console()
    if not console.is_terminal:
        console = Console(width=TABLE_WIDTH)
    console.print(table(cells))


if __name__ == "__main__":
    main()
