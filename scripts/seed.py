"""Choose the first frames to label from the teacher's dynamics, or from a published set.

They are split into training, validation and test set for good.
"""

from pathlib import Path

import numpy as np

from halcyon.campaign import stage
from halcyon.errors import InputError
from halcyon.frames import read_frames, structure_key, structure_only, write_frames
from halcyon.labels.pool import frames_like


def main(job: stage.Job) -> None:
    seed = job.plan.settings.seed_labels
    splits = ["train"] * seed.train + ["validation"] * seed.validation + ["test"] * seed.test
    pool = [
        frame
        for frame in read_frames(job.arguments.frames)
        if frame.info["origin"] == "md" and frame.info["temperature"] <= seed.max_temperature_K
    ]
    published = job.campaign.reference().pool
    selected = []
    for name in job.plan.sampled:
        mine = [frame for frame in pool if frame.info["structure"] == name]
        if published is not None:
            mine = frames_like(published, job.plan.start(name))
            if len(mine) < len(splits):
                raise InputError(
                    f"reference.files: {len(mine)} frames of {name} in the data set, expected "
                    f"{len(splits)} for the seed (seed_labels)"
                )
        elif len(mine) < len(splits):
            raise InputError(
                f"{job.arguments.frames}: {len(mine)} frames of {name} up to "
                f"{seed.max_temperature_K:g} K, expected {len(splits)}: raise teacher.md_frames, "
                "or lower teacher.min_difference_A"
            )
        chosen = np.random.default_rng(job.seed(name)).permutation(len(mine))[: len(splits)]
        for index, split in zip(chosen, splits, strict=True):
            frame = structure_only(mine[index])
            frame.info |= {"split": split, "generation": -1, "reason": "seed"}
            if published is None:
                frame.info |= {"origin": "md", "temperature": mine[index].info["temperature"]}
            else:
                frame.info |= {"origin": "data set"}
            frame.info |= {"key": structure_key(frame)}
            selected.append(frame)
    write_frames(job.arguments.selected, selected)
    job.done(f"{len(selected)} frames to label", job.arguments.selected)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--frames", required=True, type=Path, help="the teacher's frames")
    arguments.add_argument("--selected", required=True, type=Path, help="frames, written")
    stage.run(arguments, main)
