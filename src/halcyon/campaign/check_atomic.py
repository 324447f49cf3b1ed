"""What is checked of `pretraining.atomic` before the first job.

    from pathlib import Path
    from halcyon import config
    from halcyon.campaign.campaign import Campaign
    from halcyon.campaign.check_atomic import check_atomic

    source = "config/quickstart.yaml"
    plan = Campaign.resolve(config.read_yaml(Path(source)), source).systems["ethanol"]
    check_atomic(plan, [plan.start("ethanol")], source)  # nothing: the list is empty

Not for: frames that lack the properties (`models.atomic`), or all other checks (`checks`).
"""

from typing import TYPE_CHECKING

from halcyon.campaign.campaign import SystemPlan
from halcyon.errors import InputError

# Chemistry is imported where it is needed, as in `checks`.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms


def check_atomic(plan: SystemPlan, starts: "Sequence[Atoms]", source: str) -> None:
    """Refuse atomic properties of frames that have none, or that tblite cannot compute.

    Args:
        plan: a system.
        starts: its start structures.
        source: name of the campaign's file, for messages.

    Raises:
        InputError: the message names the setting, its value, and what to change.
    """
    pretraining = plan.settings.pretraining
    if not pretraining.atomic:
        return
    from halcyon.labels.reference.base import spin_fault
    from halcyon.teacher import tight_binding

    begins = f"{source}: pretraining.atomic = {pretraining.atomic}: system {plan.system.name}: "
    if plan.settings.seed_labels.pretrains_on_files:
        raise InputError(
            f"{begins}the model is pre-trained on the labels of seed_labels.from (level: theirs), "
            "and tblite computes atomic properties of the teacher's frames only: expected []"
        )
    for start in starts:
        structure = start.info["structure"]
        if structure not in plan.sampled or not plan.structures[structure].pretrain:
            continue
        if fault := tight_binding.fault(start, pretraining.atomic_method) or spin_fault(start):
            raise InputError(
                f"{begins}structure {structure}: {fault}. Expected a system that "
                f"{pretraining.atomic_method} can compute, or []"
            )
