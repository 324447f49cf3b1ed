"""Sample a system with its classical force field.

The frames are dynamics at several temperatures and, for structures that are pre-trained on, frames
near the walls of the potential. The force field labels all of them. Where `pretraining.atomic` has
names, tblite adds atomic properties to those that are pre-trained on.
"""

import shutil
import time
from pathlib import Path

from halcyon import files
from halcyon.campaign import stage
from halcyon.errors import Interrupted
from halcyon.frames import write_frames

REPORT_EVERY_S = 20.0
"""Between two lines of progress: most teachers are done before the first."""


def main(job: stage.Job) -> None:
    from halcyon.teacher.atomic import add_properties
    from halcyon.teacher.sampling import sample

    reported = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal reported
        if job.stopping():
            raise Interrupted(f"stopped after {done} of {total} frames")
        if time.monotonic() - reported > REPORT_EVERY_S:
            reported = time.monotonic()
            job.say(f"{done} of {total} frames")

    frames, counts, settings = [], {}, job.plan.settings
    for name in job.plan.sampled:
        structure = job.plan.structures[name]
        sampling = settings.teacher
        if not structure.pretrain:
            sampling = sampling.without_walls(settings.seed_labels.max_temperature_K)
        with job.alone():
            teacher = job.plan.teacher(name)
            if teacher.program:
                job.say(f"{name}: energies and forces by {teacher.program}")
            sampled, counts[name] = sample(
                teacher,
                job.plan.start(name),
                sampling,
                seed=job.seed(name),
                saved=job.folder,
                progress=progress,
                warn=lambda text: job.say(text, style="yellow"),
            )
            if settings.pretraining.atomic and structure.pretrain:
                method = settings.pretraining.atomic_method
                missing = add_properties(
                    sampled, method, saved=job.folder / f"{name}-atomic.parquet", progress=progress
                )
                job.say(
                    f"{name}: atomic properties by {method} of {len(sampled) - missing} frames"
                    + (f"; it failed on {missing}" if missing else "")
                )
        frames += sampled
        job.say(f"{name}: " + ", ".join(f"{n} {what}" for what, n in counts[name].items()))
    write_frames(job.arguments.frames, frames)
    files.write_json(job.arguments.counts, counts)
    shutil.rmtree(job.folder, ignore_errors=True)
    job.done(f"{len(frames)} force-field frames", job.arguments.frames)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="labelled frames, written")
    arguments.add_argument("--counts", required=True, type=Path, help="fate of frames, written")
    stage.run(arguments, main)
