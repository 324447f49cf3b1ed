"""The plan of `cli_validity`, its cells, and how they are kept on disk.

A cell is one piece of work and one small JSON file, which names the plan it belongs to: cells of
different plans do not mix.

    plan = Plan()
    cell = Cell("dynamics", plan.models()[0], 900.0)
    read_cell(folder / f"{cell.name}.json", plan)  # None where it was not computed yet

Not for: computing them (see `runs`), or what they say (see `statistics`).
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from halcyon import files
from halcyon.config import (
    DomainSettings,
    ExplorationSettings,
    ModelSettings,
    PretrainingSettings,
    TrainingSettings,
)
from halcyon.errors import InputError

SCHEMA = 1
SEED = 20261121
MOMENTA = "centre of mass at rest"
"""How replicas begin. Cells that lack it began with the mean momentum removed from every atom."""
GROUPS = ("scratch", "pre-trained")
"""Of models."""
SIGNALS = ("node_energy", "guard", "latent", "latent_guard", "potential_energy", "bond_stretch")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done.

    Attributes:
        labels: training labels of each model.
        seeds: models of each kind, which differ in the seed of their weights.
        temperatures_K: of the thermostat, K.
        replicas: per cell.
        time_ps: of each replica, ps.
        extension: replicas go on for so many times that time.
        trace_fs: time between two points, fs.
        nve_replicas: per cell without thermostat.
        nve_ps: time without thermostat, ps; a quarter of it more, before, with thermostat.
        validation: held-out labels, at 300 K.
        test: labels used for nothing but errors, at 300 K; half as many at each other temperature.
        teacher_frames: from dynamics; half as many displaced ones.
        epochs: of training and of pre-training.
        committee: more models for the signal `committee`; 0: it is not watched.
    """

    labels: tuple[int, ...] = (25, 100)
    seeds: int = 1
    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0, 1200.0, 1600.0)
    replicas: int = 16
    time_ps: float = 4.0
    extension: int = 5
    timestep_fs: float = 0.5
    trace_fs: float = 50.0
    nve_replicas: int = 8
    nve_ps: float = 2.0
    validation: int = 20
    test: int = 40
    teacher_frames: int = 300
    epochs: tuple[int, int] = (90, 25)
    committee: int = 0

    @property
    def digest(self) -> str:
        """Of all that cells depend on. More seeds are more models: the others stay."""
        content = asdict(self) | {"seed": SEED, "signals": self.signals}
        del content["seeds"]
        for settings in (ModelSettings(), PretrainingSettings(), TrainingSettings()):
            content |= {type(settings).__name__: settings.model_dump()}
        exploration = ExplorationSettings()
        for name in ("friction_per_ps", "bond_stretch_A", "min_distance_A"):
            content[name] = getattr(exploration, name)
        content["alpha"] = DomainSettings().alpha
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    @property
    def signals(self) -> list[str]:
        """Watched at every step."""
        return [*SIGNALS, *(["committee"] if self.committee else [])]

    def models(self) -> list["Model"]:
        """All models, the cheapest first."""
        return [
            Model(group=group, labels=labels, seed=seed)
            for seed in range(1, self.seeds + 1)
            for labels in self.labels
            for group in GROUPS
        ]


SMOKE = Plan(
    labels=(10, 12),
    temperatures_K=(300.0, 3000.0),
    replicas=2,
    time_ps=0.1,
    trace_fs=10.0,
    nve_replicas=2,
    nve_ps=0.04,
    validation=6,
    test=4,
    teacher_frames=20,
    epochs=(3, 2),
)


@dataclass(frozen=True)
class Model:
    """Which model: its group, training labels and seed."""

    group: str
    labels: int
    seed: int

    @property
    def name(self) -> str:
        """E.g. `scratch-25-1`."""
        return f"{self.group.replace('-', '')}-{self.labels}-{self.seed}"


@dataclass(frozen=True)
class Cell:
    """One piece of work: `dynamics`, `nve` or `extension` of a model at a temperature in K."""

    kind: str
    model: Model
    temperature_K: float

    @property
    def name(self) -> str:
        """E.g. `dynamics_scratch-25-1_900K`."""
        return f"{self.kind}_{self.model.name}_{self.temperature_K:g}K"

    @property
    def seed(self) -> int:
        """Of starts, momenta and thermostat; the same for a run and its extension."""
        kind = "nve" if self.kind == "nve" else "dynamics"
        return derived_seed(kind, self.model.name, f"{self.temperature_K:g}")


def derived_seed(*words: str) -> int:
    """A seed that depends on these words only."""
    return int.from_bytes(hashlib.sha256(" ".join([str(SEED), *words]).encode()).digest()[:4]) >> 1


def write_cell(path: Path, cell: dict[str, Any]) -> None:
    """Write a cell or a model's description atomically, one line per replica."""
    content = dict(cell)
    rows = content.pop("replicas", None)
    text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
    if rows is not None:
        lines = ",\n".join(json.dumps(row, separators=(",", ":"), allow_nan=False) for row in rows)
        text = f'{text[:-2]},\n "replicas": [\n{lines}\n ]\n}}'
    files.write_text(path, text + "\n")


def read_cell(path: Path, plan: Plan | None = None) -> dict[str, Any] | None:
    """Read what `write_cell` wrote; None where there is nothing yet.

    Raises:
        InputError: it is of another schema, or of another plan than `plan`.
    """
    if not path.exists():
        return None
    cell = files.read_json(path)
    if cell.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a cell of schema {SCHEMA}")
    if plan is not None and cell["plan"] != plan.digest:
        raise InputError(
            f"{path}: made with other settings ({cell['plan']}, now {plan.digest}): delete it, or "
            "give another folder (--cells)"
        )
    return cell


def read_all(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cells of a folder by model and temperature, and the descriptions of their models.

    Raises:
        InputError: they are of different plans.
    """
    found = [read_cell(path) for path in sorted(folder.glob("*.json"))]
    entries = [entry for entry in found if entry is not None]
    if len({entry["plan"] for entry in entries}) > 1:
        raise InputError(f"{folder}: holds cells that were made with different settings")
    models = [entry for entry in entries if entry["kind"] == "model"]
    cells = [entry for entry in entries if entry["kind"] != "model"]
    return sorted(cells, key=lambda cell: (cell["model"], cell["temperature_K"])), models
