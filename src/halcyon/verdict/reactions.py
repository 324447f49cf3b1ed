"""Reactive systems: did anything react, and what came of it?

    from pathlib import Path
    from halcyon.verdict.forms import ExplorationSummary
    from halcyon.verdict.reactions import bonds_changed, products_seen

    summary = ExplorationSummary.read(Path("results/quickstart/ethanol/gen001/exploration.json"))
    bonds_changed(summary.replicas)
    for product in products_seen(summary.replicas):
        print(product.formula, product.graph, product.formed, product.first_ps)

Not for: watching bonds (see `exploration.reactions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halcyon.config import SaturationSettings
from halcyon.verdict.forms import Assessment, Ended, Finding, ReplicaEnd


@dataclass(frozen=True)
class ProductSeen:
    """A kind of molecule that came about in an exploration.

    Attributes:
        formula: in Hill's order.
        graph: its atoms and bonds as SMILES, all bonds single.
        formed: how often one came about.
        replicas: in how many replicas.
        first_ps: earliest time in a replica's own time, ps.
        at_end: how many there were at the end of all replicas together.
    """

    formula: str
    graph: str
    formed: int
    replicas: int
    first_ps: float
    at_end: int


def bonds_changed(replicas: Sequence[Ended]) -> int | None:
    """Bonds that formed or broke in all replicas; None: it was not watched."""
    changes = [
        end.bonds_changed
        for end in replicas
        if isinstance(end, ReplicaEnd) and end.bonds_changed is not None
    ]
    return sum(changes) if changes else None


def products_seen(replicas: Sequence[ReplicaEnd]) -> list[ProductSeen]:
    """Kinds of molecules that came about in any replica, the most frequent first."""
    of_kind: dict[tuple[str, str], ProductSeen] = {}
    for end in replicas:
        for product in end.products:
            kind = product.formula, product.graph
            seen = of_kind.get(kind, ProductSeen(*kind, 0, 0, product.first_ps, 0))
            of_kind[kind] = ProductSeen(
                *kind,
                formed=seen.formed + product.formed,
                replicas=seen.replicas + 1,
                first_ps=min(seen.first_ps, product.first_ps),
                at_end=seen.at_end + product.at_end,
            )
    return sorted(of_kind.values(), key=lambda seen: (-seen.formed, seen.formula, seen.graph))


def with_reactions(
    assessment: Assessment, replicas: Sequence[Ended], settings: SaturationSettings
) -> Assessment:
    """An assessment that knows whether anything reacted.

    Calm dynamics in which no bond changed say nothing of reactions: that is not enough data, unless
    the settings ask for none.

    Args:
        assessment: of the dynamics alone.
        replicas: how each ended.
        settings: whether reactions are needed.
    """
    changes = bonds_changed(replicas)
    if changes != 0:
        return assessment.model_copy(update={"bonds_changed": changes})
    time_ps = sum(end.time_ps for end in replicas)
    finding, reason = assessment.finding, f"no bond changed in {time_ps:.3g} ps"
    if finding is Finding.SATURATED and settings.reactions_needed:
        finding = Finding.NOT_ENOUGH_DATA
        reason += f": nothing reacted (saturation.reactions_needed), though {assessment.reason}"
    else:
        reason = f"{assessment.reason}; {reason}"
    return assessment.model_copy(
        update={"finding": finding, "reason": reason, "bonds_changed": changes}
    )
