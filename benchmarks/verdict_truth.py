"""Do the claims of a verdict hold? Small campaigns to their ends, each claim tried on new dynamics.

Each cell is a campaign of one system and seed. Where it ends `saturated`, its last verdict claims
three things of the model, each as an upper bound: how often replicas fail, how often events come,
and how wrong the forces are. The last model then runs 16 new replicas of 50 ps, and 100 frames
drawn from them at random are labelled. A claim holds if what is seen there is within its bound.

    python benchmarks/verdict_truth.py --list                 cells, and which are done
    python benchmarks/verdict_truth.py --json found.json      do them, or go on where it stopped
    python benchmarks/verdict_truth.py --only ethanol_1       cells whose names begin so
    python benchmarks/verdict_truth.py --summary --plots docs/figures    no computing: the cells
    python benchmarks/verdict_truth.py --smoke                minutes: does it run at all?

Cells are small JSON files in benchmarks/results/verdict_truth. A killed run goes on when it is
started again; two runs started at once share the cells.

Not for: whether the statistics are right on made-up bursts (see `verdict_simulation`).
"""

import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

import cells
from ground_states import labelled
from halcyon import files
from halcyon.campaign.campaign import Campaign
from halcyon.config import Settings
from halcyon.domain.intervals import Domain
from halcyon.exploration import starts
from halcyon.exploration.explore import Exploration, Monitoring, RunControl, explore
from halcyon.frames import read_frames
from halcyon.labels.labelling import gather
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.verdict.calm import calm_parts
from halcyon.verdict.forms import Decision, Verdict
from halcyon.verdict.runs import failures
from truth_figures import draw_verdicts

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "verdict_truth"
WORK = ROOT / "benchmarks" / "work" / "verdict_truth"
SCHEMA = 1
SEEDS = 7
DEAR = {"water12": 2, "hydrogen-combustion": 3}
"""Seeds of the systems whose cells are the dearest. In all there are 40 campaigns."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much each cell may cost."""

    replicas: int = 16
    time_ps: float = 50.0
    labels: int = 100
    generations: int = 6
    label_budget: int = 300
    whatever: bool = False  # try claims of a campaign that did not saturate, too
    more: tuple[tuple[str, Any], ...] = ()


SMOKE = Effort(
    replicas=2,
    time_ps=0.2,
    labels=5,
    generations=1,
    label_budget=80,
    whatever=True,
    more=(
        ("teacher", {"md_frames": 60, "displaced_frames": 10}),
        ("pretraining", {"epochs": 2}),
        ("training", {"epochs": 3, "updates": None}),
        ("seed_labels", {"train": 12, "validation": 8, "test": 5}),
    ),
)

SYSTEMS: dict[str, dict[str, Any]] = {
    "ethanol": {"folder": "config/systems"},
    "acetic_acid": {},
    "ethyl": {},  # a radical
    "acetate": {},  # an anion
    "methylammonium": {},  # a cation
    # Periodic GFN2-xTB takes ten times as long.
    "water12": {"method": "GFN1-xTB"},  # a liquid
    "hydrogen-combustion": {  # reactive
        "folder": "config/systems",
        "method": "GFN1-xTB",
        "spin_polarized": True,
    },
}


@dataclass(frozen=True)
class Cell:
    """A campaign of one system with one seed."""

    system: str
    seed: int

    @property
    def name(self) -> str:
        """E.g. `ethanol_1`."""
        return f"{self.system}_{self.seed}"

    def content(self, effort: Effort, work: Path) -> dict[str, Any]:
        """The campaign's configuration. All that is not named here is the default."""
        system = SYSTEMS[self.system]
        return {
            "campaign": self.name,
            "systems": [self.system],
            "systems_folder": str(ROOT / system.get("folder", "benchmarks/verdict_systems")),
            "reference": {
                "backend": "xtb",
                "method": system.get("method", "GFN2-xTB"),
                "spin_polarized": system.get("spin_polarized", False),
            },
            "results": str(work / self.name),
            "label_store": str(work / "labels"),
            "seed": 20261121 + self.seed,
            "limits": {
                "max_generations": effort.generations,
                "label_budget": effort.label_budget,
            },
            "certificate": {"when": "never"},
            **dict(effort.more),
        }


def grid() -> list[Cell]:
    """All cells, one seed of every system before the next."""
    return [
        Cell(system, seed)
        for seed in range(1, SEEDS + 1)
        for system in SYSTEMS
        if seed <= DEAR.get(system, SEEDS)
    ]


# A cell


def run_campaign(cell: Cell, effort: Effort, work: Path) -> tuple[Campaign, list[Verdict]]:
    """Run the campaign to its end, or go on; its verdicts by generation."""
    folder = work / cell.name
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "config.yaml"
    text = yaml.safe_dump(cell.content(effort, work))
    if not config.exists() or config.read_text() != text:
        config.write_text(text)
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    command += ["--directory", str(ROOT), "--quiet", "rules", "--nolock"]
    for _ in range(effort.generations):
        with (folder / "log").open("a") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd=ROOT)
        campaign = Campaign.read(folder / cell.name / "campaign.json")
        paths = sorted((campaign.folder / cell.system).glob("gen*/verdict.json"))
        verdicts = [Verdict.read(path) for path in paths]
        # A run that found work of former generations to do again ends with it, and says so.
        if verdicts[-1].decision is not Decision.CONTINUE:
            return campaign, verdicts
    raise RuntimeError(f"{folder / 'log'}: the campaign does not go on to an end")


def try_claims(
    campaign: Campaign, cell: Cell, verdict: Verdict, effort: Effort
) -> list[dict[str, Any]]:
    """What the last verdict claims, and what new dynamics and new labels say."""
    settings, folder = settings_of_trial(campaign, cell, verdict, effort)
    run, errors = new_dynamics(campaign, cell, settings, folder)
    claims = []
    rate = failures(run.replicas, confidence=0.95)
    if verdict.failures is not None:
        claims.append(claim("failures", "1/ps", verdict.failures.bound_per_ps, rate.rate_per_ps))
    seen = {
        (part.structure, part.temperature_K): part
        for part in calm_parts(run.traces, run.replicas, settings, confidence=0.95)
    }
    for part in verdict.saturation.parts:
        place = {"structure": part.structure, "temperature_K": part.temperature_K}
        observed = seen[part.structure, part.temperature_K]
        bound, rate_seen = part.events_bound_per_ns, observed.events_per_ns
        claims.append(claim("events", "1/ns and molecule", bound, rate_seen) | place)
    for audited in verdict.audit.parts if verdict.audit else []:
        place = {"structure": audited.structure, "temperature_K": audited.temperature_K}
        of_frames = errors[audited.structure, audited.temperature_K]
        error = 1000 * float(np.mean(of_frames)) if of_frames else None
        interval = audited.judged_forces_mae
        claims.append(
            claim("forces", "meV/Å", interval.high if interval else None, error)
            | place
            | {"frames": len(of_frames)}
        )
    return claims


def claim(kind: str, unit: str, bound: float | None, observed: float | None) -> dict[str, Any]:
    """A claim, and whether it holds; None: nothing was claimed, or nothing was seen."""
    held = None if bound is None or observed is None else bool(observed <= bound)
    return {"kind": kind, "unit": unit, "bound": bound, "observed": observed, "held": held}


def settings_of_trial(
    campaign: Campaign, cell: Cell, verdict: Verdict, effort: Effort
) -> tuple[Settings, Path]:
    """The campaign's settings with more and longer replicas; the folder of its last generation."""
    plan = campaign.systems[cell.system]
    exploration = plan.settings.exploration
    places = len(plan.explored) * len(exploration.temperatures_K)
    longer = {
        "time_ps": effort.time_ps,
        "replicas": effort.replicas * places,
        "replacements": 0,
    }
    reservoir = {"reservoir": -(-effort.labels // places)}
    settings = plan.settings.model_copy(
        update={
            "exploration": exploration.model_copy(update=longer),
            "audit": plan.settings.audit.model_copy(update=reservoir),
        }
    )
    return settings, campaign.folder / cell.system / f"gen{verdict.generation:03d}"


def new_dynamics(
    campaign: Campaign, cell: Cell, settings: Settings, folder: Path
) -> tuple[Exploration, dict[tuple[str, float], list[float]]]:
    """New replicas of a generation's model, and its errors on random frames of them.

    Returns:
        The run; and by structure and temperature the mean absolute error of force components of
        each frame that got a label, eV/Å.
    """
    import torch

    torch.set_num_threads(1)
    plan = campaign.systems[cell.system]
    model = mace.load(folder / "model.model", device="cpu", dtype=settings.model.dtype)
    batches = ["seed", *(f"gen{number:03d}" for number in range(int(folder.name[3:])))]
    shards = [
        path
        for batch in batches
        for path in sorted((folder.parent / batch / "labels").glob("*.parquet"))
    ]
    seed = 7_000_000 + cell.seed  # nothing of the campaign was drawn with it
    work = folder / "trial"
    run = explore(
        BatchedMace(model),
        starts.deal(gather(shards)["train"], plan.explored, settings.exploration, seed=seed),
        settings.exploration,
        Monitoring(
            domain=Domain.read(folder / "domain.json"),
            settings=settings.domain,
            system_kind=plan.system.kind,
        ),
        RunControl(work=work, identity=f"{cell.name} {folder.name}"),
        seed=seed,
        audit=settings.audit,
    )
    frames = run.reservoir
    predictions = mace.evaluate(model, frames)
    records = labelled(campaign.reference(), frames, plan.structures, work)
    errors: dict[tuple[str, float], list[float]] = defaultdict(list)
    for frame, predicted, record in zip(frames, predictions.forces, records, strict=True):
        if record.forces is not None:
            place = frame.info["structure"], frame.info["temperature"]
            errors[place].append(float(np.abs(predicted - record.forces).mean()))
    return run, errors


def selection_errors(campaign: Campaign, cell: Cell) -> list[dict[str, Any]]:
    """Force errors of selected and of audit frames: is selection better than chance?

    Returns:
        A row per generation: by role number of frames and mean of their force MAE, meV/Å.
    """
    rows = []
    for folder in sorted((campaign.folder / cell.system).glob("gen*")):
        errors: dict[str, list[float]] = defaultdict(list)
        for path in sorted((folder / "labels").glob("*.parquet")):
            for frame in read_frames(path):
                if {"forces", "model_forces"} <= frame.arrays.keys():
                    difference = frame.arrays["model_forces"] - frame.arrays["forces"]
                    errors[frame.info["role"]].append(1000 * float(np.abs(difference).mean()))
        roles: dict[str, Any] = {
            role: {"frames": len(values), "forces_mae_meV_per_A": float(np.mean(values))}
            for role, values in sorted(errors.items())
        }
        rows.append({"generation": int(folder.name[3:])} | roles)
    return rows


def compute(cell: Cell, effort: Effort, work: Path) -> dict[str, Any]:
    """Run a campaign, and try the claims of its last verdict if it saturated."""
    begun = time.monotonic()
    campaign, verdicts = run_campaign(cell, effort, work)
    last, ran = verdicts[-1], time.monotonic() - begun
    saturated = last.decision is Decision.SATURATED
    tried = saturated or effort.whatever
    claims = try_claims(campaign, cell, last, effort) if tried else []
    return {
        "schema": SCHEMA,
        "cell": cell.name,
        "system": cell.system,
        "seed": cell.seed,
        "effort": asdict(effort),
        "decision": last.decision,
        "reason": last.reason,
        "generations": len(verdicts),
        "labels": last.labels.spent,
        "audits": [
            {
                "generation": verdict.generation,
                "finding": verdict.audit.finding,
                "forces_mae_meV_per_A": [
                    part.forces_mae_meV_per_A and asdict(part.forces_mae_meV_per_A)
                    for part in verdict.audit.parts
                ],
            }
            for verdict in verdicts
            if verdict.audit
        ],
        "selection": selection_errors(campaign, cell),
        "claims": claims,
        "seconds": {"campaign": ran, "all": time.monotonic() - begun},
    }


# Results


def summarised(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Coverage of each kind of claim, with its exact 95 % interval, and how campaigns ended."""
    kinds: dict[str, dict[str, Any]] = {}
    for tried in (tried for cell in known for tried in cell["claims"]):
        entry = kinds.setdefault(tried["kind"], {"claims": 0, "held": 0, "not_tried": 0})
        if tried["held"] is None:
            entry["not_tried"] += 1
        else:
            entry["claims"] += 1
            entry["held"] += tried["held"]
    for entry in kinds.values():
        if entry["claims"]:
            # C. J. Clopper and E. S. Pearson, Biometrika 26, 404 (1934).
            interval = binomtest(entry["held"], entry["claims"]).proportion_ci(0.95, "exact")
            coverage = entry["held"] / entry["claims"]
            entry |= {"coverage": coverage, "low": interval.low, "high": interval.high}
    first = [cell for cell in known if cell["generations"] == 1]
    return {
        "campaigns": len(known),
        "decisions": dict(Counter(cell["decision"] for cell in known)),
        "saturated_in_generation_0": sum(c["decision"] == Decision.SATURATED for c in first),
        "kinds": kinds,
        "selection": selected_to_random(known),
    }


def selected_to_random(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Error of selected over that of audit frames of the same generation.

    Returns:
        Geometric mean of the ratio over generations, with the 95 % interval of a bootstrap over
        campaigns, since generations of one campaign resemble each other.
    """
    ratios = [
        [
            np.log(row["selected"]["forces_mae_meV_per_A"] / row["audit"]["forces_mae_meV_per_A"])
            for row in cell["selection"]
            if "selected" in row and "audit" in row
        ]
        for cell in known
    ]
    ratios = [of_cell for of_cell in ratios if of_cell]
    if not ratios:
        return {"generations": 0}
    random = np.random.default_rng(1)
    drawn = [
        np.concatenate([ratios[i] for i in random.integers(len(ratios), size=len(ratios))]).mean()
        for _ in range(2000)
    ]
    low, high = np.exp(np.quantile(drawn, [0.025, 0.975]))
    return {
        "generations": sum(map(len, ratios)),
        "campaigns": len(ratios),
        "ratio": float(np.exp(np.concatenate(ratios).mean())),
        "low": float(low),
        "high": float(high),
    }


def show(known: Sequence[dict[str, Any]], console: Console) -> None:
    """The cells as a table, and what they say together."""
    table = Table(title="campaigns, and what new dynamics and labels say of their claims")
    for heading in ("cell", "decision", "generations", "labels", "claims: seen ≤ bound", "min"):
        table.add_column(heading)
    for cell in known:
        table.add_row(
            cell["cell"],
            cell["decision"],
            str(cell["generations"]),
            str(cell["labels"]),
            "\n".join(claim_text(tried) for tried in cell["claims"]),
            f"{cell['seconds']['all'] / 60:.0f}",
        )
    console.print(table)
    summary = summarised(known)
    console.print(f"{summary['campaigns']} campaigns: {summary['decisions']}")
    for kind, entry in summary["kinds"].items():
        if entry["claims"]:
            console.print(
                f"{kind}: {entry['held']} of {entry['claims']} claims held, "
                f"{entry['coverage']:.0%} ({entry['low']:.0%}–{entry['high']:.0%})"
            )
    ratio = summary["selection"]
    if ratio["generations"]:
        console.print(
            f"force error of selected over random frames: {ratio['ratio']:.2f} "
            f"({ratio['low']:.2f}–{ratio['high']:.2f}), {ratio['generations']} generations"
        )


def claim_text(tried: dict[str, Any]) -> str:
    """`✓ events 12 ≤ 290 1/ns and molecule`."""
    mark = {True: "✓", False: "✗", None: "–"}[tried["held"]]
    seen, bound = (
        "?" if tried[name] is None else f"{tried[name]:.3g}" for name in ("observed", "bound")
    )
    return f"{mark} {tried['kind']} {seen} ≤ {bound} {tried['unit']}"


def main(words: Sequence[str] | None = None) -> None:
    """Do the cells that are missing, and show all."""
    parser = cells.parser(__doc__ or "", results=RESULTS, work=WORK)
    parser.add_argument("--smoke", action="store_true", help="a tiny campaign; nothing is kept")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw verdicts.png")
    given = parser.parse_args(words)
    effort, folder, work = Effort(), given.cells, given.work
    chosen = cells.chosen(grid(), given.only)
    if given.smoke:
        effort, work, chosen = SMOKE, work / "smoke", chosen[:1]
        shutil.rmtree(work, ignore_errors=True)
        folder = work / "cells"

    def compute_missing() -> None:
        for cell, path in cells.missing(chosen, folder, work):
            files.write_json(path, compute(cell, effort, work))

    done = cells.carry_out(
        given,
        chosen,
        folder,
        compute=compute_missing,
        done=lambda: cells.read(folder, chosen, schema=SCHEMA),
    )
    if done is None:
        return
    show(done, Console())
    if given.json:
        files.write_json(given.json, summarised(done) | {"cells": done})
    if given.plots:
        draw_verdicts(done, given.plots)


if __name__ == "__main__":
    main()
