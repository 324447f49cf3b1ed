"""A job's model, what its dynamics are held against, and how the job steers them.

Exploring, selecting and certifying begin so.

Not for: where replicas start (`exploration.starts`), or the dynamics (`exploration.explore`).
"""

from pathlib import Path

from halcyon.campaign.stage import Job
from halcyon.config import DatasetReference
from halcyon.domain.intervals import Domain
from halcyon.errors import InputError
from halcyon.exploration.explore import Monitoring, RunControl
from halcyon.exploration.generation import Watched
from halcyon.exploration.run_state import identity_of
from halcyon.labels.pool import PublishedSet, frames_like
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.models.metrics import Metrics


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
        InputError: a file is missing or damaged, a model of the committee does not suit, or the
            stress is needed and was not learned.
    """
    settings = job.plan.settings
    if compute_stress:
        refuse_unlearned_stress(model)
    device, dtype = settings.resources.device, settings.model.dtype
    monitoring = Monitoring(
        domain=Domain.read(domain),
        settings=settings.domain,
        system_kind=job.plan.system.kind,
        committee=mace.load_committee(
            settings.domain, job.plan.elements, device=device, dtype=dtype
        ),
        fixed=job.plan.fixed,
        sites=job.plan.sites,
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


def refuse_unlearned_stress(model: Path) -> None:
    """Refuse constant pressure with a model whose training labels had no stress.

    Args:
        model: file of the model; its metrics lie beside it.

    Raises:
        InputError: the message says what to do.
    """
    metrics = model.with_name("metrics.json")
    if metrics.exists() and Metrics.read(metrics).stress_weight == 0:
        raise InputError(
            f"{model}: exploration.ensemble = 'npt', but the model has not learned any stress: no "
            f"label that it was trained on has one ({metrics}: stress_weight = 0). Explore at nvt, "
            "or begin a campaign of another name: its labels are computed again with their stress "
            "where the label store has none"
        )


def watched(job: Job, model: Path, domain: Path) -> Watched:
    """Read the model, its domain and its committee, to judge frames by.

    Args:
        job: the stage.
        model: file of the MACE model that explored.
        domain: file of its domain.

    Raises:
        InputError: as `watched_model`.
    """
    settings = job.plan.settings
    device, dtype = settings.resources.device, settings.model.dtype
    return Watched(
        model=mace.load(model, device=device, dtype=dtype),
        domain=Domain.read(domain),
        system_kind=job.plan.system.kind,
        committee=mace.load_committee(
            settings.domain, job.plan.elements, device=device, dtype=dtype
        ),
    )


def published_set(job: Job) -> PublishedSet | None:
    """The published set of a campaign in retrospect; None: labels are computed.

    Raises:
        InputError: a file of the set is missing or damaged.
    """
    reference, plan = job.campaign.settings.reference, job.plan
    if not isinstance(reference, DatasetReference):
        return None
    published = job.campaign.reference().pool or []
    pools = {
        name: frames_like(published, plan.start(name), plan.lasting_bonds(name))
        for name in plan.explored
    }
    return PublishedSet(pools, reference.max_difference_A)
