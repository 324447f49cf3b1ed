"""Walls of the start model and of the models that were made of it: what fine-tuning forgot.

Not for: the scans and their numbers (`models.forgetting`).
"""

from typing import Literal

from halcyon.models.forgetting import Forgetting, WallScan
from halcyon.report import Generation, SystemReport
from halcyon.report.page.axes import Figure, Trace, gradient, rounded, titled
from halcyon.wording import number_text

KINDS: dict[Literal["dimer", "bond"], tuple[str, str]] = {
    "dimer": ("Walls of pairs of elements", "two atoms alone"),
    "bond": ("Walls of bonds", "a bond stretched and compressed, what hangs on it moved along"),
}
LOWEST_EV = -8.0
"""The plots begin here; holes go on below."""


def figures(report: SystemReport) -> list[Figure]:
    """Energies along the scans of the newest generation; empty where none were made."""
    forgetting = report.last.forgetting
    if forgetting is None:
        return []
    return [
        _curves(report.last, forgetting, kind, [s for s in forgetting.scans if s.kind == kind])
        for kind in KINDS
        if any(scan.kind == kind for scan in forgetting.scans)
    ]


def _curves(
    generation: Generation,
    forgetting: Forgetting,
    kind: Literal["dimer", "bond"],
    scans: list[WallScan],
) -> Figure:
    title, what = KINDS[kind]
    colours = {scan.name: gradient(i, len(scans)) for i, scan in enumerate(scans)}
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{scan.name}, {who}",
            "x": rounded(scan.distances_A),
            "y": rounded(energies),
            "line": {"color": colours[scan.name], "width": 1.6, "dash": dash},
            "hovertemplate": f"{scan.name}, {who}: %{{x:.3g}} Å, %{{y:.3g}} eV<extra></extra>",
        }
        for scan in scans
        for who, dash, energies in (
            ("start model", "dot", scan.before_eV),
            (f"generation {generation.number}", "solid", scan.after_eV),
        )
    ]
    median = number_text(forgetting.median_rms_above(kind))
    return Figure(
        id=f"walls-{kind}",
        title=title,
        caption=f"Energy against distance, {what}. Dotted: the start model; solid: the model of "
        f"generation {generation.number}. Both are counted from where the start model's is least.",
        alt=f"{title}: energies of {len(scans)} scans before and after fine-tuning; median "
        f"difference on the wall {median} eV.",
        data=data,
        x=titled("distance, Å"),
        y=titled("energy, eV", range=[LOWEST_EV, forgetting.highest_eV]),
        key=colours,
    )


def scan_rows(generation: Generation) -> list[list[str]]:
    """What each scan of a generation says."""
    forgetting = generation.forgetting
    if forgetting is None:
        return []
    wall, highest = number_text(forgetting.wall_eV), number_text(forgetting.highest_eV)
    heading = [
        "Scan",
        f"Difference up to {wall} eV, RMS, eV",
        f"Difference from {wall} to {highest} eV, RMS, eV",
        "Start model: energy falls inwards from, Å",
        "This model: energy falls inwards from, Å",
    ]
    return [heading] + [
        [
            scan.name,
            number_text(scan.rms_below_eV),
            number_text(scan.rms_above_eV),
            number_text(scan.turns_before_A),
            number_text(scan.turns_after_A),
        ]
        for scan in forgetting.scans
    ]


def generation_rows(report: SystemReport) -> list[list[str]]:
    """How training kept the start model's walls, and what of them is left, by generation."""
    heading = [
        "Generation",
        "Replay",
        "Frozen blocks",
        "Rank of adapters",
        "Pairs of elements: difference on the wall, median RMS, eV",
        "Bonds: difference on the wall, median RMS, eV",
        "Walls that turn, of all scans (start model)",
    ]
    return [heading] + [
        [str(g.number), *_kept(g), *_left(g.forgetting)]
        for g in report.generations
        if g.forgetting is not None
    ]


def _kept(generation: Generation) -> list[str]:
    learning = generation.learning
    if learning is None:
        return ["–", "–", "–"]
    frames = sum(learning.replayed.values())
    replay = "none"
    if frames:
        replay = (
            f"{frames} frames labelled by the {learning.replay_labelled_by}, weight "
            f"{learning.replay_weight:g}"
        )
    return [replay, learning.freeze.replace("_", " "), str(learning.lora_rank or "–")]


def _left(forgetting: Forgetting | None) -> list[str]:
    if forgetting is None:
        return ["–", "–", "–"]
    turned, before = (
        sum(place is not None for place in places)
        for places in (
            [scan.turns_after_A for scan in forgetting.scans],
            [scan.turns_before_A for scan in forgetting.scans],
        )
    )
    return [
        number_text(forgetting.median_rms_above("dimer")),
        number_text(forgetting.median_rms_above("bond")),
        f"{turned} of {len(forgetting.scans)} ({before})",
    ]
