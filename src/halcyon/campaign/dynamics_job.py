"""A job's model, what its dynamics are held against, and how the job steers them.

Exploring and certifying both begin so.

Not for: where replicas start (`exploration.starts`), or the dynamics (`exploration.explore`).
"""

from pathlib import Path

from halcyon.campaign.stage import Job
from halcyon.domain.intervals import Domain
from halcyon.exploration.explore import Monitoring, RunControl
from halcyon.exploration.run_state import identity_of
from halcyon.models import mace
from halcyon.models.batched import BatchedMace


def watched_model(
    job: Job, model: Path, domain: Path, *, compute_stress: bool = False
) -> tuple[BatchedMace, Monitoring, RunControl]:
    """Read the model, its domain and its committee, as the job's settings say.

    Args:
        job: the stage; it gives the scratch folder, is told of progress, and may ask for a stop.
        model: file of the MACE model that moves the replicas.
        domain: file of its domain.
        compute_stress: for constant pressure.

    Raises:
        InputError: a file is missing or damaged, or a model of the committee does not suit.
    """
    settings = job.plan.settings
    device, dtype = settings.resources.device, settings.model.dtype
    monitoring = Monitoring(
        domain=Domain.read(domain),
        settings=settings.domain,
        system_kind=job.plan.system.kind,
        committee=mace.load_committee(
            settings.domain, job.plan.elements, device=device, dtype=dtype
        ),
    )
    control = RunControl(
        work=job.folder,
        identity=identity_of(model, domain, settings.domain),
        stop=job.stopping,
        report=lambda progress: job.say(str(progress)),
        warn=lambda text: job.say(text, style="yellow"),
    )
    loaded = mace.load(model, device=device, dtype=dtype)
    return BatchedMace(loaded, compute_stress=compute_stress), monitoring, control
