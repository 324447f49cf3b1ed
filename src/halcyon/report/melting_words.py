"""Whether a generation's crystals melted: a sentence and a table.

    from halcyon.report import collect
    from halcyon.report.melting_words import order_rows, order_text

    last = collect(campaign, "ethanol", verdicts).last
    order_text(last)  # "": ethanol is no crystal
    len(order_rows(last))  # 1

Not for: measuring (`exploration.melting`), or what counts as molten (`verdict.melting`).
"""

from halcyon.report.contents import Generation
from halcyon.verdict.melting import MELTED, melted_text


def order_text(generation: Generation) -> str:
    """Whether crystals melted, in a sentence; empty where there are none.

    "No crystal melted: Lindemann ratios are up to 0.062 (molten: over 0.15)."
    """
    order = generation.saturation.order
    if not order:
        return ""
    largest = max(part.largest for part in order)
    for phrase in melted_text(order):
        return f"{phrase[0].upper()}{phrase[1:]}; molten: over {MELTED:g}."
    return f"No crystal melted: Lindemann ratios are up to {largest:.2g} (molten: over {MELTED:g})."


def order_rows(generation: Generation) -> list[list[str]]:
    """The Lindemann ratio of each crystal at each temperature, the heading first."""
    heading = [
        "Structure",
        "Temperature, K",
        "Lindemann ratio",
        "Largest of a replica",
        "Molten / all replicas",
    ]
    return [heading] + [
        [
            part.structure,
            f"{part.temperature_K:g}",
            f"{part.lindemann:.3g}",
            f"{part.largest:.3g}",
            f"{part.melted} / {part.replicas}",
        ]
        for part in generation.saturation.order
    ]
