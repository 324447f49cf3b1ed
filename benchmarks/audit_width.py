"""How much narrower is the audit's interval with errors that the index foretells? Does it hold?

All random frames of each generation of a finished campaign are labelled by its reference, so that
the true mean error is known. Then as many as an audit has are drawn of them again and again, and
both intervals are made: the plain one, and the prediction-powered one of the index.

    python benchmarks/audit_width.py results/quickstart/campaign.json
    python benchmarks/audit_width.py results/quickstart/campaign.json --frames 10 20
    python benchmarks/audit_width.py results/quickstart/campaign.json --of 60 --json audit.json

Labels are kept in the campaign's store, so that a second run computes none. `width` is that of the
two-sided 90 % interval in meV/Å (median of the draws), `holds` how often the true mean is under the
95 % upper end, `correlation` that of foretold and true errors of frames.

Not for: whether a whole verdict holds (see `verdict_truth`), or a second Hamiltonian.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from rich.console import Console
from rich.table import Table

from halcyon.campaign.campaign import Campaign
from halcyon.domain.intervals import Domain
from halcyon.exploration.generation import Watched, foretell
from halcyon.frames import read_frames, structure_only
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference import Status
from halcyon.labels.store import LabelStore
from halcyon.models import mace
from halcyon.verdict.audit import group_of
from halcyon.verdict.between_replicas import Predicted, mean_interval, powered_interval

DRAWS, SEED, CONFIDENCE = 300, 20261129, 0.95


def labels_of(campaign: Campaign, system: str, frames: Sequence[Atoms]) -> list[Atoms]:
    """The frames as the campaign's reference labels them; some may have failed."""
    reference = campaign.reference()
    labeller = Labeller(
        reference=reference,
        store=LabelStore(campaign.settings.label_store, reference.level),
        work=campaign.work(system, "start", "audit_width"),
        cores=1,
        provenance={"campaign": campaign.settings.campaign, "system": system},
        systemic=False,
    )
    return labeller.label([structure_only(frame) for frame in frames])


def errors_of(
    campaign: Campaign, system: str, folder: Path, most: int
) -> dict[tuple[str, float], dict[str, np.ndarray]]:
    """True and foretold errors of a generation's random frames, by structure and temperature.

    Returns:
        `error` and `foretold`, eV/Å, and `replica` of the frames that got a label, in the order of
        their draws.
    """
    plan = campaign.systems[system]
    model = mace.load(folder / "model.model", device="cpu", dtype=plan.settings.model.dtype)
    domain = Domain.read(folder / "domain.json")
    groups: dict[tuple[str, float], list[Atoms]] = defaultdict(list)
    for frame in sorted(
        read_frames(folder / "reservoir.parquet"), key=lambda frame: frame.info["draw"]
    ):
        if len(groups[group_of(frame)]) < most:
            groups[group_of(frame)].append(frame)
    found = {}
    for group, frames in groups.items():
        foretold = foretell(frames, Watched(model=model, domain=domain, system_kind="molecule"))
        labels = labels_of(campaign, system, frames)
        predictions = mace.evaluate(model, frames).forces
        rows = [
            (
                float(np.abs(predicted - label.arrays["forces"]).mean()),
                expected.forces_mae_eV_per_A,
                frame.info["replica"],
            )
            for frame, expected, label, predicted in zip(
                frames, foretold, labels, predictions, strict=True
            )
            if label.info["status"] == Status.OK and expected.forces_mae_eV_per_A is not None
        ]
        error, expectation, replica = (np.array(column) for column in zip(*rows, strict=True))
        found[group] = {"error": error, "foretold": expectation, "replica": replica}
    return found


def compare(of: dict[str, np.ndarray], number: int) -> dict[str, Any]:
    """Both intervals of audits of `number` frames, drawn again and again."""
    random = np.random.default_rng(SEED)
    error, foretold, replica = of["error"], of["foretold"], of["replica"]
    truth, ends = float(error.mean()), defaultdict(list)
    for _ in range(DRAWS):
        order = random.permutation(len(error))
        audit, others = order[:number], order[number:]
        if len(set(replica[audit].tolist())) < 2:
            continue
        predicted = Predicted(
            measured=foretold[audit], others=foretold[others], replicas=replica[others]
        )
        ends["plain"].append(mean_interval(error[audit], replica[audit], CONFIDENCE))
        powered, _ = powered_interval(error[audit], replica[audit], predicted, CONFIDENCE)
        ends["index"].append(powered)
    return {
        "frames": number,
        "of": len(error),
        "true_forces_mae_meV_per_A": 1000 * truth,
        "correlation": float(np.corrcoef(error, foretold)[0, 1]),
        **{
            way: {
                "width_meV_per_A": 1000 * float(np.median([i.high - i.low for i in intervals])),
                "upper_end_meV_per_A": 1000 * float(np.median([i.high for i in intervals])),
                "holds": float(np.mean([truth <= i.high for i in intervals])),
            }
            for way, intervals in ends.items()
        },
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """What a person looks at."""
    shown = Table(title="Audits drawn again and again: interval of the mean force error, meV/Å")
    shown.caption = "width, upper end, and how often the true mean is under it"
    for column in ("gen", "place", "frames", "true", "corr.", "by labels alone", "with the index"):
        shown.add_column(column)
    for row in rows:
        shown.add_row(
            str(row["generation"]),
            f"{row['structure']}, {row['temperature_K']:g} K",
            f"{row['frames']} of {row['of']}",
            f"{row['true_forces_mae_meV_per_A']:.1f}",
            f"{row['correlation']:.2f}",
            *(
                f"{way['width_meV_per_A']:.1f}, {way['upper_end_meV_per_A']:.1f} "
                f"({100 * way['holds']:.0f} %)"
                for way in (row["plain"], row["index"])
            ),
        )
    return shown


def main(command_line: Sequence[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("campaign", type=Path, help="campaign.json of a campaign")
    parser.add_argument("--system", help="(default: its first)")
    parser.add_argument("--generations", nargs="+", type=int, metavar="N", help="(default: all)")
    parser.add_argument("--frames", nargs="+", type=int, default=[10], help="of an audit (10)")
    parser.add_argument("--of", type=int, default=200, help="random frames to label at most (200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    arguments = parser.parse_args(command_line)
    campaign = Campaign.read(arguments.campaign)
    system = arguments.system or next(iter(campaign.systems))
    rows = []
    for folder in sorted((campaign.folder / system).glob("gen*")):
        generation = int(folder.name[3:])
        if arguments.generations and generation not in arguments.generations:
            continue
        for (structure, kelvin), of in errors_of(campaign, system, folder, arguments.of).items():
            place = {"generation": generation, "structure": structure, "temperature_K": kelvin}
            rows += [place | compare(of, number) for number in arguments.frames]
            print(f"generation {generation}: {len(of['error'])} labels", file=sys.stderr)
    Console().print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
