"""Sample a system with its classical force field.

Dynamics at several temperatures, and displaced frames, all labelled by the force field.
"""

from pathlib import Path

from halcyon import files, stage
from halcyon.errors import Interrupted
from halcyon.frames import write_frames


def main(job: stage.Job) -> None:
    from halcyon.teachers import make_teacher, sample

    def progress(done: int, asked: int) -> None:
        if job.stopping():
            raise Interrupted(f"stopped after {done} of {asked} frames")

    frames, counts = [], {}
    for name in job.plan.structures:
        start = job.plan.start(name)
        teacher = make_teacher(job.plan.system.forcefield, start, job.plan.bonds(name))
        sampled, counts[name] = sample(
            teacher,
            start,
            job.plan.settings.teacher,
            seed=job.seed(name),
            progress=progress,
        )
        frames += sampled
        job.say(f"{name}: " + ", ".join(f"{n} {what}" for what, n in counts[name].items()))
    write_frames(job.arguments.frames, frames)
    files.write_json(job.arguments.counts, counts)
    job.done(f"{len(frames)} force-field frames", job.arguments.frames)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="labelled frames, written")
    arguments.add_argument("--counts", required=True, type=Path, help="fate of frames, written")
    stage.run(arguments, main)
