"""Certificates: numbers against independent ones, conclusions, and what a changed bit does."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from fabricated import made_up_audit, made_up_verdict
from jsonschema import Draft202012Validator
from test_explore import Spring, dimer, domain

from conftest import ROOT
from halcyon.commands.verify import register
from halcyon.config import (
    CertificateSettings,
    DomainSettings,
    ExplorationSettings,
    SaturationSettings,
    Settings,
)
from halcyon.errors import InputError, Interrupted
from halcyon.exploration.explore import Monitoring, RunControl
from halcyon.final import certificate, long_runs
from halcyon.final.certificate import Certificate, Conclusion
from halcyon.final.checks import verify
from halcyon.final.evidence import Criteria, ReplicaEnd, contradictions, drift, examine
from halcyon.final.folder import LABELS, copy, write_labels, write_manifest
from halcyon.final.issuing import Subject, issue
from halcyon.frames import read_frames, structure_key, write_frames
from halcyon.labels.labelling import gather
from halcyon.labels.store import LabelStore, level_hash
from halcyon.verdict import saturation
from halcyon.verdict.estimates import Interval
from halcyon.verdict.forms import Audited, AuditFinding, Finding, SecondOpinion
from halcyon.verdict.melting import order_of

SETTINGS = CertificateSettings(
    temperatures_K=[300.0, 600.0],
    replicas=2,
    time_ps=0.4,
    nve_time_ps=0.6,
    timestep_fs=1.0,
    trace_points_per_ps=50,
)
EXPLORATION = ExplorationSettings(checkpoint_s=1e6)
LEVEL = {"program": "springs", "version": "1"}
CRITERIA = Criteria(
    kind="molecule",
    confidence=0.95,
    events_per_ns=1e6,
    unreliable_fraction=0.9,
    quiet_time_ps=0.01,
    decorrelation_times=1.0,
    window=0.5,
    bond_stretch_A=0.5,
    min_distance_A=0.5,
    energy_drift_eV_per_atom=0.1,
    max_drift_meV_per_atom_ps=1.0,
)


def labelled(number):
    """Labelled dimers, all different."""
    random = np.random.default_rng(7)
    frames = []
    for index in range(number):
        frame = dimer(1.0 + random.normal(scale=0.03))
        frame.arrays["forces"] = random.normal(size=(2, 3))
        split = ("train", "validation", "test")[index % 3]
        frame.info |= {"split": split, "status": "ok", "energy": float(random.normal())}
        frame.info |= {"level": level_hash(LEVEL), "key": structure_key(frame)}
        frames.append(frame)
    return frames


def put(folder, work, ensemble, *, frames, model=None, settings=SETTINGS, **control):
    (folder / "certificate").mkdir(exist_ok=True)
    return long_runs.put_to_test(
        model or Spring(),
        [frame for frame in frames if frame.info["split"] == "train"],
        ["dimer"],
        settings=long_runs.run_settings(EXPLORATION, settings, ensemble),
        monitoring=Monitoring(
            domain=domain(upper=10.0), settings=DomainSettings(), system_kind="molecule"
        ),
        criteria=CRITERIA,
        control=RunControl(work=work, identity="test", **control),
        seed=5,
        traces=folder / f"certificate/{ensemble}.parquet",
        relative_to=folder / "certificate",
    )


def made(folder):
    """A whole certificate, with everything that it names around it."""
    frames = labelled(9)
    (folder / "gen001").mkdir(parents=True)
    (folder / "gen001/model.model").write_bytes(b"weights" * 100)
    domain().write(folder / "gen001/domain.json")
    write_frames(folder / "seed.parquet", frames[:6])
    write_frames(folder / "gen000.parquet", frames[6:])
    LabelStore(folder / "store", LEVEL).add(frames)
    runs = [put(folder, folder / "work", e, frames=frames) for e in ("nvt", "nve")]
    here = folder / "certificate"
    subject = Subject(
        campaign="test",
        system="nitrogen",
        structures=["dimer"],
        signals=[],
        model=folder / "gen001/model.model",
        domain=folder / "gen001/domain.json",
        labels=[folder / f"{name}.parquet" for name in ("seed", "gen000")],
        store=folder / "store",
    )
    issue(
        subject,
        runs,
        CRITERIA,
        gather(subject.labels),
        end=certificate.CampaignEnd(decision="saturated", reason="calm", generation=1),
        audit=None,
        software=long_runs.software(Spring(), 1),
        folder=here,
    ).write(here / "certificate.json")
    return here / "certificate.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return made(tmp_path_factory.mktemp("certified"))


@pytest.fixture
def path(original, tmp_path):
    """A copy of it all that a test may spoil."""
    import shutil

    shutil.copytree(original.parents[1], tmp_path / "copy")
    return tmp_path / "copy/certificate/certificate.json"


def faults(path, **options):
    options.setdefault("store", path.parents[1] / "store")
    return [check.text for check in verify(path, **options) if check.holds is False]


def flip_a_bit(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(bytes(content))


def test_an_untouched_certificate_holds(path):
    checks = verify(path, store=path.parents[1] / "store")
    assert [check.text for check in checks if check.holds is not True] == []
    told = Certificate.read(path)
    assert told.conclusion == Conclusion.STABLE
    assert "These are short runs: 0.4 ps" in told.sentence


@pytest.mark.parametrize(
    "name",
    [
        "gen001/model.model",
        "gen001/domain.json",
        "seed.parquet",
        "gen000.parquet",
        "certificate/nvt.parquet",
        "certificate/nve.parquet",
    ],
)
@pytest.mark.parametrize("place", [0.1, 0.5, 0.95])
def test_one_changed_bit_is_refused(path, name, place):
    flip_a_bit(path.parents[1] / name, place)
    assert faults(path)


def test_one_changed_bit_in_the_label_store_is_refused(path):
    (shard,) = (path.parents[1] / "store").glob("*/sha256-*.parquet")
    flip_a_bit(shard)
    assert any("label store" in fault for fault in faults(path))


def test_another_energy_under_the_same_key_is_refused_though_files_are_sound(path):
    frames = read_frames(path.parents[1] / "seed.parquet")
    frames[0].info["energy"] += 1e-9
    write_frames(path.parents[1] / "seed.parquet", frames)
    found = faults(path)
    assert any("not those of the campaign" in fault for fault in found)
    assert any("1 label of other content" in fault for fault in found)


def changed(path, change, *, seal=True):
    """Change a certificate's numbers; with a checksum that fits."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if seal:
        Certificate.read(path).sealed().write(path)


def prettier_bound(content):
    content["runs"][0]["findings"][0]["failures"]["bound_per_ps"] = 1e-6


def prettier_drift(content):
    content["runs"][1]["findings"][0]["drift"]["worst"] = 1e-9


def prettier_plateau(content):
    content["runs"][0]["findings"][1]["plateau"]["cli_ps"]["value"] = 0.5


def longer(content):
    content["runs"][0]["time_ps"] = 1000.0


def one_less(content):
    del content["runs"][0]["replicas"][0]


def milder(content):
    content["criteria"]["confidence"] = 0.5


def other_word(content):
    content["conclusion"] = "not stable"


def other_level(content):
    content["level_of_theory"]["description"]["version"] = "2"


@pytest.mark.parametrize(
    "change",
    [
        prettier_bound,
        prettier_drift,
        prettier_plateau,
        longer,
        one_less,
        milder,
        other_word,
        other_level,
    ],
)
def test_changed_numbers_are_found_by_computing_them_again(path, change):
    changed(path, change)
    assert faults(path)


def test_what_nothing_can_be_computed_for_is_guarded_by_the_checksum(path):
    changed(path, lambda content: content.update(system="water"), seal=False)
    assert [text for text in faults(path) if "checksum" in text]


def test_without_a_label_store_the_rest_is_checked_and_it_is_said(path, tmp_path):
    checks = verify(path, store=tmp_path / "nowhere")
    assert [check.text.split(":")[0] for check in checks if check.holds is None] == ["label store"]
    assert not faults(path, store=tmp_path / "nowhere")


def final_folder(path, to):
    to.mkdir()
    here = path.parent
    copy([path, here / "nvt.parquet", here / "nve.parquet"], to)
    copy([path.parents[1] / "gen001/model.model", path.parents[1] / "gen001/domain.json"], to)
    frames = [f for n in ("seed", "gen000") for f in read_frames(path.parents[1] / f"{n}.parquet")]
    write_labels(frames, to)
    (to / "README.md").write_text("card")
    write_manifest(to)
    return to / "certificate.json"


def test_a_folder_that_was_handed_on_is_checked_by_itself(path, tmp_path):
    alone = final_folder(path, tmp_path / "handed-on")
    none = tmp_path / "none"
    assert not faults(alone, store=none)
    for name in ("model.model", LABELS, "nvt.parquet", "README.md"):
        whole = (alone.parent / name).read_bytes()
        flip_a_bit(alone.parent / name)
        assert faults(alone, store=none), name
        (alone.parent / name).write_bytes(whole)
    assert not faults(alone, store=none)


def test_the_command_says_line_by_line_and_exits_with_1(path, capsys):
    import argparse

    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    line = ["verify", str(path.parent), "--store", str(path.parents[1] / "store")]
    arguments = parser.parse_args(line)
    assert arguments.run(arguments) == 0
    assert "holds. Stable" in capsys.readouterr().out
    flip_a_bit(path.parents[1] / "gen001/model.model")
    assert arguments.run(arguments) == 1
    assert "its sha256 differs" in capsys.readouterr().out


def test_it_is_of_the_published_schema(path):
    schema = json.loads((ROOT / "config/schema/certificate.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    content = json.loads(path.read_text())
    Draft202012Validator(schema).validate(content)
    del content["model"]["sha256"]
    assert list(Draft202012Validator(schema).iter_errors(content))


def test_no_certificate_is_told_so(path):
    path.write_text("{}")
    with pytest.raises(InputError, match=r"damaged: schema: Field required\. If you got the"):
        verify(path)


def test_killed_runs_go_on_to_the_same_numbers(tmp_path):
    frames = labelled(9)
    whole = put(tmp_path, tmp_path / "one", "nvt", frames=frames)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted):
        put(tmp_path, tmp_path / "two", "nvt", frames=frames, stop=lambda: next(asked))
    again = put(tmp_path, tmp_path / "two", "nvt", frames=frames)
    assert again == whole


def test_runs_whose_replicas_have_all_failed_can_be_asked_again(tmp_path):
    frames = labelled(9)
    failing = Spring(fail_after=20)
    whole = put(tmp_path, tmp_path / "work", "nvt", frames=frames, model=failing)
    assert whole.overall.failures.failures == 4
    assert put(tmp_path, tmp_path / "work", "nvt", frames=frames, model=failing) == whole


def test_a_certificate_names_what_it_is_about(original):
    made = Certificate.read(original)
    assert (made.campaign, made.system, made.schema_version) == ("test", "nitrogen", 3)
    assert made.signals == ["node_energy", "guard", "latent"]
    assert made.model.path == "../gen001/model.model"
    assert [file.path for file in made.data.files] == ["../seed.parquet", "../gen000.parquet"]
    splits = {"train": 3, "validation": 3, "test": 3, "free_atoms": 0, "bad": 0, "not_computed": 0}
    assert made.data.splits == splits
    assert made.data.store == str(original.parent.parent / "store")
    assert made.level_of_theory.description == LEVEL


def test_a_certificate_of_schema_2_keeps_its_checksum_and_its_conclusion(tmp_path):
    path = ROOT / "tests/data/certificate/schema-2.json"
    old = Certificate.read(path)
    assert (old.schema_version, old.checksum) == (2, old.checksum_now())
    assert certificate.conclude(old.runs, old.criteria, old.audit) == (old.conclusion, old.reasons)
    old.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


def test_what_has_melted_is_remarked_and_decides_nothing(original):
    made = Certificate.read(original)
    molten = [end.model_copy(update={"lindemann": 0.3}) for end in made.runs[0].replicas]
    first = made.runs[0].overall.model_copy(update={"order": order_of(molten)})
    run = made.runs[0].model_copy(update={"findings": [first, *made.runs[0].findings[1:]]})
    conclusion, reasons = certificate.conclude([run, made.runs[1]], made.criteria)
    assert conclusion == made.conclusion
    assert any("nvt: melted, which is no failure: dimer at" in reason for reason in reasons)


def test_a_failed_replica_makes_a_model_not_stable(tmp_path):
    frames = labelled(9)
    failing = Spring(fail_after=150)
    nvt = put(tmp_path, tmp_path / "nvt", "nvt", frames=frames, model=failing)
    nve = put(tmp_path, tmp_path / "nve", "nve", frames=frames)
    conclusion, reasons = certificate.conclude([nvt, nve], CRITERIA)
    assert conclusion == Conclusion.NOT_STABLE
    # Spring fails whichever replica comes first in the batch, until none is left.
    assert nvt.overall.failures.failures == 4
    assert reasons[0].startswith("nvt: 4 of 4 replicas failed")
    assert not contradictions(
        pd.read_parquet(tmp_path / "certificate/nvt.parquet"),
        nvt.replicas,
        time_ps=nvt.time_ps,
        timestep_fs=nvt.timestep_fs,
    )


def concluded(tmp_path, **changes):
    frames = labelled(9)
    runs = [put(tmp_path, tmp_path / "work", e, frames=frames) for e in ("nvt", "nve")]
    return certificate.conclude(runs, CRITERIA.model_copy(update=changes))[0]


def test_what_drifts_is_not_stable(tmp_path):
    assert concluded(tmp_path, max_drift_meV_per_atom_ps=1e-12) == Conclusion.NOT_STABLE


@pytest.mark.parametrize(
    ("update", "expected"),
    [
        ({"events_low_per_ns": 2e6}, Conclusion.NOT_CALM),
        ({"unreliable_low": 0.95}, Conclusion.NOT_CALM),
        ({"calm_ps": 0.0}, Conclusion.NOT_CALM),
        ({"events_low_per_ns": 5e5, "unreliable_low": 0.5}, Conclusion.NOT_ENOUGH_DATA),
    ],
)
def test_what_has_events_too_often_is_not_calm(tmp_path, update, expected):
    """The limits are 1e6 events per ns and molecule, and 90 % of the predictions."""
    frames = labelled(9)
    nvt, nve = (put(tmp_path, tmp_path / "work", e, frames=frames) for e in ("nvt", "nve"))
    part = nvt.overall.calm[0].model_copy(update={"finding": Finding.NOT_SATURATED} | update)
    mild = nvt.overall.model_copy(update={"calm": [part, *nvt.overall.calm[1:]]})
    restless = nvt.model_copy(update={"findings": [mild, *nvt.findings[1:]]})
    conclusion, reasons = certificate.conclude([restless, nve], CRITERIA)
    assert conclusion == expected
    assert reasons[0].startswith("nvt, dimer at 300 K")


def test_the_last_audit_is_quoted(tmp_path):
    frames = labelled(9)
    runs = [put(tmp_path, tmp_path / "work", e, frames=frames) for e in ("nvt", "nve")]
    audited = Audited(
        structure="dimer",
        temperature_K=300.0,
        finding=AuditFinding.PASSED,
        reason="right",
        frames=10,
        bad=0,
        replicas=4,
        forces_mae_meV_per_A=Interval(value=31.0, low=25.0, high=38.2),
        forces_rmse_meV_per_A=None,
        atom_error_q95_eV_per_A=None,
        energy_mae_meV_per_atom=None,
    )
    audit = made_up_audit(AuditFinding.PASSED, "right").model_copy(update={"parts": [audited]})
    conclusion, reasons = certificate.conclude(runs, CRITERIA, audit)
    assert conclusion == certificate.conclude(runs, CRITERIA)[0]
    assert reasons[-1] == (
        "audit, dimer at 300 K: forces are wrong by 31 meV/Å on average, by less than 38.2 (95 %), "
        "on 10 random frames of the campaign's last dynamics"
    )
    # The verdict goes by the error with what was foretold of more frames, and so do the words.
    opinion = SecondOpinion(
        frames=200, failed=0, forces_mae_meV_per_A=Interval(value=30.0, low=27.0, high=33.5)
    )
    audited = audited.model_copy(update={"second_opinion": opinion})
    _, reasons = certificate.conclude(runs, CRITERIA, audit.model_copy(update={"parts": [audited]}))
    assert reasons[-1] == (
        "audit, dimer at 300 K: forces are wrong by 30 meV/Å on average, by less than 33.5 (95 %), "
        "on 10 random frames and errors foretold of 200 of the campaign's last dynamics"
    )
    limits = certificate.not_covered(runs, structures=["dimer"], verdict="saturated", audit=audit)
    assert any("random frames of the campaign's last generation" in limit for limit in limits)


def numbers(rates, *, fails=(), atoms=2, time_ps=10.0, activity=(), slope=0.0):
    """Made-up traces at 1 point per ps; Λ grows at the given rates, the energy at `slope` eV/ps."""
    rows, ends = [], []
    for replica, rate in enumerate(rates):
        end = time_ps / 2 if replica in fails else time_ps
        times = np.arange(1.0, end + 0.5)
        rows += [
            {
                "replica": replica,
                "structure": "dimer",
                "target_temperature": 300.0,
                "time": t,
                "cli_error": rate * t,
                "cli_error_max": 2 * rate * t,
                "expected_error": 0.1 + 0.01 * (-1) ** t,
                "temperature": 300.0,
                "potential_energy": -5.0 + slope * t,
            }
            for t in times
        ]
        ends.append(
            ReplicaEnd(
                replica=replica,
                structure="dimer",
                start_key="k",
                temperature_K=300.0,
                atoms=atoms,
                time_ps=end,
                failure="bond broken" if replica in fails else None,
                molecules=1,
                activity_ps=list(activity),
            )
        )
    return pd.DataFrame(rows), ends, time_ps


def examined(traces, ends, time_ps):
    return examine(traces, ends, CRITERIA, time_ps=time_ps, conserved=True)[0]


def test_bounds_are_those_of_a_poisson_count_by_hand():
    found = examined(*numbers([0.0] * 4))
    assert found.failures.time_ps == 40
    assert found.failures.bound_per_ps == pytest.approx(-math.log(0.05) / 40)
    # 4 replicas × the late 5 ps, uneven by a shape of 1/2: 2 (0.05^-1/2 - 1) events at most.
    (part,) = found.calm
    assert part.window_ps == 20
    assert part.events_bound_per_ns == pytest.approx(2 * (0.05**-0.5 - 1) / 0.02)
    assert part.events_low_per_ns == 0
    failed = examined(*numbers([0.0] * 4, fails=(1,)))
    assert failed.failures.time_ps == 35
    # (1 + x) e^-x = 0.05 at x = 4.7439, of tables of the Poisson distribution
    assert failed.failures.bound_per_ps == pytest.approx(4.7439 / 35, rel=1e-4)


def test_events_of_long_runs_are_counted_in_the_late_window():
    (part,) = examined(*numbers([0.0] * 4, activity=[(2.0, 2.1), (6.0, 6.5), (8.0, 8.2)])).calm
    assert part.events == 8
    # Each is followed by a quiet time of 0.01 ps: 4 × (5 - 0.7 - 0.02) ps are calm.
    assert part.calm_ps == pytest.approx(4 * (5 - 0.7 - 0.02))
    assert part.events_per_ns == pytest.approx(8 / part.calm_ps * 1000)
    assert 0 < part.events_low_per_ns < part.events_per_ns < part.events_bound_per_ns


def test_plateau_is_the_mean_at_the_end_of_those_that_lived():
    found = examined(*numbers([0.01, 0.03, 0.5], fails=(2,)))
    assert found.plateau.replicas == 2
    assert found.plateau.cli_ps.value == pytest.approx(0.2)
    assert found.plateau.late_gain_ps.value == pytest.approx(0.1)
    assert found.plateau.worst_atom_ps == pytest.approx(0.6)
    # Of two values the bootstrap knows their mean and themselves.
    assert (found.plateau.cli_ps.low, found.plateau.cli_ps.high) == pytest.approx((0.1, 0.3))


def test_drift_is_the_slope_that_was_put_in():
    traces, ends, time_ps = numbers([0.0] * 3, slope=0.004, atoms=2)
    assert drift(traces[traces["replica"] == 0], 2) == pytest.approx(2.0)  # 4 meV/ps on two atoms
    found = examined(traces, ends, time_ps)
    assert found.drift.worst == pytest.approx(2.0)
    # Traces of schema 1 have no kinetic energy: 3/2 k_B × 10 K/ps per atom more.
    older = traces.drop(columns="kinetic_energy", errors="ignore")
    heated = older.assign(temperature=300.0 + 10 * traces["time"])
    expected = 2.0 + 1.5 * 8.617333e-5 * 10 * 1000
    assert drift(heated[heated["replica"] == 0], 2) == pytest.approx(expected, rel=1e-5)
    faster = traces.assign(kinetic_energy=0.002 * traces["time"])
    assert drift(faster[faster["replica"] == 0], 2) == pytest.approx(3.0)


def test_traces_that_contradict_the_list_are_found():
    traces, ends, time_ps = numbers([0.0] * 3, fails=(1,))
    options = {"time_ps": time_ps, "timestep_fs": 1.0}
    assert not contradictions(traces, ends, **options)
    hidden = [*ends[:1], ends[1].model_copy(update={"failure": None}), *ends[2:]]
    assert "not failed" in contradictions(traces, hidden, **options)[0]
    assert contradictions(traces, ends[:2], **options)
    hotter = [ends[0].model_copy(update={"temperature_K": 900.0}), *ends[1:]]
    assert "not at 900 K" in contradictions(traces, hotter, **options)[0]


@pytest.mark.parametrize(
    ("decision", "when", "expected"),
    [
        ("saturated", "saturated", True),
        ("max_generations", "saturated", False),
        ("max_generations", "always", True),
        ("saturated", "never", False),
    ],
)
def test_who_gets_a_certificate(decision, when, expected):
    settings = Settings(certificate={"when": when}, limits={"max_generations": 2})
    verdict = made_up_verdict(decision)
    assert saturation.gets_certificate(verdict, settings) is expected


def test_a_campaign_that_goes_on_gets_none_yet():
    settings = Settings(certificate={"when": "always"}, limits={"max_generations": 3})
    verdict = made_up_verdict("max_generations")
    assert not saturation.gets_certificate(verdict, settings)


def test_runs_are_plain_and_end_with_a_point_of_the_traces():
    explored = ExplorationSettings(
        ensemble="npt", replacements=8, bias={"kind": "ramp", "to_K": 900.0}, timestep_fs=0.5
    )
    asked = CertificateSettings(time_ps=1.01, trace_points_per_ps=10)
    for ensemble in ("nvt", "nve"):
        settings = long_runs.run_settings(explored, asked, ensemble)
        assert settings.ensemble == ensemble
        assert settings.bias.kind == "none"
        assert settings.replacements == 0
    assert long_runs.run_settings(explored, asked, "nvt").time_ps == pytest.approx(1.1)
    assert long_runs.run_settings(explored, asked, "nvt").temperatures_K == explored.temperatures_K


def test_criteria_are_the_campaigns():
    found = long_runs.criteria_of(
        "liquid",
        ExplorationSettings(bond_stretch_A=0.7),
        SaturationSettings(events_per_ns=20.0),
        CertificateSettings(),
    )
    assert (found.kind, found.bond_stretch_A, found.events_per_ns) == ("liquid", 0.7, 20.0)
    assert found.of_calm() == SaturationSettings(events_per_ns=20.0)
