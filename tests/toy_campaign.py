"""A campaign whose files are made up, written as the stages write them, and its page taken apart.

Not for: how the stages compute what they write.
"""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from halcyon import config, files, report
from halcyon.campaign.campaign import Campaign, SystemPlan
from halcyon.domain.intervals import Domain, DomainReport
from halcyon.domain.margins import Exceedance, Margin
from halcyon.exploration.traces import trace_columns, write_traces
from halcyon.frames import write_frames
from halcyon.models import drift, parity
from halcyon.models.metrics import Metrics, SetErrors, TrainingProgress
from halcyon.report.page import render

TIME_PS = 2.0
HOSTILE = 'SCF </script><script>alert(1)</script> & "gave up"'


def make_campaign(
    folder, *, structures=("water",), pretraining=True, description="", exploration=()
):
    """A campaign whose results lie under `folder`."""
    settings = config.Campaign(
        campaign="trial",
        systems=["toy"],
        reference={"backend": "xtb"},
        accuracy={"atom_force_eV_per_A": TOLERANCE},
        results=folder,
        label_store=folder / "labels",
        pretraining={"enabled": pretraining},
        exploration={"replicas": 4, "time_ps": TIME_PS} | dict(exploration),
    )
    system = config.System(
        name="toy",
        description=description,
        forcefield={"kind": "forcefield_xml", "files": ["small.xml"]},
        structures=[{"name": name, "smiles": "O"} for name in structures],
    )
    campaign = Campaign(
        settings, {"toy": SystemPlan(system, config.settings_for(settings, system))}
    )
    campaign.write()
    return campaign


def write_labels(path, frames, *, bad=()):
    """Label shard: frames with a record each, those named in `bad` without a label."""
    for number, frame in enumerate(frames):
        status, message = bad[number] if number < len(bad) else ("ok", "")
        frame.info |= {"status": status, "message": message, "level": "abc123", "split": "train"}
    write_frames(path, frames)


def curve(epochs, error):
    return [
        TrainingProgress(
            epoch=epoch,
            of=epochs,
            loss=error / epoch,
            forces_mae_meV_per_A=error * (1 + 1 / epoch),
            forces_rmse_meV_per_A=error * (1 + 2 / epoch),
            energy_mae_meV_per_atom=error / 20 * (1 + 1 / epoch),
            energy_rmse_meV_per_atom=error / 10 * (1 + 1 / epoch),
        )
        for epoch in range(1, epochs + 1)
    ]


def make_metrics(forces_mae, *, frames, curve):
    """Errors of a model of so much force MAE, with so many frames in each set."""
    errors = {
        "energy_mae_meV_per_atom": 5.67,
        "energy_rmse_meV_per_atom": 8.9,
        "forces_mae_meV_per_A": forces_mae,
        "forces_rmse_meV_per_A": 1.3 * forces_mae,
    }
    return Metrics(
        **{
            name: SetErrors(**errors, frames=number)
            for name, number in zip(("train", "validation", "test"), frames, strict=True)
        },
        best_epoch=7,
        e0s_eV={1: -13.6, 8: -430.0},
        curve=curve,
        start="teacher/pretrained.model",
        seconds=90.0,
        frames_without_label=0,
    )


def make_traces(replicas, growth, points_per_ps=100, signals=()):
    """Λ grows by `growth` of the time, in the first half faster than in the second."""
    columns = list(trace_columns(["label", "guard", *signals], variables=1 if signals else 0))
    rows = []
    for entry in replicas:
        random = np.random.default_rng(entry["replica"])
        time = np.arange(1, max(2, int(entry["time_ps"] * points_per_ps) + 1)) / points_per_ps
        steps = random.exponential(growth, size=len(time)) * np.where(time > TIME_PS / 2, 0.5, 1)
        index = np.cumsum(steps) / points_per_ps
        rows.append(
            pd.DataFrame(
                {
                    "replica": entry["replica"],
                    "structure": entry["structure"],
                    "target_temperature": entry["temperature_K"],
                    "time": time,
                    "cli_label": index,
                    "cli_label_max": 3 * index,
                    "rate_label": steps,
                    "excursions_label": np.arange(len(time)),
                    "cli_guard": 0.1 * index,
                    "cli_guard_max": 0.3 * index,
                    "rate_guard": 0.1 * steps,
                    "excursions_guard": np.arange(len(time)) // 10,
                    "potential_energy": -10.0,
                    "temperature": entry["temperature_K"],
                    "kinetic_energy": 0.1,
                    "bias_energy": 0.2,
                    "variable_1": 60.0,
                }
                | {
                    pattern.format(name): value
                    for name in signals
                    for pattern, value in (
                        ("cli_{}", 0.5 * index),
                        ("cli_{}_max", index),
                        ("rate_{}", 0.5 * steps),
                        ("excursions_{}", np.arange(len(time))),
                    )
                }
            )[columns]
        )
    return pd.concat(rows, ignore_index=True)


def make_domain():
    return Domain(
        classes={"water": ["water:O0", "water:H0", "water:H0"]},
        label={"water:O0": (-1.0, -0.5), "water:H0": (-0.2, 0.1)},
        guard={"water:O0": (-2.0, 1.5), "water:H0": (-0.9, 0.8)},
        margin=Margin(
            value=0.345, low=0.21, high=0.56, method="peaks-over-threshold", alpha=1e-4, n=45
        ),
        bonds={"water": [(0, 1, 0.97)]},
        report=DomainReport(
            training_frames_values={"water:O0": 20, "water:H0": 40},
            held_out_frames=15,
            check_frames=20,
            exceedance_bare=None,
            exceedance_with_margin=Exceedance(fraction=0.012, low=0.001, high=0.034, atoms=60),
            mean_width_label_eV=0.4,
            mean_width_guard_eV=2.6,
        ),
    )


def make_saturation(failed, replicas, *, saturated):
    """As `saturation.assess` tells it."""
    alone = failed == replicas
    return {
        "finding": "saturated" if saturated else "not saturated",
        "reason": "as made up for a test",
        "excursions": 0 if alone else 3,
        "atom_time_ps": 0.0 if alone else 36.0,
        "rate_per_atom_ps": None if alone else 0.0123,
        "rate_bound_per_atom_ps": None if alone else 0.0456,
        "rate_limit_per_atom_ps": 0.1,
        "confidence": 0.95,
        "replicas": replicas,
        "failed": failed,
        "homogeneity_p": None,
    }


@pytest.fixture
def toy(tmp_path, rattled):
    """Writes a campaign with the given decisions, returns it and its verdict files."""

    def make(
        decisions=("continue", "saturated"),
        *,
        structures=("water",),
        pretraining=True,
        failing=lambda number: 2 if number == 0 else 0,
        candidates=10,
        bad=(("unconverged", "no luck"), ("crashed", HOSTILE)),
        description="",
        points_per_ps=100,
        replicas=4,
        began=lambda _: (),
        signals=(),
        exploration=(),
    ):
        campaign = make_campaign(
            tmp_path,
            structures=structures,
            pretraining=pretraining,
            description=description,
            exploration=exploration,
        )
        system = tmp_path / "trial/toy"
        write_labels(system / "seed/labels/000.parquet", rattled(5), bad=bad[:1])
        write_labels(system / "seed/labels/001.parquet", [])
        files.write_json(
            system / "teacher/counts.json",
            {
                s: {"md": 290, "displaced": 140, "force_cap": 17, "not_finite": 3}
                for s in structures
            },
        )
        if pretraining:
            metrics = make_metrics(800.0, frames=(360, 40, 40), curve=curve(25, 900.0))
            metrics.write(system / "teacher/pretrained.json")
        verdicts = []
        for number, decision in enumerate(decisions):
            folder = system / f"gen{number:03d}"
            failed = failing(number)
            ends = [
                {
                    "replica": i,
                    "structure": structures[i % len(structures)],
                    "temperature_K": 500.0,
                    "atoms": 3,
                    "time_ps": 0.05 + 0.2 * i if i < failed else TIME_PS,
                    "failure": "bond broken" if i < failed else None,
                }
                for i in range(replicas)
            ] + [
                {
                    "replica": replicas + i,
                    "structure": structures[0],
                    "temperature_K": 500.0,
                    "atoms": 3,
                    "began_ps": ps,
                    "time_ps": TIME_PS - ps,
                    "failure": None,
                }
                for i, ps in enumerate(began(number))
            ]
            taken = 6 if candidates else 0
            write_labels(
                folder / "labels/000.parquet", rattled(taken), bad=bad[1:] if taken else ()
            )
            write_frames(folder / "candidates.parquet", rattled(candidates))
            traces = make_traces(ends, 0.3 / (number + 1), points_per_ps, signals)
            write_traces(folder / "traces.parquet", traces)
            files.write_json(folder / "exploration.json", {"replicas": ends, "replica_steps": 1})
            fates = {"selected": taken, "dropped: atoms overlap": candidates - taken}
            files.write_json(
                folder / "selection.json",
                {"candidates": candidates, "fates": fates if candidates else {}},
            )
            make_metrics(
                123.4 / (number + 1),
                frames=(21 + 5 * number, 15 + number, 20),
                curve=curve(9, 100.0 / (number + 1)),
            ).write(folder / "metrics.json")
            make_domain().write(folder / "domain.json")
            (folder / "model.model").write_bytes(b"model")
            spent = 55 + 6 * (number + 1)
            files.write_json(
                folder / "verdict.json",
                {
                    "schema": 1,
                    "system": "toy",
                    "generation": number,
                    "decision": decision,
                    "reason": "",
                    "labels": {"spent": spent},
                    "label_budget": 500,
                    "saturation": make_saturation(
                        failed, len(ends), saturated=decision == "saturated"
                    ),
                },
            )
            verdicts.append(folder / "verdict.json")
        stages = [("train", 0, 90.0, 2), ("train", 1, 30.0, 2), ("label", None, 60.0, 4)]
        with (tmp_path / "trial/stages.jsonl").open("w") as ledger:
            for stage, generation, seconds, cores in stages:
                entry = {"system": "toy", "generation": generation, "stage": stage, "what": "x y"}
                entry |= {"seconds": seconds, "cores": cores, "finished": "2026-01-01T00:00:00"}
                ledger.write(json.dumps(entry) + "\n")
            ledger.write('{"system": "toy", "sta')
        return campaign, verdicts

    return make


def write_diagnoses(verdicts, rattled):
    """What else stages write: the teacher's frames, parity, drift, selected frames, atomic CLI."""
    random = np.random.default_rng(3)
    system = verdicts[0].parents[1]

    def labelled(number, **info):
        frames = rattled(number)
        for frame in frames:
            frame.info |= {"energy": float(random.normal()), **info}
            frame.arrays["forces"] = random.normal(size=(3, 3))
        return frames

    write_frames(
        system / "teacher/frames.parquet",
        labelled(30, origin="md") + labelled(10, origin="displaced"),
    )
    classes = {"water": ["water:O0", "water:H0", "water:H0"]}
    for number, verdict in enumerate(verdicts):
        folder = verdict.parent
        test = labelled(20)
        off = 0.1 / (number + 1)
        predicted = SimpleNamespace(
            energy=np.array([frame.info["energy"] + 3 * off for frame in test]),
            forces=[frame.arrays["forces"] + off for frame in test],
        )
        parity.write(folder / "parity.parquet", test, predicted)
        known, new = (
            drift.by_class(rattled(n), random.normal(size=(n, 3, 4)), classes) for n in (40, 30)
        )
        found = drift.compared(known, new)
        before = None if number else found
        drift.Drift(frames=30, before=before, after=found).write(folder / "drift.json")
        selected = rattled(3)
        for place, frame in enumerate(selected):
            frame.info |= {"replica": place, "time": 0.5, "temperature": 500.0, "atom": 2}
            frame.info |= {
                "key": f"key{place}",
                "reason": "excursion",
                "score": 0.3,
                "split": "train",
            }
            frame.info |= {"cli_atom": 0.004}
            frame.arrays["cli_atoms"] = np.array([0.001, 0.002, 0.004])
            if place:
                frame.arrays["scores"] = np.array([0.0, 0.1, 0.3])
        write_frames(folder / "selected.parquet", selected)
        exploration = files.read_json(folder / "exploration.json")
        for entry in exploration["replicas"]:
            entry["cli_atoms_ps"] = [0.01 * entry["replica"], 0.5, 0.25]
        files.write_json(folder / "exploration.json", exploration)


TOLERANCE = 0.3
"""Default of accuracy.atom_force_eV_per_A."""


def make_calm(structure, temperature_K, *, events, **more):
    """A structure at a temperature as `verdict.calm` judges it: 4 ps of 1 molecule late."""
    return {
        "structure": structure,
        "temperature_K": temperature_K,
        "finding": "saturated",
        "reason": "as made up for a test",
        "replicas": 4,
        "failed": 0,
        "molecules": 1,
        "time_ps": 8.0,
        "window_ps": 4.0,
        "calm_ps": 4.0,
        "quiet_time_ps": 0.2,
        "events": events,
        "active_at_begin": 0,
        "dispersion": 1.0,
        "shape": 0.5,
        "events_per_ns": 250.0 * events,
        "events_bound_per_ns": 250.0 * events + 21.0,
        "events_low_per_ns": 50.0 * events,
        "unreliable_fraction": 0.001 * events,
        "unreliable_bound": 0.001 * events + 0.002,
        "unreliable_low": 0.0,
        "decorrelation_ps": 0.05,
        "decorrelation_times": 160.0,
        "shortest_ps": 2.0,
    } | more


def make_audited(structure, temperature_K, *, forces, **more):
    """Errors of a structure at a temperature as `verdict.audit` measures them."""
    return {
        "structure": structure,
        "temperature_K": temperature_K,
        "finding": "passed",
        "reason": "as made up for a test",
        "frames": 12,
        "bad": 0,
        "replicas": 4,
        "forces_mae_meV_per_A": {"value": forces, "low": 0.8 * forces, "high": 1.2 * forces},
        "forces_rmse_meV_per_A": {"value": 2 * forces, "low": 1.5 * forces, "high": 3 * forces},
        "atom_error_q95_eV_per_A": {"value": 0.11, "low": 0.08, "high": 0.15},
        "energy_mae_meV_per_atom": {"value": 1.5, "low": 1.1, "high": 2.25},
    } | more


def make_signal(name, auroc, **more):
    """A signal's report; without AUROC there were too few bad atoms."""
    of = {"outcome": "not enough failures"}
    rate = {"outcome": "estimated", "value": 0.5, "low": 0.2, "high": 0.8}
    if auroc is not None:
        of = {"outcome": "estimated", "value": auroc, "low": auroc - 0.1, "high": auroc + 0.04}
    return {
        "name": name,
        "decides": name == "error",
        "atoms": 36,
        "bad_atoms": 12,
        "auroc": of,
        "flagged": of if auroc is None else rate,
        "false_alarms": rate | {"value": 0.04, "low": 0.01, "high": 0.1},
        "blind": False,
    } | more


def make_audit(parts, **more):
    return {
        "finding": "passed",
        "reason": "as made up for a test",
        "parts": parts,
        "forces_goal_meV_per_A": 43.0,
        "energy_goal_meV_per_atom": 5.0,
        "confidence": 0.99,
    } | more


def write_audits(verdicts, rattled, *, audit=None, calm=None, signals=None, predicted=True):
    """Make a campaign one whose index is of errors, and whose model was audited.

    Args:
        verdicts: files of the verdicts; the last of them gets what is given here.
        rattled: makes frames.
        audit: errors of the last generation; all others have missed their goals.
        calm: keys of the last generation's assessment that are different.
        signals: reports of the last generation.
        predicted: whether the audit frames have what was expected of them.
    """
    random = np.random.default_rng(8)
    for number, path in enumerate(verdicts):
        folder, verdict, last = path.parent, files.read_json(path), path == verdicts[-1]
        parts = [make_calm("water", 500.0, events=0 if last else 2 + number)]
        limits = {"events_limit_per_ns": 100.0, "unreliable_limit": 0.01, "confidence_spent": 0.99}
        old = {f"{name}_per_atom_ps": None for name in ("rate", "rate_bound", "rate_limit")}
        old |= {"excursions": None, "atom_time_ps": None}
        verdict["saturation"] |= limits | old | {"parts": parts} | ((calm or {}) if last else {})
        forces = 30.0 if last else 90.0 / (number + 1)
        measured = make_audit([make_audited("water", 500.0, forces=forces)])
        if not last:
            measured |= {"finding": "missed"}
        verdict["audit"] = audit if audit and last else measured
        reports = [make_signal("error", 0.93), make_signal("node_energy", 0.52, blind=True)]
        verdict["signals"] = signals if signals is not None and last else reports
        files.write_json(path, verdict | {"schema": 2})
        traces = pd.read_parquet(folder / "traces.parquet")
        for column in ("cli_{}", "cli_{}_max", "rate_{}"):
            traces[column.format("error")] = 0.2 * traces[column.format("label")]
        traces["excursions_error"] = traces["excursions_label"] // 7
        traces["expected_error"], traces["expected_error_max"] = 0.05, 0.2
        traces.to_parquet(folder / "traces.parquet")
        frames = rattled(12)
        for place, frame in enumerate(frames):
            frame.info |= {"role": "audit", "draw": place / 1000, "replica": place % 4}
            frame.info |= {"time": 0.5 + 0.1 * place, "energy": -10.0, "temperature": 500.0}
            forces = random.normal(size=(3, 3))
            off = 0.02 / (number + 1) * np.ones((3, 3))
            off[0] = [0.0, 0.0, TOLERANCE * 1.5 if place < 4 else 0.0]  # four bad oxygens
            frame.arrays |= {"forces": forces, "model_forces": forces + off}
            if predicted:  # two of them were expected, and one good atom was
                expected = np.where(np.arange(3) == 0, 0.4 if place in (0, 1, 7) else 0.1, 0.05)
                frame.arrays["expected_error"] = expected
        write_labels(folder / "labels/001.parquet", frames)


class Page(HTMLParser):
    """What a browser would find: tables by id, texts by id, and every address it would load."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.texts, self.loads, self.links, self.scripts = {}, {}, [], [], []
        self.plots = {}
        self._rows, self._cell, self._id, self._script = None, None, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "table":
            self._rows = self.tables.setdefault(given.get("id", ""), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "script":
            self._script = given.get("id", "")
            self.scripts.append(self._script)
        elif tag == "a":
            self.links.append(given["href"])
        if given.get("class") == "plot":
            self.plots[given["id"]] = given.get("aria-label")
        if tag != "a":
            self.loads += [v for k, v in attributes if k in ("src", "href", "srcset", "data")]
        if given.get("id"):
            self._id = given["id"]

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._rows[-1].append(self._cell)
            self._cell = None
        elif tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data.replace("\xa0", " ")
        elif self._script == "figures":
            self.figures = json.loads(data)
        elif self._script == "scenes":
            self.scenes = json.loads(data)
        elif self._script is None and self._id:
            self.texts[self._id] = self.texts.get(self._id, "") + data

    def column(self, table, heading):
        """Cells under the one heading that begins so."""
        rows = self.tables[table]
        (place,) = [i for i, name in enumerate(rows[0]) if name.startswith(heading)]
        return [row[place] for row in rows[1:]]


def show(campaign, verdicts):
    text = render(report.collect(campaign, "toy", verdicts))
    assert len(text.encode()) < 7_000_000
    return Page(text)
