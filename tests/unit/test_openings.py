"""The usage examples at the top of the modules run.

An example is an indented block of a module's docstring. Every name that it uses and does not make
itself is a fixture of this file; a file that it reads is put in place where the example names it.
An example of a shell's command line is parsed by its program, and not run. `SHOWN` lists indented
blocks that are no code. No other block is left out.
"""

import argparse
import ast
import builtins
import copy
import json
import re
import runpy
import shlex
import shutil
import sys
from functools import cache
from importlib.metadata import entry_points
from types import SimpleNamespace

import ase.build
import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
import torch_sim
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from test_batched_mace import random_model
from test_certificate import CRITERIA, made
from test_house import modules

from conftest import ROOT
from halcyon.commands.new_system.wish import Wish, parts_of
from halcyon.config import (
    Cp2kReference,
    DomainSettings,
    ExplorationSettings,
    FitSettings,
    MetadynamicsBias,
    ModelSettings,
    SelectionSettings,
    Settings,
    StructureSettings,
    XmlForceField,
    XtbReference,
    read_yaml,
)
from halcyon.domain.calibration import fit_domain
from halcyon.domain.intervals import Domain
from halcyon.domain.samples import Sample, Samples
from halcyon.exploration.dynamics import Replica
from halcyon.exploration.generation import Watched
from halcyon.final.evidence import ReplicaEnd
from halcyon.final.folder import write_structures
from halcyon.final.monitor.judging import Judged
from halcyon.frames import structure_key, structure_only
from halcyon.labels.labelling import Labeller
from halcyon.labels.reference.evc import states_file
from halcyon.labels.reference.evc.continuation import Continuation
from halcyon.labels.reference.evc.growth import Grown
from halcyon.labels.reference.xtb import Xtb
from halcyon.labels.second_opinion import second_hamiltonian
from halcyon.labels.store import LabelStore
from halcyon.models import mace
from halcyon.models.batched import BatchedMace
from halcyon.models.fast.layers import layer as read_layer
from halcyon.models.graphs import graphs, joined
from halcyon.models.training import Recipe
from halcyon.systems import bonds, start_structure
from halcyon.teacher.forcefield import make_teacher
from toy_campaign import TIME_PS, write_audits

SHOWN = {
    "halcyon.final.folder": "model.model ",
    "halcyon.labels.reference.evc.continuation": "H_ij = ",
    "halcyon.labels.store": "<store>/",
    "halcyon.models.fast.kernels": "A[n, ρ, c] =",
    "halcyon.models.fast.polynomial": "B_o = ",
    "halcyon.models.fast.solid_harmonics": "∂_a S_lm =",
    "halcyon.models.fast.training_loops": ("L = ", "by x' += "),
}
"""How the blocks begin that are no code: lists of files, and formulas."""
PROGRAMS = ("python ", "halcyon ", "mace_")
"""How a shell's command line begins."""
CPU = torch.device("cpu")
DATA = ROOT / "tests/data"


# The examples.


def blocks(docstring: str) -> list[str]:
    """Indented blocks; an empty line inside does not end one."""
    found: list[list[str]] = []
    inside = False
    for line in docstring.splitlines():
        if line.startswith("    "):
            if not inside:
                found.append([])
            found[-1].append(line.removeprefix("    "))
            inside = True
        elif line:
            inside = False
        elif inside:
            found[-1].append("")
    return ["\n".join(lines).strip() for lines in found]


def openings() -> list[tuple[str, str]]:
    """Module and text of every block that is code."""
    return [
        (name, block)
        for name, path in modules().items()
        for block in blocks(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        if not block.startswith(SHOWN.get(name, "\0"))
    ]


EXAMPLES = openings()
CODE = [pair for pair in EXAMPLES if not pair[1].startswith(PROGRAMS)]
COMMAND_LINES = [pair for pair in EXAMPLES if pair[1].startswith(PROGRAMS)]


def names(pairs: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in pairs]


def prepared(tree: ast.Module) -> list[str]:
    """Names that an example uses and does not make itself."""
    own = set(dir(builtins)) | {"__name__", "__doc__"}
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
        elif isinstance(node, ast.Name):
            used.add(node.id)
    return sorted(used - own)


def promised(line: str) -> tuple[bool, object]:
    """The value that the comment behind an expression gives, if it gives one."""
    try:
        return True, ast.literal_eval(line.partition("  # ")[2])
    except (SyntaxError, ValueError):
        return False, None


def run(text: str, namespace: dict) -> None:
    """Run an example; where a comment gives the value or the error, compare."""
    lines = text.splitlines()
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr):
            line = lines[statement.end_lineno - 1]
            code = compile(ast.Expression(statement.value), "the example", "eval")
            if error := re.search(r"  # (\w+Error): ", line):
                with pytest.raises(Exception, match="") as raised:
                    eval(code, namespace)  # noqa: S307 - the repository's own text
                assert raised.typename == error[1]
                continue
            value = eval(code, namespace)  # noqa: S307 - the repository's own text
            given, expected = promised(line)
            assert not given or value == expected, f"{line}: it is {value!r}"
        else:
            code = compile(ast.Module([statement], []), "the example", "exec")
            exec(code, namespace)  # noqa: S102 - the repository's own text


@pytest.mark.parametrize(("module", "text"), CODE, ids=names(CODE))
def test_the_example_runs(module, text, folder, request):
    if read := [path for path in FILES if path in text]:
        path = max(read, key=len)
        FILES[path](folder / path.strip('"'), request)
    namespace = {"__name__": "example", "__doc__": f"An example of {module}."}
    given = PREPARED.get(module, lambda _request: {})(request)
    for name in prepared(ast.parse(text)):
        namespace[name] = given[name] if name in given else request.getfixturevalue(name)
    run(text, namespace)


class ParsedError(Exception):
    """The program took the command line; more is not asked."""


@pytest.mark.parametrize(("module", "text"), COMMAND_LINES, ids=names(COMMAND_LINES))
def test_the_program_takes_the_command_line(module, text, monkeypatch):
    del module
    parse = argparse.ArgumentParser.parse_args

    def parse_only(*arguments, **options):
        parse(*arguments, **options)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    for line in text.splitlines():
        program, *words = shlex.split(line)
        if program == "python":
            _, target, *words = words
        else:
            (entry,) = entry_points(group="console_scripts", name=program)
            target = entry.module
        monkeypatch.setattr(sys, "argv", [program, *words])
        monkeypatch.delitem(sys.modules, target, raising=False)  # runpy loads it anew
        with pytest.raises(ParsedError):
            runpy.run_module(target, run_name="__main__")


def test_what_is_no_code_is_listed():
    for name, beginning in SHOWN.items():
        path = modules()[name]
        found = blocks(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
        assert any(block.startswith(beginning) for block in found), name


def test_examples_are_found_and_names_are_not_forgotten():
    assert blocks("First.\n\n    a = 1\n\n    b = a\n\nText.\n\n    c\n") == ["a = 1\n\nb = a", "c"]
    tree = ast.parse("from x import f\ndef g(a): return a\ny = [f(i) for i in known]\ng(y, print)")
    assert prepared(tree) == ["known"]
    assert len(EXAMPLES) > 50


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("from halcyon.layout import JobSizes", ImportError),
        ("from halcyon.wording import count\ncount(1, 'frame')  # '1 frames'", AssertionError),
        ("missing + 1", NameError),
        ("int('1')  # ValueError: no number", pytest.fail.Exception),
    ],
)
def test_a_stale_example_fails(text, error):
    with pytest.raises(error):
        run(text, {})


# What stands in place.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder of an example, with the shipped configuration."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def results(toy, folder, rattled):
    """`results/quickstart`, its system and its verdict files, all made up."""
    campaign, verdicts = toy()
    write_audits(verdicts, rattled)
    campaign.systems["ethanol"] = campaign.systems["toy"]
    campaign.write()
    (folder / "trial/ethanol").symlink_to("toy")
    (folder / "results").mkdir()
    (folder / "results/quickstart").symlink_to("../trial")
    return campaign, verdicts


@pytest.fixture
def campaign(results):
    return results[0]


@pytest.fixture
def verdicts(results):
    return results[1]


def put_results(path, request):
    del path
    request.getfixturevalue("results")


def put_model(path, request):
    shutil.copy(request.getfixturevalue("model_file"), path)


def put_final(path, request):
    request.getfixturevalue("results")
    shutil.copytree(request.getfixturevalue("final"), path, dirs_exist_ok=True)


def put_certificate(path, request):
    del request
    made(path.parents[1])
    (path.parents[1] / "certificate").rename(path.parent)


def put_published_set(path, request):
    frames = request.getfixturevalue("frames")
    np.savez(
        path,
        Z=frames[0].numbers,
        R=[frame.positions for frame in frames],
        E=[frame.info["energy"] for frame in frames],
        F=[frame.arrays["forces"] for frame in frames],
    )


def put_extended_xyz(path, request):
    frames = [frame.copy() for frame in request.getfixturevalue("frames")]
    for frame in frames:
        frame.calc = SinglePointCalculator(
            frame, energy=frame.info["energy"], forces=frame.arrays.pop("forces")
        )
        frame.info = {}
    ase.io.write(path, frames)


def put_label_store(path, _request):
    shutil.copytree(DATA / "labels/store", path)


def put_domain(path, request):
    path.parent.mkdir()
    request.getfixturevalue("domain").write(path)


def put_copy(source, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, path)


def put_states(path, _request):
    first = ase.build.molecule("H2O")
    continuation = Continuation.begin(first, "sto-3g")
    continuation = continuation.with_states(first, continuation.exact(first))
    states_file.write(path, Grown(continuation, True, 1, [0.0], 0.0))


FILES = {
    '"water.npz"': put_states,
    "results/quickstart": put_results,
    '"m.model"': put_model,
    '"results/quickstart/ethanol/final"': put_final,
    "results/quickstart/ethanol/final/certificate.json": put_certificate,
    "set.npz": put_published_set,
    "set.xyz": put_extended_xyz,
    '"labels"': put_label_store,
    "results/quickstart/ethanol/final/card.json": lambda path, _request: put_copy(
        DATA / "final/card.json", path
    ),
    "gen000/domain.json": put_domain,
    "results/quickstart/ethanol/gen000/metrics.json": lambda path, _request: put_copy(
        DATA / "models/first-metrics.json", path
    ),
    '"model.model"': put_model,
}
"""By its name in an example: what puts a file in place."""


# Names that mean something else in one module.

PREPARED = {}
"""By module: a function that makes these names."""


def prepares(module):
    """Register the function below for a module."""

    def register(make):
        PREPARED[module] = make
        return make

    return register


@prepares("halcyon.final.evidence")
def replica_ends(request):
    traces = request.getfixturevalue("traces")
    entry = {"structure": "water", "start_key": "", "temperature_K": 500.0, "atoms": 3}
    entry |= {"time_ps": TIME_PS, "failure": None}
    return {"replicas": [ReplicaEnd(replica=n, **entry) for n in sorted(set(traces["replica"]))]}


@prepares("halcyon.exploration.selection")
def selection(_request):
    return {"settings": SelectionSettings(), "exploration": ExplorationSettings()}


@prepares("halcyon.exploration.reservoir")
def reservoir(request):
    frames = request.getfixturevalue("frames")
    for number, frame in enumerate(frames):
        frame.info |= {"draw": number / len(frames), "temperature": 500.0, "replica": 0}
    return {"reservoir": frames}


@prepares("halcyon.labels.second_opinion")
def labels_of_water(request):
    frames = request.getfixturevalue("rattled")(8)
    for frame in frames:
        frame.arrays["forces"] = -frame.positions
    return {"labelled": frames}


@prepares("halcyon.exploration.opinions")
def second_opinion(request):
    frames = request.getfixturevalue("rattled")(12)
    for number, frame in enumerate(frames):
        frame.info |= {"draw": number / 12, "temperature": 500.0, "replica": 0, "time": 1.0}
    hamiltonian = second_hamiltonian("gfn1")
    folder = request.getfixturevalue("tmp_path")
    labeller = Labeller(
        reference=hamiltonian,
        store=LabelStore(folder / "store", hamiltonian.level),
        work=folder / "work",
        cores=1,
        provenance={"campaign": "trial", "system": "water"},
    )
    labelled = labels_of_water(request)["labelled"]
    model = random_model()
    return {"reservoir": frames, "labelled": labelled, "model": model, "labeller": labeller}


@prepares("halcyon.exploration.generation")
def generation(request):
    labelled = request.getfixturevalue("train")
    for frame in labelled:
        frame.info["status"] = "ok"
    model, domain = (request.getfixturevalue(name) for name in ("model", "domain"))
    watched = Watched(model=model, domain=domain, system_kind="molecule")
    return reservoir(request) | {"labelled": labelled, "watched": watched, "settings": Settings()}


@prepares("halcyon.exploration.monitoring")
def monitoring(_request):
    return {"settings": Settings()}


@prepares("halcyon.exploration.dynamics")
def dynamics(request):
    return {"model": BatchedMace(request.getfixturevalue("model"))}


@prepares("halcyon.models.fast.neighbours")
def neighbours(_request):
    return {"positions": np.random.default_rng(1).uniform(0.0, 6.0, (9, 3))}


@prepares("halcyon.domain.states")
def states(request):
    return dynamics(request)


@prepares("halcyon.domain.environments")
def environments(request):
    random = np.random.default_rng(1)
    del request
    return {"descriptors": [random.normal(size=(3, 4)) for _ in range(50)]}


@prepares("halcyon.domain.calibration")
def calibration(request):
    model = request.getfixturevalue("model")
    samples = {
        name: sample(model, molecules(60, seed))
        for seed, name in enumerate(("train", "teacher", "held_out", "check"))
    }
    return samples | {"bonds": {"ethanol": mean_bonds("ethanol")}}


@prepares("halcyon.domain.index")
def index(_request):
    return {"scores": torch.zeros(5, 9)}


@prepares("halcyon.domain.margins")
def margins(_request):
    random = np.random.default_rng(1)
    return {name: [random.normal(size=9) for _ in range(60)] for name in ("scores", "check")}


@prepares("halcyon.domain.failures")
def failures(_request):
    return {"energy": torch.zeros(2), "forces": torch.zeros(18, 3)}


@prepares("halcyon.final.monitor.watch")
def watch(request):
    forces = np.zeros((9, 3))
    model = request.getfixturevalue("model")
    atoms = request.getfixturevalue("atoms")
    predicted = mace.evaluate(model, [atoms])
    output = {"node_energy": torch.tensor(predicted.node_energy[0])}
    return {"energy": 0.0, "forces": forces, "output": output}


@prepares("halcyon.exploration.schedule")
def schedule(_request):
    return {"step": 0}


@prepares("halcyon.files")
def files(request):
    return {"path": request.getfixturevalue("folder") / "any.json", "content": b"text"}


@prepares("halcyon.campaign.attempts")
def attempts(request):
    return {"path": request.getfixturevalue("folder") / "a.jsonl", "run": "1", "seconds": 1.0}


@prepares("halcyon.campaign.label_jobs")
def label_jobs(request):
    return {"frames": []} | label_parts(request)


@prepares("halcyon.campaign.looking")
def looking(request):
    content = request.getfixturevalue("content")
    output = SimpleNamespace(dryrun=True)
    return {"workflow": SimpleNamespace(output_settings=output), "config": content}


def label_parts(request):
    """A label backend with its store, and what a label job needs besides."""
    folder = request.getfixturevalue("folder")
    reference = Xtb(XtbReference(backend="xtb"))
    frame = molecules(1, 8, request.getfixturevalue("name"))[0]
    structures = {"ethanol": StructureSettings(name="ethanol", smiles="CCO")}
    store = LabelStore(folder / "labels", reference.level)
    labeller = Labeller(
        reference=reference, store=store, work=folder / "work", cores=1, provenance={}
    )
    return {
        "reference": reference,
        "store": store,
        "labeller": labeller,
        "work": folder / "work",
        "frames": [structure_only(frame)],
        "frame": structure_only(frame),
        "structures": structures,
    }


for _name in ("job", "labelling", "store", "reference.base", "reference.ase", "reference.xtb"):
    prepares(f"halcyon.labels.{_name}")(label_parts)
prepares("halcyon.labels.reference.dataset")(label_parts)


@prepares("halcyon.labels.journal")
def journal(_request):
    return {"frame": molecules(1, seed=8)[0]}


@prepares("halcyon.labels.seed")
def seed(_request):
    return {"teacher_frames": molecules(80, seed=9)}


@prepares("halcyon.models.checkpoints")
def checkpoints(_request):
    return {"identity": "any text"}


@prepares("halcyon.models.fit")
def fit(_request):
    settings = FitSettings(epochs=2, learning_rate=0.01)
    model = ModelSettings(channels=4)
    recipe = Recipe(elements=[1, 6, 8], model=model, fit=settings, seed=1)
    return {"recipe": recipe, "test": molecules(5, 4)}


FAST = "halcyon.models.fast."


@prepares(FAST + "layers")
def layers(request):
    return {"model": copy.deepcopy(request.getfixturevalue("model"))}


@prepares(FAST + "polynomial")
def contractions(request):
    return {"product": copy.deepcopy(request.getfixturevalue("model")).double().products[0]}


@prepares(FAST + "compiled")
@prepares(FAST + "tensor_steps")
def a_layer(request):
    exact = copy.deepcopy(request.getfixturevalue("model")).double()
    like = exact.atomic_energies_fn.atomic_energies
    layer = read_layer(exact.interactions[0], exact.products[0], n_elements=4, like=like)
    mixed = torch.ones(2, 16, layer.polynomial.coefficients.shape[2], dtype=torch.float64)
    return {"layer": layer, "mixed": mixed, "element": torch.tensor([0, 1])}


@prepares(FAST + "contraction")
@prepares(FAST + "training_pass")
def a_batch(request):
    model = copy.deepcopy(request.getfixturevalue("model")).requires_grad_(True)
    frames = molecules(1, seed=7)
    for frame in frames:
        frame.info["energy"] = 0.0
        frame.arrays["forces"] = 0 * frame.positions
    zeros = dict.fromkeys((1, 6, 7, 8), 0.0)
    return {"model": model, "batch": joined(graphs(frames, model, zeros))}


@prepares(FAST + "radial_network")
@prepares(FAST + "training_weights")
def a_model(_request):
    model = random_model()
    last = list(model.interactions[0].conv_tp_weights.children())[-1]
    width = len(model.radial_embedding.bessel_fn.bessel_weights)
    return {
        "model": model,
        "basis_with_slopes": torch.ones(6, width, dtype=torch.float64),
        "present": torch.tensor([0, 2]),
        "by_functions": torch.ones(6, last.weight.shape[1], dtype=torch.float64),
    }


@prepares(FAST + "kernels")
def loops(request):
    context = a_layer(request)
    polynomial = context["layer"].polynomial
    return {
        "mixed": context["mixed"].numpy(),
        "element": context["element"].numpy(),
        "pairs": polynomial.pairs,
        "terms": polynomial.terms,
        "coefficients": polynomial.coefficients.numpy(),
        "values": np.empty((2, 1, context["mixed"].shape[2])),
    }


@prepares("halcyon.report.watched")
def judged_trajectory(_request):
    frames = pd.DataFrame({"time_ps": [0.0], "cli_ps": 0.0, "cli_max_ps": 0.0, "outside": 0})
    frames["failure"] = ""
    atoms = pd.DataFrame({"atom": [0], "element": "O", "cli_ps": 0.0, "excursions": 0})
    return {"judged": Judged("water", "error", 0.01, frames, atoms, [])}


@prepares("halcyon.systems.fingerprint")
def fingerprints(_request):
    return {"start": molecules(1, seed=7)[0]}


CP2K = "halcyon.labels.reference.cp2k."


@prepares(CP2K + "output")
def output_of_cp2k(_request):
    forces = (DATA / "cp2k/methanol_2023.1.forces").read_text(encoding="utf-8")
    output = (DATA / "cp2k/methanol_2023.1.out").read_text(encoding="utf-8")
    return {"output": output, "forces": forces, "atoms": ase.build.molecule("CH3OH")}


@prepares(CP2K + "tree")
def tree(_request):
    return {"path": ROOT / "config/cp2k/pbe-d3-dzvp.yaml"}


@prepares(CP2K + "program")
def program(_request):
    return {"settings": Cp2kReference(backend="cp2k", level="l.yaml", command="true")}


# What examples use without making it.


@pytest.fixture(scope="session")
def model():
    """A small MACE model of H, C, N, O with random weights."""
    return random_model()


@pytest.fixture(scope="session")
def model_file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.model"
    torch.save(model, path)
    return path


SHAPES = {
    "ethanol": ("CH3CH2OH", [(0, 1), (0, 6), (0, 7), (0, 8), (1, 2), (1, 4), (1, 5), (2, 3)]),
    "water": ("H2O", [(0, 1), (0, 2)]),
}
"""Molecules: their name in ASE, and their bonds."""


def molecules(number, seed, name="ethanol"):
    """Displaced molecules with made-up labels."""
    random = np.random.default_rng(seed)
    start = ase.build.molecule(SHAPES[name][0])
    frames = []
    for index in range(number):
        noise = random.normal(scale=0.03, size=start.positions.shape)
        frame = Atoms(start.numbers, start.positions + noise)
        frame.info = {"charge": 0, "multiplicity": 1, "structure": name, "status": "ok"}
        frame.info |= {"key": structure_key(frame), "energy": float(random.normal())}
        frame.info |= {"replica": 0, "time": 0.1 * index, "temperature": 300.0, "split": "train"}
        frame.info |= {"message": "", "reason": "excursion", "score": 0.1, "cli_gain": 0.1}
        frame.info |= {"origin": "md", "level": "abc123"}
        frame.arrays["forces"] = random.normal(size=start.positions.shape)
        frames.append(frame)
    return frames


def mean_bonds(name):
    start = ase.build.molecule(SHAPES[name][0])
    return [(i, j, start.get_distance(i, j)) for i, j in SHAPES[name][1]]


@cache
def made_domain(name):
    """The domain of the small model for a molecule."""
    samples = {
        part: sample(random_model(), molecules(60, seed, name))
        for seed, part in enumerate(("train", "teacher", "held_out", "check"))
    }
    return fit_domain(
        Samples(**samples),
        classes={name: ase.build.molecule(SHAPES[name][0]).get_chemical_symbols()},
        bonds={name: mean_bonds(name)},
        settings=DomainSettings(signals=["latent"], alpha=1e-2),
        seed=1,
    )


@pytest.fixture
def name(request):
    """The molecule that an example is about: ethanol, unless it names water."""
    text = getattr(request.node, "callspec", None)
    return "water" if text and '"water"' in text.params["text"] else "ethanol"


def sample(model, frames):
    predicted = mace.evaluate(model, frames)
    return Sample(frames, predicted.node_energy, predicted.descriptors, predicted.forces)


@pytest.fixture
def frames(name):
    return molecules(20, 1, name)


@pytest.fixture
def train(name):
    return molecules(60, 2, name)


@pytest.fixture
def held_out(train):
    return train[:5]


@pytest.fixture
def labelled(model, train):
    return sample(model, train)


@pytest.fixture
def candidates(model, frames):
    return sample(model, frames)


@pytest.fixture
def classes(name):
    return {name: ase.build.molecule(SHAPES[name][0]).get_chemical_symbols()}


@pytest.fixture
def domain(name) -> Domain:
    return made_domain(name)


@pytest.fixture
def final(model_file, tmp_path):
    """A `final` folder of ethanol."""
    folder = tmp_path / "final"
    folder.mkdir()
    shutil.copy(model_file, folder / "model.model")
    made_domain("ethanol").write(folder / "domain.json")
    write_structures({"ethanol": molecules(1, seed=1)[0]}, folder)
    card = json.loads((DATA / "final/card.json").read_text(encoding="utf-8"))
    card |= {"dtype": "float64", "watch": card["watch"] | {"rate": 1e6, "atom_rate": 1e6}}
    card["watch"] |= {"bond_stretch_A": 1e6, "min_distance_A": 1e-6}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture
def steps():
    return 3


@pytest.fixture
def device():
    return CPU


@pytest.fixture
def starts(frames):
    return frames[:2]


@pytest.fixture(name="temperatures_K")
def temperatures():
    return [300.0, 300.0]


@pytest.fixture
def state(starts):
    return torch_sim.io.atoms_to_state(starts, CPU, torch.float64)


@pytest.fixture
def positions(state):
    return state.positions


@pytest.fixture
def output(model, starts):
    predicted = mace.evaluate(model, starts)
    return {
        "node_energy": torch.tensor(np.concatenate(predicted.node_energy)),
        "descriptors": torch.tensor(np.concatenate(predicted.descriptors)),
        "forces": torch.tensor(np.concatenate(predicted.forces)),
        "energy": torch.tensor(predicted.energy),
    }


@pytest.fixture
def elements():
    """Of a water, H, H, O, as places in the model's list of elements."""
    return torch.tensor([0, 0, 3])


@pytest.fixture
def sender():
    """Of all pairs of a water, by receiving atom."""
    return torch.tensor([1, 2, 0, 2, 0, 1])


@pytest.fixture
def vectors(positions, sender):
    water = positions[:3]
    return (water[[0, 0, 1, 1, 2, 2]] - water[sender]).T.contiguous()


@pytest.fixture
def replicas(starts):
    return [Replica(number, 300.0, frame) for number, frame in enumerate(starts)]


@pytest.fixture
def settings():
    return ExplorationSettings(
        replicas=2,
        time_ps=0.002,
        bias=MetadynamicsBias(
            kind="metadynamics",
            variables=[{"kind": "distance", "atoms": (0, 1), "sigma_A": 0.1}],
        ),
    )


@pytest.fixture
def traces(verdicts):
    return pd.read_parquet(verdicts[-1].parent / "traces.parquet")


@pytest.fixture
def criteria():
    return CRITERIA


@pytest.fixture
def content(folder):
    return read_yaml(folder / "config/quickstart.yaml")


@pytest.fixture
def trials():
    return {}


@pytest.fixture
def compute():
    """Labels by springs to the origin: energies and forces that agree."""

    def labelled(frames):
        for frame in frames:
            frame.info |= {"status": "ok", "message": "", "paid": 0.0}
            frame.info |= {"energy": float(np.square(frame.positions).sum())}
            frame.arrays["forces"] = -2 * frame.positions
        return frames

    return labelled


@pytest.fixture(scope="session")
def ethanol():
    settings = StructureSettings(name="ethanol", smiles="CCO")
    atoms = start_structure(settings)
    files = [ROOT / "config/forcefields/small-molecules.xml"]
    forcefield = XmlForceField(kind="forcefield_xml", files=files)
    return make_teacher(forcefield, atoms, bonds(settings, atoms)), atoms


@pytest.fixture
def teacher(ethanol):
    return ethanol[0]


@pytest.fixture
def start(ethanol):
    return ethanol[1]


@pytest.fixture
def atoms(name):
    return molecules(1, 1, name)[0]


@pytest.fixture
def mol2():
    return (ROOT / "tests/data/gaff2/ethanol.mol2").read_text(encoding="utf-8")


@pytest.fixture
def frcmod():
    return (ROOT / "tests/data/gaff2/ethanol.frcmod").read_text(encoding="utf-8")


@pytest.fixture
def molecule():
    (part,) = parts_of(Wish("methanol", "CO"))
    return part.molecule
