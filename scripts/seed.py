"""Choose the first frames to label from the teacher's dynamics, a published set, or labels one has.

They are split into training, validation and test set for good.
"""

from pathlib import Path

from halcyon.campaign import stage
from halcyon.frames import read_frames, write_frames
from halcyon.labels import free_atoms, imported, seed
from halcyon.labels.pool import bonded_otherwise


def main(job: stage.Job) -> None:
    settings, structures = job.plan.settings.seed_labels, job.plan.labelled
    seeds = {structure: job.seed(structure) for structure in structures}
    frames = []
    if job.arguments.imported:
        had = read_frames(job.arguments.imported)
        frames = imported.split(had, structures, settings, seeds)
    published = job.campaign.reference().pool
    if published is None and settings.draws_frames:
        taught = read_frames(job.arguments.frames)
        strains = {structure: job.plan.seed_strain(structure) for structure in structures}
        drawn = seed.from_dynamics(taught, structures, settings, seeds=seeds, strains=strains)
        for structure in job.plan.explored:
            of_structure = [frame for frame in drawn if frame.info["structure"] == structure]
            bonds = job.plan.lasting_bonds(structure) or []
            largest_A = job.plan.settings.exploration.bond_stretch_A
            seed.check_bonds_hold(of_structure, bonds, largest_A)
        frames += drawn
    elif published is not None:  # such a reference verifies no imported labels
        starts = [job.plan.start(structure) for structure in structures]
        lasting_of = {structure: job.plan.lasting_bonds(structure) for structure in structures}
        for start in starts:
            lasting = lasting_of[start.info["structure"]]
            if lasting is not None and (others := bonded_otherwise(published, start, lasting)):
                job.say(
                    f"{start.info['structure']}: {len(others)} frames of the set have its "
                    f"composition but other bonds and are left out; the first: "
                    f"{others[0].info['place']}"
                )
        frames += seed.from_published(published, starts, settings, seeds=seeds, bonds=lasting_of)
    if job.plan.free_atoms:
        boxes = [s.box_A for s in job.plan.system.structures if s.box_A and not s.is_periodic]
        edge_A = max(boxes, default=free_atoms.BOX_A)
        frames += free_atoms.free_atoms(job.plan.free_atoms, box_A=edge_A)
    write_frames(job.arguments.selected, frames)
    have = sum(imported.is_imported(frame) for frame in frames)
    words = f"{len(frames) - have} frames to label" + (f", {have} have a label" if have else "")
    job.done(words, job.arguments.selected)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument("--imported", type=Path, help="labels that one has")
    arguments.add_argument("--selected", required=True, type=Path, help="frames, written")
    stage.run(arguments, main)
