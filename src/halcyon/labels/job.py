"""A label job, from frames to labels that can be trusted.

Each frame in the spins that its structure asks for → labels (`labels`) → the lowest state (`spin`)
→ judged by itself and by its like (`sanity`) → in the first shard, forces of one frame held
against its energy (`finite_difference`).

Not for: any one of these steps, or the arguments and files of the job (`scripts/label.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ase import Atoms

from halcyon.campaign.budget import Spent
from halcyon.campaign.campaign import Campaign
from halcyon.campaign.paths import label_files, label_scratch
from halcyon.config import RampBias, Settings, XtbReference
from halcyon.frames import read_frames
from halcyon.labels import finite_difference, journal, sanity, spin
from halcyon.labels.finite_difference import Slope
from halcyon.labels.labelling import label_frames
from halcyon.labels.reference.base import Record, Reference, Status
from halcyon.labels.store import LabelStore
from halcyon.labels.systemic import SystemicFailure


@dataclass
class Labelled:
    """What came of a shard.

    Attributes:
        frames: as they were asked for, with records; see `labels.label_frames` and `sanity.judge`.
        slopes: of the frames whose forces were checked.
    """

    frames: list[Atoms]
    slopes: list[Slope] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Which frames, and where their label file goes.

    Attributes:
        campaign: the whole campaign.
        system: name of the system.
        batch: `seed`, or the generation's folder.
        number: of the shard, from 0.
        seed: draws the frame whose forces are checked.
    """

    campaign: Campaign
    system: str
    batch: str
    number: int
    seed: int

    @property
    def settings(self) -> Settings:
        """The system's."""
        return self.campaign.systems[self.system].settings

    @property
    def work(self) -> Path:
        """Scratch folder; the journal is in it."""
        return label_scratch(self.campaign, self.system, self.batch, self.number)

    def label(
        self,
        frames: Sequence[Atoms],
        reference: Reference,
        store: LabelStore,
        *,
        cores: int,
        stop: Callable[[], bool] = lambda: False,
        report: Callable[[int, Record], None] = lambda _n, _record: None,
    ) -> Labelled:
        """Label and judge; see `labels.label_frames` for the arguments.

        Raises:
            SystemicFailure: most calculations failed alike, or the level's forces are wrong.
            Interrupted: `stop` said so.
        """
        plan = self.campaign.systems[self.system]
        compute = partial(
            label_frames,
            reference=reference,
            store=store,
            work=self.work,
            cores=cores,
            provenance={"campaign": self.campaign.settings.campaign, "system": self.system},
            may_start=Spent(self.campaign, plan.settings.limits).may_start,
            stop=stop,
        )
        states = spin.candidates(frames, plan.structures)
        flat = [state for frame in states for state in frame]
        # Some may not have begun: their journals are looked for when they are wanted.
        others = [
            label_scratch(self.campaign, self.system, self.batch, number) / journal.NAME
            for number in range(plan.settings.resources.label_shards)
            if number != self.number
        ]
        told = iter(compute(flat, others=others, report=report))
        labelled = [spin.lowest([next(told) for _ in frame]) for frame in states]
        judged = sanity.judge(
            labelled,
            plan.settings.sanity,
            earlier=self._earlier(),
            temperature_K=hottest(plan.settings),
            reactive=plan.system.kind == "reactive",
            witness=self._witness(),
        )
        if self.number or not plan.settings.sanity.finite_difference or reference.pool is not None:
            return Labelled(judged)
        good = [frame for frame in judged if frame.info["status"] == Status.OK]
        slopes = finite_difference.check(good, compute, plan.settings.sanity, seed=self.seed)
        if fault := finite_difference.fault(slopes):
            raise SystemicFailure(fault)
        wrong = {slope.key: slope.message for slope in slopes if slope.passed is False}
        return Labelled(
            [
                sanity.rejected(frame, wrong[frame.info["key"]])
                if frame.info["key"] in wrong
                else frame
                for frame in judged
            ],
            slopes,
        )

    def _earlier(self) -> list[Atoms]:
        """Trusted labels of the batches before this one; all of them are there by now."""
        paths = label_files(self.campaign, self.system)
        before = [path for path in paths if _order(path.parents[1].name) < _order(self.batch)]
        read = [frame for path in before for frame in read_frames(path)]
        return [frame for frame in read if frame.info["status"] == Status.OK]

    def _witness(self) -> sanity.Witness | None:
        if (
            isinstance(self.campaign.settings.reference, XtbReference)
            or not self.settings.sanity.xtb
        ):
            return None
        return sanity.xtb_witness()


def hottest(settings: Settings) -> float:
    """Highest temperature that frames are sampled at, K."""
    bias = settings.exploration.bias
    ramp = [bias.to_K] if isinstance(bias, RampBias) else []
    seed = settings.seed_labels.max_temperature_K
    return max(*settings.exploration.temperatures_K, seed, *ramp)


def _order(batch: str) -> int:
    """The seed first, then generations."""
    return -1 if batch == "seed" else int(batch.removeprefix("gen"))
