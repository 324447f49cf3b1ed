"""What a campaign came to, in numbers and sentences: what the terminal and the page say.

    from halcyon.report import collect, verdict_sentence

    report = collect(campaign, "ethanol", verdicts)
    print(verdict_sentence(report))

`collect` reads the files of a system; everything else computes from what it returned.

Not for: the page itself (`page`), deciding anything (`verdict.saturation`), or certifying a model
(`final.certificate`).
"""

from halcyon.campaign.accounts import LabelCost, StageTime, label_costs, stage_times
from halcyon.report.audit_words import audit_text, signal_text
from halcyon.report.calm_words import calm_text
from halcyon.report.collected import collect, find_verdicts
from halcyon.report.contents import BadFrame, Generation, SystemReport
from halcyon.report.reaction_words import reaction_text
from halcyon.report.sentences import (
    certificate_sentence,
    conditions,
    coverage_sentence,
    next_step,
    verdict_sentence,
)
from halcyon.report.summary import Column, columns_of, summary_table

__all__ = [
    "BadFrame",
    "Column",
    "Generation",
    "LabelCost",
    "StageTime",
    "SystemReport",
    "audit_text",
    "calm_text",
    "certificate_sentence",
    "collect",
    "columns_of",
    "conditions",
    "coverage_sentence",
    "find_verdicts",
    "label_costs",
    "next_step",
    "reaction_text",
    "signal_text",
    "stage_times",
    "summary_table",
    "verdict_sentence",
]
