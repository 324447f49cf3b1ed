"""A label job: from selected frames to labels that can be trusted.

    from pathlib import Path
    from halcyon.config import SanitySettings, StructureSettings, XtbReference
    from halcyon.labels.job import LabelJob
    from halcyon.labels.reference import make_reference
    from halcyon.labels.store import LabelStore

    reference = make_reference(XtbReference(backend="xtb"))
    job = LabelJob(
        structures={"water": StructureSettings(name="water", smiles="O")},
        sanity=SanitySettings(),
        temperature_K=500.0,
        work=Path("work"),
    )
    labelled = job.label(frames, reference, LabelStore(Path("labels"), reference.level), cores=1)

1. Each frame is taken in every spin that its structure asks for (`spin.states`).
2. What the store does not know is computed (`labelling.Labeller`).
3. The spin of lowest energy is the frame's label (`spin.lowest`).
4. Each label is judged by itself and against others of its composition (`sanity.judge`).
5. The first job of a batch compares the forces of one frame with its energy
   (`finite_difference.check`), and so the stress of another (`finite_difference.check_stress`).

Not for: any one of these steps, or where a campaign keeps its files (`campaign.label_jobs` says
that).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ase import Atoms

from halcyon.config import SanitySettings, StructureSettings
from halcyon.frames import read_frames
from halcyon.labels import finite_difference, sanity, spin
from halcyon.labels.finite_difference import Slope, StrainSlope
from halcyon.labels.free_atoms import is_free_atom
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference.base import Record, Reference, Status
from halcyon.labels.store import LabelStore
from halcyon.labels.systemic import SystemicFailure


@dataclass
class Labelled:
    """What a label job hands on.

    Attributes:
        frames: the frames in their own order, with records (see `Labeller`) and judged (`sanity`).
        slopes: one for each frame whose forces were checked.
        strains: one for each frame whose stress was checked.
    """

    frames: list[Atoms]
    slopes: list[Slope] = field(default_factory=list)
    strains: list[StrainSlope] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class LabelJob:
    """How the frames of one label job are labelled and judged, and where its files lie.

    Attributes:
        structures: settings of the system's structures by name; they name the spins.
        sanity: tolerances.
        temperature_K: the highest temperature that frames are sampled at, K.
        reactive: whether bonds break and form for good.
        needs_stress: whether labels that lack a stress are computed again with it.
        compare_with_xtb: whether GFN2-xTB is the second witness of every label.
        check_forces: whether the forces of one frame are held against its energy; one job of a
            batch does it for all.
        seed: draws the frame whose forces are checked.
        provenance: campaign and system, put on every record.
        work: scratch folder of this job; its journal is in it.
        other_journals: journals of the other jobs of the batch, whether they exist yet or not.
        earlier_labels: label files of the batches before this one.
        may_start: asked before every calculation; false: the budget is spent.
    """

    structures: Mapping[str, StructureSettings]
    sanity: SanitySettings
    temperature_K: float
    work: Path
    reactive: bool = False
    needs_stress: bool = False
    compare_with_xtb: bool = False
    check_forces: bool = False
    seed: int = 0
    provenance: Mapping[str, str] = field(default_factory=dict)
    other_journals: Sequence[Path] = ()
    earlier_labels: Sequence[Path] = ()
    may_start: Callable[[], bool] = lambda: True

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
        """Label and judge.

        Args:
            frames: with charge, multiplicity and structure.
            reference: computes what is not known.
            store: where labels are kept.
            cores: number of cores for the reference.
            stop: called after every frame; true: stop in good order, with all records in the
                journal.
            report: called with the number of frames done and the last record.

        Raises:
            SystemicFailure: most calculations failed alike, the level's forces or stresses are
                wrong, or it has one energy for several spins.
            Interrupted: `stop` became true.
        """
        labeller = Labeller(
            reference=reference,
            store=store,
            work=self.work,
            cores=cores,
            provenance=self.provenance,
            needs_stress=self.needs_stress,
            may_start=self.may_start,
            stop=stop,
        )
        states_of_frames = spin.states(frames, self.structures)
        states = [state for of_frame in states_of_frames for state in of_frame]
        records = iter(labeller.label(states, other_journals=self.other_journals, report=report))
        in_each_spin = [[next(records) for _ in of_frame] for of_frame in states_of_frames]
        reasons = [spin.same_energy(states) for states in in_each_spin if len(states) > 1]
        if len(reasons) > 1 and all(reasons):  # a single frame may be a broken bond
            raise SystemicFailure(f"all {len(reasons)} frames: {reasons[0]}")
        labelled = [spin.lowest(of_frame) for of_frame in in_each_spin]
        judged = sanity.judge(
            labelled,
            self.sanity,
            earlier=good_labels(self.earlier_labels),
            temperature_K=self.temperature_K,
            reactive=self.reactive,
            witness=sanity.xtb_witness() if self.compare_with_xtb else None,
        )
        # A published set has no labels for points beside its frames.
        if not self.check_forces or reference.pool is not None:
            return Labelled(judged)
        good = [
            frame
            for frame in judged
            if frame.info["status"] == Status.OK and not is_free_atom(frame)  # it has no slope
        ]
        slopes = finite_difference.check(good, labeller.label, self.sanity, seed=self.seed)
        if fault := finite_difference.fault(slopes):
            raise SystemicFailure(fault)
        wrong = {slope.key: slope.message for slope in slopes if slope.passed is False}
        kept = [
            sanity.rejected(frame, wrong[frame.info["key"]])
            if frame.info["key"] in wrong
            else frame
            for frame in judged
        ]
        good = [frame for frame in kept if frame.info["status"] == Status.OK]
        strains = finite_difference.check_stress(good, labeller.label, self.sanity, seed=self.seed)
        if fault := finite_difference.fault(strains):
            raise SystemicFailure(fault)
        for strain in strains:
            for frame in kept:
                if strain.passed is False and frame.info["key"] == strain.key:
                    del frame.info["stress"]  # its energy and forces are as good as before
                    frame.info["flag"] = f"without its stress: {strain.message}"
        return Labelled(kept, slopes, strains)


def good_labels(paths: Iterable[Path]) -> list[Atoms]:
    """Frames of label files whose status is ok."""
    frames = [frame for path in paths for frame in read_frames(path)]
    return [frame for frame in frames if frame.info["status"] == Status.OK]
