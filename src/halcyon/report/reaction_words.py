"""What reacted in a generation of a reactive system: a sentence and a table.

    from halcyon.report import collect
    from halcyon.report.reaction_words import product_rows, reaction_text

    last = collect(campaign, "ethanol", verdicts).last
    reaction_text(last)  # "": the bonds of ethanol are not watched
    len(product_rows(last))  # 1

Not for: counting (`exploration.reactions`, `verdict.reactions`).
"""

from halcyon.report.contents import Generation
from halcyon.verdict.reactions import bonds_changed, products_seen
from halcyon.wording import count, listed, significant

NAMED = 6
"""So many products are named in the sentence."""
ROWS = 50
"""Products in the table."""


def reaction_text(generation: Generation) -> str:
    """How many bonds changed, and the most frequent products; empty if it was not watched.

    "No bond changed in 16 ps." or "6 bonds changed in 16 ps; formed were H2O (3 times) and H2O2
    (once)."
    """
    changes = bonds_changed(generation.replicas)
    if changes is None:
        return ""
    during = f"in {significant(sum(end.time_ps for end in generation.replicas))} ps"
    if not changes:
        return f"No bond changed {during}."
    times: dict[str, int] = {}
    for product in products_seen(generation.replicas):
        times[product.formula] = times.get(product.formula, 0) + product.formed
    text = f"{count(changes, 'bond')} changed {during}"
    if not times:
        return f"{text}; no new molecule lasted."
    most = sorted(times.items(), key=lambda entry: (-entry[1], entry[0]))
    named = [f"{formula} ({_times(number)})" for formula, number in most[:NAMED]]
    if others := len(most) - len(named):
        named.append(f"molecules of {count(others, 'other formula', 'other formulas')}")
    return f"{text}; formed were {listed(named)}."


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def product_rows(generation: Generation) -> list[list[str]]:
    """Molecules that came about, by formula and graph, the heading first."""
    heading = [
        "Product",
        "Its atoms and bonds",
        "Formed, times",
        "In replicas",
        "First after, ps",
        "There at the end",
    ]
    return [heading] + [
        [
            product.formula,
            product.graph,
            str(product.formed),
            str(product.replicas),
            f"{product.first_ps:.3g}",
            str(product.at_end),
        ]
        for product in products_seen(generation.replicas)[:ROWS]
    ]
