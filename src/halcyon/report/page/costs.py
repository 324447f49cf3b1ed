"""What stages and label calculations have cost.

Not for: the numbers (`campaign.accounts`).
"""

from halcyon.report import SystemReport, label_costs
from halcyon.report.page.axes import NEUTRAL, Figure, bar, categories, rounded, titled


def figures(report: SystemReport) -> list[Figure]:
    """Core time by stage, and of label calculations by batch."""
    minutes = [stage.core_seconds / 60 for stage in report.stages]
    costs = label_costs(report.label_infos)
    return [
        Figure(
            id="stages",
            title="Core time by stage",
            caption="Core time, which is wall time times cores, of all jobs of a stage, repeated "
            "ones included.",
            alt="Core time in minutes: "
            + "; ".join(
                f"{stage.stage} {spent:.3g}"
                for stage, spent in zip(report.stages, minutes, strict=True)
            )
            + ".",
            data=[
                bar("core time", [s.stage for s in report.stages], rounded(minutes), NEUTRAL, "min")
            ],
            x=titled("core time, min"),
            y=categories([s.stage for s in report.stages]),
        ),
        Figure(
            id="label-costs",
            title="Core time of label calculations",
            caption="Core time of the labels of each batch. A label that the store already had is "
            "counted with what it cost when it was computed, even if another campaign paid for it.",
            alt="Core time of label calculations in minutes: "
            + "; ".join(f"{c.batch} {c.core_seconds / 60:.3g}" for c in costs)
            + ".",
            data=[
                bar(
                    "core time",
                    [c.batch for c in costs],
                    rounded(c.core_seconds / 60 for c in costs),
                    NEUTRAL,
                    "min",
                )
            ],
            x=titled("core time, min"),
            y=categories([c.batch for c in costs]),
        ),
    ]
