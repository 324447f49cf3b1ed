"""The usage examples at the top of the modules run.

An example is an indented block of a module's docstring. Every name that it uses and does not make
itself is a fixture of this file; a file that it reads is put in place where the example names it.
An example of a shell's command line is parsed by its program, and not run. `SHOWN` lists indented
blocks that are no code. No other block is left out.
"""

import argparse
import ast
import builtins
import json
import re
import runpy
import shlex
import shutil
import sys
from importlib.metadata import entry_points

import numpy as np
import pandas as pd
import pytest
import torch
import torch_sim
from ase import Atoms
from test_batched_mace import random_model
from test_certificate import CRITERIA, made
from test_house import modules

from conftest import ROOT
from halcyon.commands.new_system.wish import Wish, parts_of
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    MetadynamicsBias,
    StructureSettings,
    XmlForceField,
)
from halcyon.domain.calibration import Sample, Samples, fit_domain
from halcyon.domain.intervals import Domain
from halcyon.exploration.dynamics import Replica
from halcyon.final.evidence import ReplicaEnd
from halcyon.final.folder import write_structures
from halcyon.frames import structure_key
from halcyon.models import mace
from halcyon.systems import bonds, start_structure
from halcyon.teacher.forcefield import make_teacher
from toy_campaign import TIME_PS

SHOWN = {
    "halcyon.final.folder": "model.model ",
    "halcyon.labels.store": "<store>/",
    "halcyon.models.scalar.evaluate": "A[n, m, lc] =",
    "halcyon.models.scalar.solid_harmonics": "∂_a S_lm =",
}
"""How the blocks begin that are no code: lists of files, and formulas."""
PROGRAMS = ("python ", "halcyon ", "mace_")
"""How a shell's command line begins."""
CPU = torch.device("cpu")


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
    for name in prepared(ast.parse(text)):
        namespace[name] = request.getfixturevalue(name)
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
def results(toy, folder):
    """`results/quickstart`, its system and its verdict files, all made up."""
    campaign, verdicts = toy()
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


FILES = {
    "results/quickstart": put_results,
    '"m.model"': put_model,
    '"results/quickstart/ethanol/final"': put_final,
    "results/quickstart/ethanol/final/certificate.json": put_certificate,
    "set.npz": put_published_set,
}
"""By its name in an example: what puts a file in place."""


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


def waters(number, seed):
    """Displaced waters with made-up labels."""
    random = np.random.default_rng(seed)
    frames = []
    for index in range(number):
        positions = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]])
        frame = Atoms("OH2", positions + random.normal(scale=0.05, size=(3, 3)))
        frame.info = {"charge": 0, "multiplicity": 1, "structure": "water", "status": "ok"}
        frame.info |= {"key": structure_key(frame), "energy": float(random.normal())}
        frame.info |= {"replica": 0, "time": 0.1 * index, "temperature": 300.0, "split": "train"}
        frame.info |= {"message": "", "reason": "excursion", "score": 0.1, "cli_gain": 0.1}
        frame.arrays["forces"] = random.normal(size=(3, 3))
        frames.append(frame)
    return frames


def sample(model, frames):
    return Sample.of(frames, mace.evaluate(model, frames))


@pytest.fixture(scope="session")
def frames():
    return waters(20, seed=1)


@pytest.fixture(scope="session")
def train():
    return waters(60, seed=2)


@pytest.fixture
def held_out(train):
    return train[:5]


@pytest.fixture
def labelled(model, train):
    return sample(model, train)


@pytest.fixture
def candidates(model, frames):
    return sample(model, frames)


@pytest.fixture(scope="session")
def classes():
    return {"water": ["water:O0", "water:H0", "water:H0"]}


@pytest.fixture(scope="session")
def domain(model, train, classes) -> Domain:
    return fit_domain(
        Samples(
            train=sample(model, train),
            teacher=sample(model, waters(60, seed=3)),
            held_out=sample(model, waters(60, seed=4)),
            check=sample(model, waters(60, seed=5)),
        ),
        classes=classes,
        bonds={"water": [(0, 1, 0.97), (0, 2, 0.97)]},
        settings=DomainSettings(signals=["latent"], alpha=1e-2),
        seed=1,
    )


@pytest.fixture(scope="session")
def final(model_file, domain, frames, tmp_path_factory):
    """A `final` folder of water."""
    folder = tmp_path_factory.mktemp("final")
    shutil.copy(model_file, folder / "model.model")
    domain.write(folder / "domain.json")
    write_structures({"water": frames[0]}, folder)
    card = {"kind": "molecule", "dtype": "float64", "watch": {"rate": 1e6}}
    (folder / "card.json").write_text(json.dumps(card))
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
    water = positions[[1, 2, 0]]
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
def ends(traces):
    return [
        ReplicaEnd(
            replica=number,
            structure="water",
            start_key="",
            temperature_K=500.0,
            atoms=3,
            time_ps=TIME_PS,
            failure=None,
        )
        for number in sorted(set(traces["replica"]))
    ]


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
def atoms():
    return waters(1, seed=1)[0]


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
