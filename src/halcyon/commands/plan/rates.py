"""The best rate that is known for each stage of a campaign, before it has run.

    from halcyon.commands.plan.rates import best_rates

    rates = best_rates(campaign, "ethanol", trials={})
    [(stage, rate.value, rate.source) for stage, rate in rates.items()]

From worst to best: trials of seconds, jobs of other campaigns with the same structures and model,
and, for labels, those of the same level of theory in the store.

Not for: running trials (`measure`), or the sums (`forecast`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from halcyon import files
from halcyon.campaign import paths
from halcyon.campaign.accounts import read_ledger
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.identity import level_of_theory
from halcyon.campaign.rates import Rate, from_ledger
from halcyon.commands.plan.measure import Trials
from halcyon.errors import InputError
from halcyon.labels.store import LabelStore
from halcyon.wording import count

TRIAL_FACTORS = (0.5, 2.0)
"""What a trial of seconds says about jobs of hours, as factors: assumed, not measured."""
LABEL_POWERS = (1.0, 3.0)
"""How the cost of a label grows with the number of atoms, at least and at most."""


@dataclass(frozen=True)
class StoredCosts:
    """What the stored labels of one number of atoms took, core-seconds.

    Attributes:
        number: of labels.
        low: 5 % took less.
        median: half of them took less.
        high: 95 % took less.
    """

    number: int
    low: float
    median: float
    high: float

    @classmethod
    def of(cls, core_seconds: list[float]) -> "StoredCosts":
        """Of these labels."""
        ordered = sorted(core_seconds)
        low, median, high = (ordered[int(q * (len(ordered) - 1))] for q in (0.05, 0.5, 0.95))
        return cls(len(ordered), low, median, high)


def best_rates(
    campaign: Campaign, system: str, trials: Trials, *, own: bool = False
) -> dict[str, Rate]:
    """The best rate known for each stage.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        trials: of that system; may be empty.
        own: whether this campaign's own jobs count, instead of those of others. They count for
            what is left to do, not for what is compared with them.
    """
    plan = campaign.systems[system]
    rates = from_trials(trials)
    for path in sorted(campaign.settings.results.glob("*/campaign.json")):
        is_own = path.parent.resolve() == campaign.folder.resolve()
        if is_own != own or not (entries := read_ledger(paths.ledger(path.parent), system)):
            continue
        try:
            other = Campaign.read(path).systems.get(system)
        except InputError:
            continue
        if (
            other
            and other.settings.model == plan.settings.model
            and other.system.structures == plan.system.structures
        ):
            rates |= from_ledger(other, entries, f"campaign {path.parent.name}")
    if rate := label_rate(campaign, system, own=own):
        rates["label"] = rate
    return rates


def from_trials(trials: Mapping[str, Mapping[str, Any]]) -> dict[str, Rate]:
    """Rates by stage from what trials measured; a trial that failed gives none.

    Args:
        trials: of one system, by name of the trial; see `trial`.
    """
    rates: dict[str, Rate] = {}

    def measured(values: list[float], trial: Mapping[str, Any]) -> Rate:
        return Rate.around(values, TRIAL_FACTORS, f"measured: {trial['about']}")

    if "seconds_per_step" in (trial := trials.get("forcefield", {})):
        rates["forcefield"] = measured([trial["seconds_per_step"]], trial)
    if "seconds_per_replica_step" in (trial := trials.get("model", {})):
        epochs = measured(trial["seconds_per_structure_and_epoch"], trial)
        evaluation = measured([trial["seconds_per_evaluation"]], trial)
        rates |= {"pretrain": epochs, "train": epochs, "domain": evaluation, "select": evaluation}
        rates["explore"] = measured([trial["seconds_per_replica_step"]], trial)
    if "core_seconds" in (trial := trials.get("label", {})):
        rates["label"] = measured([trial["core_seconds"]], trial)
    return rates


def label_rate(campaign: Campaign, system: str, *, own: bool) -> Rate | None:
    """Core-seconds of a label, from those in the store at this level of theory.

    None where the store has no such label, or the reference is not installed.

    Args:
        campaign: the whole campaign.
        system: name of the system.
        own: whether labels count that this campaign has paid.
    """
    try:
        level = level_of_theory(campaign)
    except InputError:
        return None
    folder = campaign.settings.label_store / level
    if not (folder / "level.json").exists():
        return None
    store = LabelStore(campaign.settings.label_store, files.read_json(folder / "level.json"))
    by_size: dict[int, list[float]] = {}
    for table in store.stream(["numbers", "core_seconds", "campaign"]):
        if {"core_seconds", "campaign"} - {*table.column_names}:
            continue
        labels = zip(
            pc.list_value_length(table["numbers"]).to_pylist(),
            table["core_seconds"].to_pylist(),
            table["campaign"].to_pylist(),
            strict=True,
        )
        for size, seconds, paid_by in labels:
            if seconds and (own or paid_by != campaign.settings.campaign):
                by_size.setdefault(size, []).append(seconds)
    costs = {size: StoredCosts.of(seconds) for size, seconds in by_size.items()}
    atoms = max(campaign.systems[system].atoms.values())
    return from_labels(costs, atoms, f"label store, level {level}")


def from_labels(costs: Mapping[int, StoredCosts], atoms: int, source: str) -> Rate | None:
    """Core-seconds of a label, scaled from those of the nearest size; None without any.

    Args:
        costs: of stored labels, by their number of atoms.
        atoms: of the frames to label.
        source: where the labels are, for people.
    """
    if not costs:
        return None
    nearest = min(costs, key=lambda number: abs(math.log(number / atoms)))
    cost = costs[nearest]
    factors = [(atoms / nearest) ** power for power in LABEL_POWERS]
    return Rate(
        value=cost.median * math.sqrt(factors[0] * factors[1]),
        low=cost.low * min(factors),
        high=cost.high * max(factors),
        source=f"{source}: {count(cost.number, 'label')} of {count(nearest, 'atom')}",
    )
