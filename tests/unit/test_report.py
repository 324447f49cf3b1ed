import json
import re
import runpy
import signal
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from halcyon import config, files, report, stage
from halcyon.campaign import Campaign, SystemPlan
from halcyon.domain import Domain, Margin
from halcyon.errors import InputError
from halcyon.figures import MAX_POINTS
from halcyon.frames import write_frames
from halcyon.page import TEMPLATE, render
from halcyon.traces import trace_columns, write_traces

SCRIPTS = Path(__file__).parents[2] / "scripts"
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
        {
            "epoch": epoch,
            "of": epochs,
            "loss": error / epoch,
            "forces_mae_meV_per_A": error * (1 + 1 / epoch),
            "forces_rmse_meV_per_A": error * (1 + 2 / epoch),
            "energy_mae_meV_per_atom": error / 20 * (1 + 1 / epoch),
            "energy_rmse_meV_per_atom": error / 10 * (1 + 1 / epoch),
        }
        for epoch in range(1, epochs + 1)
    ]


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
    exceedance = {"fraction": 0.012, "low": 0.001, "high": 0.034, "atoms": 60}
    return Domain(
        classes={"water": ["water:O0", "water:H0", "water:H0"]},
        label={"water:O0": (-1.0, -0.5), "water:H0": (-0.2, 0.1)},
        guard={"water:O0": (-2.0, 1.5), "water:H0": (-0.9, 0.8)},
        margin=Margin(
            value=0.345, low=0.21, high=0.56, method="peaks-over-threshold", alpha=1e-4, n=45
        ),
        bonds={"water": [(0, 1, 0.97)]},
        report={
            "training_frames_values": {"water:O0": 20, "water:H0": 40},
            "held_out_frames": 15,
            "check_frames": 20,
            "exceedance_bare": {},
            "exceedance_with_margin": exceedance,
            "mean_width_label_eV": 0.4,
            "mean_width_guard_eV": 2.6,
        },
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
            files.write_json(system / "teacher/pretrained.json", {"curve": curve(25, 900.0)})
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
            test = {
                "forces_mae_meV_per_A": 123.4 / (number + 1),
                "energy_mae_meV_per_atom": 5.67,
                "frames": 20,
            }
            files.write_json(
                folder / "metrics.json",
                {
                    "train": {"frames": 21 + 5 * number},
                    "validation": {"frames": 15 + number},
                    "test": test,
                    "best_epoch": 7,
                    "curve": curve(9, 100.0 / (number + 1)),
                },
            )
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


class Page(HTMLParser):
    """What a browser would find: tables by id, texts by id, and every address it would load."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.texts, self.loads, self.links, self.scripts = {}, {}, [], [], []
        self._rows, self._cell, self._id, self._script = None, None, None, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "table":
            self._rows = self.tables.setdefault(given["id"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""
        elif tag == "script":
            self._script = given.get("id", "")
            self.scripts.append(self._script)
        elif tag == "a":
            self.links.append(given["href"])
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
        elif self._script is None and self._id:
            self.texts[self._id] = self.texts.get(self._id, "") + data

    def column(self, table, heading):
        """Cells under the one heading that begins so."""
        rows = self.tables[table]
        (place,) = [i for i, name in enumerate(rows[0]) if name.startswith(heading)]
        return [row[place] for row in rows[1:]]


def show(campaign, verdicts):
    text = render(report.collect(campaign, "toy", verdicts))
    assert len(text.encode()) < 6_000_000
    return Page(text)


def test_the_page_shows_the_numbers_in_the_files(toy):
    page = show(*toy())
    summary = page.tables["summary"]
    assert len(summary) == 3
    assert page.column("summary", "Labels learned") == ["21/15/20", "26/16/20"]
    assert page.column("summary", "Labels spent") == ["61/500", "67/500"]
    assert page.column("summary", "Frames without label") == [
        "1 unconverged, 1 crashed",
        "1 unconverged, 2 crashed",
    ]
    assert page.column("summary", "Test force MAE, meV/Å") == ["123.4", "61.7"]
    assert page.column("summary", "Replicas failed") == ["2/4", "0/4"]
    assert page.column("summary", "Excursions per atom") == ["0.0123"] * 2
    assert page.column("summary", "their 95 % bound") == ["0.0456"] * 2
    assert page.column("summary", "Decision") == ["continue", "saturated"]
    assert page.tables["teacher"][1] == ["water", "290", "140", "17", "3"]
    assert page.column("fates", "Dropped: atoms overlap") == ["4", "4"]
    assert page.column("margins", "Margin") == ["0.345 (0.21–0.56)"] * 2
    assert page.column("margins", "Test atoms outside, no margin") == ["–"] * 2
    assert page.column("margins", "Test atoms outside, with margin") == ["1.20 % (0.10–3.40 %)"] * 2
    assert page.tables["classes"][1][:4] == ["water:O0", "1", "20", "-1.000 to -0.500"]
    assert page.tables["times"][1:] == [
        ["train", "2", "2.0 min", "4.0 min", "50 %"],
        ["label", "1", "60 s", "4.0 min", "50 %"],
        ["all", "3", "3.0 min", "8.0 min", "100 %"],
    ]
    digest = "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4"
    assert digest in page.texts["provenance"]


def test_damaged_files_of_the_label_store_are_shown(toy):
    campaign, verdicts = toy()
    assert "damaged-shards" not in show(campaign, verdicts).texts
    shard = campaign.settings.label_store / "abc123" / "sha256-0.parquet.damaged"
    shard.parent.mkdir(parents=True)
    shard.touch()
    assert str(shard) in show(campaign, verdicts).texts["damaged-shards"]


def test_instability_is_that_of_the_traces(toy):
    campaign, verdicts = toy()
    page = show(campaign, verdicts)
    traces = pd.read_parquet(verdicts[1].parent / "traces.parquet")
    last = traces.groupby("replica").last()
    assert page.column("summary", "Mean Λ")[1] == f"{last['cli_label'].mean():.3g}"
    assert page.column("summary", "Largest atomic Λ")[1] == f"{last['cli_label_max'].max():.3g}"
    late = traces[traces["time"] > TIME_PS / 2]
    assert float(page.column("summary", "λ, late")[1]) == pytest.approx(
        late["rate_label"].mean(), rel=0.01
    )
    curves, crosses = page.figures["cli-label"]["data"][:2]
    assert curves["x"].count(None) == 4
    assert crosses["x"] == [0.05, 0.25]
    assert "bond broken at 0.05 ps" in crosses["text"][0]


@pytest.mark.parametrize(
    ("decision", "sentence"),
    [
        (
            "saturated",
            "Saturated after 2 generations: fewer than 0.0456 excursions per atom and ps "
            "(95 % bound, limit 0.1), 0 of 4 replicas failed.",
        ),
        ("max_generations", "NOT saturated: the campaign ended after 2 generations, the most"),
        ("budget_spent", "NOT saturated: the label budget is spent (67 of 500)"),
        ("continue", "Not finished: not saturated after 2 generations so far."),
    ],
)
def test_the_verdict_stands_at_the_top(toy, decision, sentence):
    page = show(*toy(("continue", decision)))
    assert page.texts["verdict"].startswith(sentence)
    assert "0 of 4 replicas failed" in page.texts["verdict"]
    assert "4 replicas of up to 2 ps at 500 K" in page.texts["coverage"]


def survival_of(generation, page):
    """Low, high, fraction running and stopped replicas of a generation, as drawn."""
    return [t for t in page.figures["survival"]["data"] if t["meta"] == generation]


def test_survival_is_drawn_with_its_band(toy):
    page = show(*toy())
    low, high, running, stopped = survival_of(0, page)
    # By hand: two of four fail, at 0.05 and 0.25 ps. Greenwood's variance of 3/4 is 3/4² / 12; on
    # the log-log scale the standard error is 1.00346, and the band 3/4 to the powers of e^±1.9668.
    assert running["x"] == [0, 0.05, 0.25, TIME_PS]
    assert running["y"] == [1, 0.75, 0.5, 0.5]
    assert low["y"][1] == pytest.approx(0.1279, abs=2e-4)
    assert high["y"][1] == pytest.approx(0.9605, abs=2e-4)
    assert [told[2] for told in running["customdata"]] == [4, 4, 3, 2]
    assert {trace["line"]["shape"] for trace in (low, high, running)} == {"hv"}
    assert (stopped["x"], stopped["y"]) == ([TIME_PS], [0.5])
    assert survival_of(1, page)[2]["y"] == [1, 1]
    told = page.texts["failure-rate"].replace("\n", " ")
    assert told.startswith("0 of 4 replicas of generation 1 failed in 8 ps: with 95 % confidence ")
    assert "confidence fewer than 1 failure per 2.6 ps of one replica." in told
    assert "2 of 8 replicas failed, and at least 5 must" in page.texts["critical"]


def test_replicas_that_replaced_failed_ones_count(toy):
    began = (0.05, 0.25)
    page = show(*toy(["max_generations"], began=lambda _: began))
    assert "2 of 6 replicas failed" in page.texts["verdict"]
    assert (
        "It rests on 4 replicas of up to 2 ps at 500 K and 2 that took the places of failed ones, "
        "with the model of generation 0, 8 ps in all."
    ) in page.texts["coverage"]
    assert page.column("replicas", "Began")[:4] == ["with the run"] * 4
    assert page.column("replicas", "Began")[4:] == [
        f"took the place of a failed one at {ps} ps" for ps in began
    ]
    assert page.column("rates", "Replicas") == ["6"]
    assert page.column("rates", "Replacements") == ["2"]
    _, _, running, stopped = survival_of(0, page)
    assert running["y"] == [1, 0.8333, 0.6667, 0.6667, 0.6667, 0.6667]
    assert stopped["x"] == [1.75, 1.95, 2]


@pytest.mark.parametrize(
    ("exploration", "verdict", "coverage"),
    [
        ({}, "Saturated after", "at 500 K with"),
        (
            {"ensemble": "nve"},
            "Saturated without a thermostat (NVE) after",
            "thermostat (NVE) with",
        ),
        (
            {"ensemble": "npt", "bias": {"kind": "ramp", "to_K": 900}},
            "Saturated on a temperature ramp to 900 K at constant pressure (NPT, 1 bar) after",
            "not of plain dynamics",
        ),
        (
            {
                "bias": {
                    "kind": "metadynamics",
                    "variables": [{"kind": "distance", "atoms": [0, 1], "sigma_A": 0.1}],
                }
            },
            "Saturated under metadynamics after",
            "at 500 K under metadynamics with",
        ),
    ],
)
def test_what_is_no_plain_dynamics_is_said(toy, exploration, verdict, coverage):
    found = report.collect(*collected(toy(["saturated"], exploration=exploration)))
    assert report.verdict_sentence(found).startswith(verdict)
    assert coverage in report.coverage_sentence(found)


def collected(made):
    campaign, verdicts = made
    return campaign, "toy", verdicts


def test_other_signals_are_drawn(toy):
    campaign, verdicts = toy(signals=("latent", "bond_stretch"))
    # A signal may have been asked for later on.
    early = pd.read_parquet(verdicts[0].parent / "traces.parquet")
    early = early.drop(columns=[name for name in early if name.endswith(("_latent", "latent_max"))])
    early.to_parquet(verdicts[0].parent / "traces.parquet")
    page = show(campaign, verdicts)
    drawn = page.figures
    assert {t["meta"] for t in drawn["cli-latent"]["data"]} == {1}
    assert {t["meta"] for t in drawn["cli-bond_stretch"]["data"]} == {0, 1}
    for name in ("cli-latent", "cli-bond_stretch"):
        assert name in page.texts
    label, other = (drawn[name]["data"][0]["y"][1:] for name in ("cli-label", "cli-bond_stretch"))
    assert other[-2] == pytest.approx(label[-2] / 2, rel=1e-3)
    assert not [name for name in show(*toy()).figures if "latent" in name]


def test_too_little_data_is_not_called_saturated(toy):
    campaign, verdicts = toy(["max_generations"], failing=lambda _: 0)
    told = files.read_json(verdicts[0])
    told["saturation"] |= {
        "finding": "not enough data",
        "reason": "0 atom-ps in the late window cannot show a rate under 0.1/ps",
        "rate_bound_per_atom_ps": None,
    }
    files.write_json(verdicts[0], told)
    verdict = show(campaign, verdicts).texts["verdict"]
    assert verdict.startswith("NOT saturated")
    assert "but 0 atom-ps in the late window cannot show" in verdict


def test_nothing_is_loaded_from_anywhere(toy):
    page = show(*toy())
    assert page.loads == []
    assert [link for link in page.links if not link.startswith("#")] == [
        "https://arxiv.org/abs/2509.14205"
    ]
    assert page.scripts == ["plotly", "figures", ""]
    template = TEMPLATE.read_text()
    assert "default-src 'none'" in template
    assert not re.search(r"@import|url\(", template)


def test_foreign_text_is_escaped(toy):
    campaign, verdicts = toy(description="<img src=x onerror=alert(1)>")
    found = report.collect(campaign, "toy", verdicts)
    text = render(found)
    assert "<script>alert" not in text
    assert "<img src=x" not in text
    page = Page(text)
    assert [row[-1] for row in page.tables["messages"][1:]] == ["no luck", HOSTILE, HOSTILE]
    assert page.column("messages", "Batch") == ["seed", "gen000", "gen001"]


@pytest.mark.parametrize(("number", "failed"), [(1, 0), (1, 4), (20, 4)])
def test_one_to_twenty_generations_whether_all_or_none_fail(toy, number, failed):
    decisions = ["continue"] * (number - 1) + ["max_generations"]
    page = show(*toy(decisions, failing=lambda _: failed))
    assert len(page.tables["summary"]) == number + 1
    told = "–" if failed else "0.0456"
    assert set(page.column("summary", "their 95 % bound")) == {told}
    assert f"{failed} of 4 replicas failed" in page.texts["verdict"]


def test_several_structures_no_candidates_no_pretraining_no_bad_frame(toy):
    page = show(*toy(structures=("water", "ice"), pretraining=False, candidates=0, bad=()))
    assert page.column("replicas", "Structure") == ["water", "ice"] * 2
    assert [row[0] for row in page.tables["teacher"][1:]] == ["water", "ice"]
    assert page.column("fates", "Candidates") == ["0", "0"]
    assert "messages" not in page.tables
    assert {trace["meta"] for trace in page.figures["training-forces"]["data"]} == {0, 1}


def test_long_traces_are_thinned_and_keep_their_ends(toy):
    page = show(*toy(["saturated"], failing=lambda _: 0, points_per_ps=6_000))
    drawn = page.figures["cli-guard"]["data"][0]["x"]
    assert len(drawn) < MAX_POINTS * 1.01
    assert drawn[-2] == TIME_PS


def test_verdicts_are_found_up_to_the_one_that_ended_it(toy):
    _, verdicts = toy(("continue", "saturated", "saturated"))
    assert report.find_verdicts(verdicts[0].parents[1]) == verdicts[:2]


def test_without_a_generation_there_is_no_report(toy):
    campaign, _ = toy()
    with pytest.raises(InputError, match="no generation is finished"):
        report.collect(campaign, "toy", [])


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script in this process: exit code, and what it said."""
    monkeypatch.setattr(stage, "THREAD_VARIABLES", ())
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def test_scripts(toy, tmp_path, run):
    campaign, verdicts = toy(["continue"] * 9 + ["max_generations"])
    page = tmp_path / "trial/toy/report.html"
    options = ("--campaign", campaign.file)
    code, _, complaint = run(
        "report.py", *options, "--system", "toy", "--verdicts", *verdicts, "--page", page
    )
    assert code == 0, complaint
    assert page.stat().st_size > 1_000_000
    code, told, complaint = run("summary.py", *options)
    assert code == 0, complaint
    assert "NOT saturated" in told
    assert "failure rate in 8 ps: with 95 % confidence fewer than 1 failure per 2.6 ps" in told
    assert str(page) in told
    assert "\x1b" not in told
    table = [line for line in told.splitlines() if re.match(r" *\d+ +\d+/", line)]
    assert len(table) == 10
    assert max(map(len, table)) <= 100
    assert table[-1].split()[-2:] == ["max", "gen."]


def decide(run, campaign, verdict):
    folder, generation = verdict.parent, int(verdict.parent.name[-3:])
    batches = ["seed", *(f"gen{number:03d}" for number in range(generation + 1))]
    labels = [p for b in batches for p in sorted((folder.parent / b).glob("labels/*.parquet"))]
    options = ("--campaign", campaign.file, "--system", "toy", "--generation", generation)
    options += ("--traces", folder / "traces.parquet", "--summary", folder / "exploration.json")
    code, _, complaint = run("verdict.py", *options, "--labels", *labels, "--verdict", verdict)
    assert code == 0, complaint
    return files.read_json(verdict)


def test_a_verdict_tells_of_survival_up_to_now(toy, run):
    campaign, verdicts = toy(["continue"] * 3, failing=lambda number: 3 if number < 2 else 0)
    told = decide(run, campaign, verdicts[1])
    assert told["failures"]["failures"] == 3
    # Three fail at 0.05, 0.25, 0.45 ps, the fourth runs for 2 ps; χ² of 8 degrees: 15.507.
    assert told["failures"]["time_ps"] == pytest.approx(2.75)
    assert told["failures"]["bound_per_ps"] == pytest.approx(15.507 / 5.5, rel=1e-4)
    critical = told["critical_cli"]
    assert critical["generations"] == [0, 1]
    assert (critical["label"]["failures"], critical["label"]["survivors"]) == (6, 2)
    assert critical["label"]["median"]["outcome"] == "estimated"
    assert critical["guard"]["median"]["value"] == pytest.approx(
        0.1 * critical["label"]["median"]["value"]
    )
    first = decide(run, campaign, verdicts[0])["critical_cli"]
    assert first["generations"] == [0]
    assert first["label"]["median"]["outcome"] == "not enough failures"


def test_a_page_from_old_verdicts_says_the_same(toy, run):
    campaign, verdicts = toy(["continue", "max_generations"], failing=lambda _: 3)
    old = show(campaign, verdicts)
    for verdict in verdicts:
        assert "failures" not in files.read_json(verdict)
        assert "failures" in decide(run, campaign, verdict)
    new = show(campaign, verdicts)
    assert "critical Λ of the label domain, which half" in new.texts["critical"]
    for name in ("failure-rate", "critical"):
        assert old.texts[name] == new.texts[name]
    for name in ("rates", "critical-cli"):
        assert old.tables[name] == new.tables[name]


def test_the_numbers_of_a_verdict_are_those_on_the_page(toy):
    campaign, verdicts = toy(["max_generations"])
    told = files.read_json(verdicts[0])
    told["failures"] = {
        "failures": 2,
        "time_ps": 12.0,
        "rate_per_ps": 0.125,
        "bound_per_ps": 0.789,
        "confidence": 0.9,
    }
    files.write_json(verdicts[0], told)
    page = show(campaign, verdicts)
    assert page.column("rates", "their 90 % bound") == ["0.789"]
    assert "with 90 % confidence fewer than 1 per 1.2 ps" in page.texts["failure-rate"]


def test_the_summary_of_what_is_not_finished_says_so(toy, run):
    campaign, verdicts = toy()
    verdicts[1].unlink()
    code, told, complaint = run("summary.py", "--campaign", campaign.file)
    assert code == 0, complaint
    assert "toy: Not finished: not saturated after 1 generation so far." in told
    verdicts[0].unlink()
    code, told, complaint = run("summary.py", "--campaign", campaign.file)
    assert code == 0, complaint
    assert "toy: unfinished: no generation is done yet" in told
    assert "last stage that ended: label (x y)" in told
    code, _, complaint = run("summary.py", "--campaign", "nowhere.json")
    assert code == 2
    assert "nowhere.json: no such file" in complaint
