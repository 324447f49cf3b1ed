"""A tiny job of each kind, on the campaign's own settings: does it run here, and how fast?

    python -m halcyon.commands.plan.trial model --configfile config/quickstart.yaml --system ethanol

`halcyon doctor` asks whether it runs, `halcyon plan` how fast; both start it as a process of its
own (`measure`), with the threads that such a job would have and a time limit. It prints a JSON
object on its last line; exit codes are those of `halcyon` (2: bad input, and `error` says which).
Nothing is written but in a temporary folder.

Not for: results of any accuracy.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halcyon import config
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.campaign.work import md_steps, pretrained_frames, units
from halcyon.errors import EXIT_BAD_INPUT, InputError
from halcyon.wording import count

if TYPE_CHECKING:
    from ase import Atoms

TRIALS = ("forcefield", "model", "label")
GRID = "grid"
"""A trial of CP2K alone: one frame on the level's grid and on a finer one."""
FINER = 1.5
"""By how much the cutoffs of the finer grid are larger."""
MD_FRAMES = 8
"""Frames of each structure that the trial's model learns from."""
EPOCHS = 4
STEPS = 48
"""Steps that an exploration is timed over, after as many that are not timed."""
SMALLEST_BOX_A = 6.0
SEED = 1


def main(command_line: Sequence[str] | None = None) -> int:
    """Parse the command line, run one trial, and print what it measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trial", choices=(*TRIALS, GRID))
    parser.add_argument("--configfile", required=True, type=Path)
    parser.add_argument("--system", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="the smallest thing that shows it runs")
    parser.add_argument("--out", type=Path, help="write the result here, too")
    arguments = parser.parse_args(command_line)
    begun = time.perf_counter()
    code = 0
    try:
        content = config.read_yaml(arguments.configfile)
        campaign = Campaign.resolve(content, str(arguments.configfile))
        plan = replace(campaign.systems[arguments.system], prepared=None)
        result = run(campaign, plan, arguments.trial, arguments.threads, tiny=arguments.tiny)
        result["trial_s"] = time.perf_counter() - begun
    except InputError as error:
        result, code = {"error": str(error)}, EXIT_BAD_INPUT
    text = json.dumps(result)
    print(text)  # noqa: T201
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")
    return code


def run(
    campaign: Campaign, plan: SystemPlan, trial: str, threads: int = 1, *, tiny: bool = False
) -> dict[str, Any]:
    """One trial.

    Args:
        campaign: gives the reference.
        plan: the system, with its settings.
        trial: one of `TRIALS`, or `GRID`.
        threads: for PyTorch and the reference.
        tiny: a smaller system where that shows as much.

    Returns:
        What was measured; times in s, sizes in bytes.

    Raises:
        InputError: what the campaign asks for cannot work.
    """
    match trial:
        case "forcefield":
            return forcefield(plan, tiny=tiny)
        case "model":
            return model(plan, threads=threads, tiny=tiny)
        case "grid":
            return grid(campaign, plan, threads=threads)
        case _:
            return label(campaign, plan, threads=threads, tiny=tiny)


def cpu_clock() -> float:
    """Processor time of this process and those it waited for, s.

    Where others work on the machine, as on a login node, it says more than the clock on the wall.
    """
    children = os.times()
    # os.times counts in hundredths of a second, which is as long as a label of GFN2-xTB.
    return time.process_time() + children.children_user + children.children_system


def sampled(plan: SystemPlan, names: Sequence[str], frames: int) -> "list[Atoms]":
    """Some frames of each structure's dynamics, labelled by the force field.

    Args:
        plan: the system.
        names: of the structures.
        frames: of each structure.
    """
    from halcyon.teacher.sampling import sample

    every = []
    for name in names:
        settings = _trial_dynamics(plan, frames).model_copy(
            update={"force_cap_eV_per_A": 1e6, "min_difference_A": 0.0}
        )
        every += sample(plan.teacher(name), plan.start(name), settings, seed=SEED)[0]
    return every


def forcefield(plan: SystemPlan, *, tiny: bool) -> dict[str, Any]:
    """Dynamics with the teacher, which OpenMM or a program computes."""
    import openmm

    by_size = [name for name in _smallest(plan) if name in plan.sampled]
    names = by_size[:1] if tiny else plan.sampled
    begun = cpu_clock()
    frames = sampled(plan, names, MD_FRAMES)
    seconds = cpu_clock() - begun
    steps = len(names) * md_steps(_trial_dynamics(plan, MD_FRAMES))
    program = plan.teacher(names[0]).program or f"OpenMM {openmm.version.short_version}"
    about = f"{program}, {steps} steps of {', '.join(names)}"
    seconds_per_step = seconds / steps
    if plan.settings.pretraining.atomic:
        each, method = seconds_of_properties(plan, frames), plan.settings.pretraining.atomic_method
        # Properties are counted with the steps between two frames.
        seconds_per_step += each * pretrained_frames(plan) / units(plan, "forcefield", None)
        about += f", and {method}'s atomic properties at {1e3 * each:.1f} ms a frame"
    return {"seconds_per_step": seconds_per_step, "frames": len(frames), "about": about}


def seconds_of_properties(plan: SystemPlan, frames: "Sequence[Atoms]") -> float:
    """Processor time of a frame's atomic properties, s.

    Args:
        plan: the system.
        frames: of its dynamics, at least one; those of structures that are pre-trained on count.
    """
    from halcyon.teacher.atomic import add_properties

    method = plan.settings.pretraining.atomic_method
    frames = [f for f in frames if plan.structures[f.info["structure"]].pretrain] or frames
    add_properties(frames[:1], method)  # the first is slow: a library is loaded
    begun = cpu_clock()
    add_properties(frames, method)
    return (cpu_clock() - begun) / len(frames)


def _trial_dynamics(plan: SystemPlan, frames: int) -> config.TeacherSettings:
    """The teacher's dynamics at its lowest temperature alone, and no walls."""
    teacher = plan.settings.teacher
    coldest = min(teacher.temperatures_K)
    return teacher.without_walls(coldest).model_copy(
        update={"md_frames": frames, "temperatures_K": [coldest]}
    )


def model(plan: SystemPlan, *, threads: int, tiny: bool) -> dict[str, Any]:
    """A short training, an evaluation, and an exploration of some steps."""
    import torch

    from halcyon.frames import table_of
    from halcyon.models import mace, training

    torch.set_num_threads(threads)
    settings = plan.settings
    device = mace.chosen_device(settings.resources.device)

    def clock() -> float:
        """Seconds of one core; of a GPU, wall time: its work is not seen otherwise."""
        return cpu_clock() / threads if device.type == "cpu" else time.perf_counter()

    explored = [name for name in _smallest(plan) if name in plan.explored]
    names = explored[:1] if tiny else plan.sampled
    frames = sampled(plan, names, MD_FRAMES)
    stamps: list[float] = []
    with tempfile.TemporaryDirectory(prefix="halcyon-trial-") as temporary:
        work = Path(temporary)
        file = work / "model.model"
        fit = settings.training.model_copy(
            update={"epochs": 2 if tiny else EPOCHS, "updates": None}
        )
        training.train(
            frames,
            frames[:2],
            training.Recipe(
                elements=plan.elements,
                model=settings.model,
                fit=fit,
                seed=SEED,
                device=str(device),
            ),
            out=file,
            work=work,
            callbacks=training.Callbacks(
                progress=lambda _: stamps.append(clock()), say=lambda _: None
            ),
        )
        loaded = mace.load(file, device=str(device), dtype=settings.model.dtype)
        mace.evaluate(loaded, frames)
        begun = clock()
        predictions = mace.evaluate(loaded, frames)
        seconds_per_frame = (clock() - begun) / len(frames)
        step = exploration_step(
            plan,
            loaded,
            frames,
            predictions,
            work=work,
            steps=8 if tiny else STEPS,
            clock=clock,
        )
        epochs = [after - before for before, after in itertools.pairwise(stamps)]
        return {
            "seconds_per_structure_and_epoch": [s / len(frames) for s in epochs],
            "seconds_per_evaluation": seconds_per_frame,
            "seconds_per_replica_step": step,
            "model_bytes": file.stat().st_size,
            "frame_bytes": table_of(frames).nbytes / len(frames),
            "device": str(device),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            "about": f"MACE on {device}, {count(threads, 'thread')}: {', '.join(names)}",
        }


def exploration_step(
    plan: SystemPlan,
    loaded: Any,
    frames: "list[Atoms]",
    predictions: Any,
    *,
    work: Path,
    steps: int,
    clock: Callable[[], float],
) -> float:
    """Seconds per replica-step of the campaign's exploration, with as many replicas at once.

    Args:
        plan: the system; its settings give replicas, signals and thermostat.
        loaded: MACE model.
        frames: labelled frames, which the domain is fitted to and replicas start from.
        predictions: of the model for these frames.
        work: folder for the exploration's state.
        steps: that are timed, after as many that are not.
        clock: gives the time, s.
    """
    from halcyon.domain import calibration
    from halcyon.domain.samples import Sample, Samples
    from halcyon.exploration.dynamics import Replica
    from halcyon.exploration.explore import Monitoring, RunControl, explore
    from halcyon.frames import structure_only
    from halcyon.models.batched import BatchedMace

    settings = plan.settings
    sample = Sample.of(frames, predictions)
    names = sorted({frame.info["structure"] for frame in frames})
    signals = [s for s in settings.domain.signals if s != "committee"]
    indicator = settings.domain.model_copy(update={"signals": signals})
    domain = calibration.fit_domain(
        Samples(train=sample, teacher=sample, held_out=sample, check=sample),
        classes={name: plan.classes(name) for name in names},
        bonds={name: [(i, j, 1.0) for i, j in plan.bonds(name)] for name in names},
        settings=indicator,
        seed=SEED,
    )
    explored = [f for f in frames if f.info["structure"] in plan.explored]
    replicas = [
        Replica(number, 100.0, structure_only(explored[number % len(explored)]))
        for number in range(settings.exploration.replicas)
    ]
    monitoring = Monitoring(domain=domain, settings=indicator, system_kind=plan.system.kind)
    wrapper = BatchedMace(loaded, compute_stress=settings.exploration.ensemble == "npt")
    # The model has hardly learned anything: no replica may be stopped for what it does.
    calm: dict[str, Any] = {
        "bond_stretch_A": 1e6,
        "min_distance_A": 1e-6,
        "energy_drift_eV_per_atom": 1e9,
    }
    calm |= {"replacements": 0, "trajectory_every_fs": None, "equilibration_ps": 0.0}

    def seconds(number: int) -> float:
        short = settings.exploration.model_copy(
            update=calm | {"time_ps": number * settings.exploration.timestep_fs / 1000}
        )
        begun = clock()
        explore(
            wrapper,
            replicas,
            short,
            monitoring,
            RunControl(work=work / f"explore-{number}", identity="trial"),
            seed=SEED,
        )
        return clock() - begun

    seconds(steps)  # the first steps are slow: kernels are chosen
    return max(seconds(2 * steps) - seconds(steps), 0.0) / (steps * len(replicas))


def label(campaign: Campaign, plan: SystemPlan, *, threads: int, tiny: bool) -> dict[str, Any]:
    """One label of the reference, of the largest structure.

    A tiny trial labels the smallest structure, with CP2K a hydrogen molecule if the system has
    hydrogen.

    Raises:
        InputError: the reference refuses, or its calculation did not end well.
    """
    from halcyon.labels.reference.base import Status

    reference = campaign.reference()
    if reference.pool is not None:
        return {"core_seconds": 0.0, "about": f"{len(reference.pool)} published frames"}
    by_size = [name for name in _smallest(plan) if name in plan.labelled]
    atoms = plan.start(by_size[0] if tiny else by_size[-1])
    if tiny and isinstance(campaign.settings.reference, config.Cp2kReference):
        atoms = _hydrogen(plan) or atoms
    reference.check([atoms])
    with tempfile.TemporaryDirectory(prefix="halcyon-trial-") as temporary:
        begun = cpu_clock()
        record = next(iter(reference.label([atoms], Path(temporary), threads)))
        core_seconds = cpu_clock() - begun
    if record.status is not Status.OK:
        raise InputError(f"reference: {atoms.info['structure']}: {record.status}: {record.message}")
    level = reference.level
    return {
        "core_seconds": core_seconds,
        "seconds": record.seconds,
        "atoms": len(atoms),
        "scf_steps": record.scf_steps,
        "about": f"{level.get('program')} {level.get('version', '')}: one label of "
        f"{atoms.get_chemical_formula()}",
    }


def grid(campaign: Campaign, plan: SystemPlan, *, threads: int) -> dict[str, Any]:
    """Forces of one frame of the smallest structure on CP2K's grid and on a finer one.

    Raises:
        InputError: the reference is not CP2K, refuses, or a calculation did not end well.
    """
    import numpy as np

    from halcyon.labels.reference.base import Status
    from halcyon.labels.reference.cp2k.backend import Cp2k

    reference = campaign.reference()
    if not isinstance(reference, Cp2k):
        raise InputError("only CP2K has a grid")
    atoms = plan.start(_smallest(plan)[0])
    # Off the places of symmetry, where errors of the grid may cancel.
    atoms.positions += np.random.default_rng(SEED).normal(scale=0.05, size=atoms.positions.shape)
    reference.check([atoms])
    forces = []
    for level in (reference, reference.finer(FINER)):
        with tempfile.TemporaryDirectory(prefix="halcyon-trial-") as temporary:
            record = next(iter(level.label([atoms], Path(temporary), threads)))
        if record.status is not Status.OK or record.forces is None:
            raise InputError(
                f"reference: {atoms.info['structure']}: {record.status}: {record.message}"
            )
        forces.append(record.forces)
    difference = np.linalg.norm(forces[1] - forces[0], axis=1)
    return {
        "largest_force_difference_eV_per_A": float(difference.max()),
        "about": f"{atoms.info['structure']}: forces change by up to {1e3 * difference.max():.1f} "
        f"meV/Å with {FINER:g} times the cutoffs",
    }


def _hydrogen(plan: SystemPlan) -> "Atoms | None":
    """A hydrogen molecule; None where the system has no hydrogen, and no basis set for it."""
    from ase import Atoms

    if 1 not in plan.elements:
        return None
    box = [SMALLEST_BOX_A] * 3
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], cell=box, pbc=_periodic(plan))
    atoms.center()
    atoms.info = {"charge": 0, "multiplicity": 1, "structure": "hydrogen"}
    return atoms


def _periodic(plan: SystemPlan) -> bool:
    return bool(plan.start(_smallest(plan)[0]).pbc.all())


def _smallest(plan: SystemPlan) -> list[str]:
    """Structures by their number of atoms."""
    return sorted(plan.structures, key=lambda name: len(plan.start(name)))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
