"""Ask a second, cheaper Hamiltonian about the random frames, so that the audit rests on more."""

from functools import partial
from pathlib import Path

from halcyon.campaign import stage
from halcyon.frames import read_frames, write_frames
from halcyon.labels.labelling import Labeller, gather
from halcyon.labels.second_opinion import METHODS, second_hamiltonian
from halcyon.labels.store import LabelStore


def main(job: stage.Job) -> None:
    import torch

    from halcyon.exploration.opinions import judge_random_frames
    from halcyon.models import mace

    args, settings = job.arguments, job.plan.settings
    torch.set_num_threads(args.threads)
    method, known = settings.audit.second_opinion, gather(args.labels)
    hamiltonian = second_hamiltonian(method)
    with job.alone():
        judged = judge_random_frames(
            read_frames(args.reservoir),
            [frame for split in ("train", "validation", "test") for frame in known[split]],
            # A few hundred frames: no GPU is asked for them.
            mace.load(args.model, device="cpu", dtype=settings.model.dtype),
            Labeller(
                reference=hamiltonian,
                store=LabelStore(
                    job.campaign.settings.label_store,
                    hamiltonian.level,
                    partial(job.say, style="bold red"),
                ),
                work=job.folder,
                cores=args.threads,
                provenance={"campaign": job.campaign.settings.campaign, "system": args.system},
                systemic=False,
                stop=job.stopping,
            ),
            method=method,
            number=settings.audit.second_opinion_frames,
        )
        write_frames(args.opinions, judged)
    failed = [frame for frame in judged if frame.info["status"] != "ok"]
    if failed:
        job.say(
            f"{METHODS[method]} has no forces of {len(failed)} of {len(judged)} frames, the first: "
            f"{failed[0].info['message']}",
            style="yellow",
        )
    job.done(f"{METHODS[method]} on {len(judged)} frames, {len(failed)} failed", args.opinions)


if __name__ == "__main__":
    arguments = stage.parser(__doc__)
    arguments.add_argument("--generation", required=True, type=int, help="generation, from 0")
    arguments.add_argument("--model", required=True, type=Path, help="MACE model that explored")
    arguments.add_argument("--reservoir", required=True, type=Path, help="random frames")
    arguments.add_argument("--labels", required=True, type=Path, nargs="+", help="label files")
    arguments.add_argument("--opinions", required=True, type=Path, help="frames, written")
    stage.run(arguments, main)
