"""Draw the figures of docs/concepts.md from a finished quickstart: real data, no sketch.

    python docs/figures/draw.py --campaign results/quickstart/campaign.json --system ethanol

Not for: the loop (`loop.svg`, drawn by hand), or a campaign's own page.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from halcyon.campaign.campaign import Campaign
from halcyon.domain.intervals import Domain
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather
from halcyon.models import mace

HERE = Path(__file__).parent
LABEL, GUARD, OUT = "#2a6f97", "#adb5bd", "#c1121f"
STYLE = {
    "svg.hashsalt": "halcyon",  # the same data give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def domains(folder: Path, campaign: Campaign, system: str) -> None:
    """Atomic energies on the teacher's frames, on labels, and where the exploration went.

    Drawn is the atom that most candidates of generation 0 have outside the label domain.
    """
    plan = campaign.systems[system]
    classes = plan.classes(plan.explored[0])
    model = mace.load(folder / "gen000/model.model", device="cpu", dtype="float64")
    labels = gather(sorted((folder / "seed/labels").glob("*.parquet")))["train"]
    taught = read_frames(folder / "teacher/frames.parquet")
    went = read_frames(folder / "gen000/candidates.parquet")
    every = [np.array(mace.evaluate(model, f).node_energy) for f in (taught, labels, went)]
    tier = Domain.read(folder / "gen000/domain.json").tier("label")
    low, high = np.array([tier[name] for name in classes]).T
    atom = int(((every[2] < low) | (every[2] > high)).sum(axis=0).argmax())
    name, interval = classes[atom], (low[atom], high[atom])
    energies = [values[:, atom] for values in every]
    figure, axes = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
    heads = ("teacher's frames", "labelled frames", "candidates of generation 0")
    random = np.random.default_rng(1)
    outside = (energies[2] < interval[0]) | (energies[2] > interval[1])
    colours = [GUARD, LABEL, np.where(outside, OUT, LABEL)]
    for row, (values, colour) in enumerate(zip(energies, colours, strict=True)):
        spots = 2 - row + random.uniform(-0.22, 0.22, len(values))
        axes.scatter(values, spots, s=6, c=colour, linewidths=0)
    axes.axvspan(*interval, color=LABEL, alpha=0.15, lw=0)
    axes.set_yticks([2, 1, 0], heads)
    axes.set_xlabel(f"$E_i$ of {name}, predicted by the model of generation 0, eV")
    width = interval[1] - interval[0]
    axes.set_xlim(interval[0] - 1.5 * width, interval[1] + 3 * width)
    figure.savefig(HERE / "domains.svg", metadata={"Date": None})


def index(folder: Path) -> None:
    """Λ of every replica, first and last generation, with λ as its slope."""
    generations = sorted(folder.glob("gen*/traces.parquet"))
    pair = [generations[0], generations[-1]]
    figure, both = plt.subplots(1, 2, figsize=(6.4, 2.6), sharey=True, layout="constrained")
    for axes, path in zip(both, pair, strict=True):
        traces = pd.read_parquet(path)
        for _, one in traces.groupby("replica"):
            axes.plot(one["time"], 1000 * one["cli_label"], color=LABEL, lw=1)
        axes.set_title(f"generation {int(path.parent.name[3:])}", fontsize=9)
        axes.set_xlabel("time, ps")
        axes.set_ylim(bottom=0)
    both[0].set_ylabel("Λ, fs per atom")
    figure.savefig(HERE / "lambda.svg", metadata={"Date": None})


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaign", type=Path, required=True, help="its campaign.json")
    parser.add_argument("--system", required=True)
    arguments = parser.parse_args()
    mpl.use("svg")
    plt.rcParams.update(STYLE)
    folder = arguments.campaign.parent / arguments.system
    index(folder)
    domains(folder, Campaign.read(arguments.campaign), arguments.system)


if __name__ == "__main__":
    main()
