"""The certificate on the page: what the long runs showed, as a table and as curves of Λ.

Not for: making a certificate (`final.certificate`) or checking it (`final.checks`).
"""

from html import escape

import numpy as np
import pandas as pd

from halcyon.final.certificate import Certificate, Runs
from halcyon.final.evidence import Findings, ReplicaEnd
from halcyon.report import SystemReport, survival_words
from halcyon.report.page.axes import (
    MAX_POINTS,
    Figure,
    Trace,
    curve_points,
    gradient,
    rounded,
    titled,
)
from halcyon.verdict.estimates import Interval
from halcyon.verdict.runs import deciding
from halcyon.wording import number_text, per_cent

NAMES = {"nvt": "with a thermostat (NVT)", "nve": "without a thermostat (NVE)"}


def rows(certificate: Certificate) -> list[list[str]]:
    """What the runs of each ensemble show: all replicas together, then each temperature."""
    confidence = per_cent(certificate.criteria.confidence)
    calm = certificate.runs[0].overall.calm
    per = calm[0].per if calm else "molecule"
    heading = [
        "Runs",
        "Temperature, K",
        "Failed / all replicas",
        "Simulated time, ps",
        f"Failure rate, {confidence} bound, 1/ps",
        f"Events per ns and {per}, {confidence} bound",
        "Λ at the end, ps",
        "Λ gained in the late window, ps",
        "Drift of the energy, median, meV/atom/ps",
        "Drift of the energy, largest, meV/atom/ps",
    ]
    listed = [(run, findings) for run in certificate.runs for findings in _listed(run.findings)]
    table = [heading] + [_row(run, findings) for run, findings in listed]
    if any(findings.order for _, findings in listed):
        largest = [max((p.largest for p in f.order), default=None) for _, f in listed]
        column = ["Lindemann ratio, largest", *map(number_text, largest)]
        table = [[*row, cell] for row, cell in zip(table, column, strict=True)]
    return table


def _listed(findings: list[Findings]) -> list[Findings]:
    """The findings of all replicas together are left out where there is only one temperature."""
    return findings if len(findings) > 2 else findings[1:]


def _row(run: Runs, findings: Findings) -> list[str]:
    failed, drift = findings.failures, findings.drift
    return [
        run.ensemble.upper(),
        "all" if findings.temperature_K is None else f"{findings.temperature_K:g}",
        f"{failed.failures} / {findings.replicas}",
        f"{failed.time_ps:.4g}",
        number_text(failed.bound_per_ps),
        _events_bound(findings),
        _interval(findings.plateau.cli_ps),
        _interval(findings.plateau.late_gain_ps),
        _interval(drift.median if drift else None),
        number_text(drift.worst if drift else None),
    ]


def _events_bound(findings: Findings) -> str:
    """The greatest bound of the events per ns and molecule; of early releases, of excursions."""
    if findings.excursions is not None:
        return f"{number_text(findings.excursions.rate_bound_per_atom_ps)} per atom and ps"
    bounds = [part.events_bound_per_ns for part in findings.calm]
    known = [bound for bound in bounds if bound is not None]
    return number_text(max(known) if known and len(known) == len(bounds) else None)


def _interval(of: Interval | None) -> str:
    return "–" if of is None else f"{of.value:.2g} [{of.low:.2g}, {of.high:.2g}]"


def figures(report: SystemReport) -> list[Figure]:
    """Λ of the deciding index during the runs of each ensemble."""
    if report.certificate is None:
        return []
    return [
        _curves(run, traces)
        for run, traces in zip(report.certificate.runs, report.certificate_traces, strict=True)
    ]


def _curves(run: Runs, traces: pd.DataFrame) -> Figure:
    """A curve for each replica; colours are temperatures."""
    colours = {
        kelvin: gradient(i, len(run.temperatures_K)) for i, kelvin in enumerate(run.temperatures_K)
    }
    most = max(10, MAX_POINTS // (2 * len(run.replicas)))
    index = deciding(traces.columns)
    by_replica = dict(list(traces.groupby("replica")[["time", f"cli_{index}"]]))
    data: list[Trace] = []
    points = drawn = 0
    for end in run.replicas:
        if end.replica not in by_replica:  # failed before its first point
            continue
        time, cli = by_replica[end.replica].to_numpy(dtype=float).T
        kept = curve_points(time, cli, most)
        points, drawn = points + len(time), drawn + len(kept)
        data += _replica(end, time, cli, kept, colours[end.temperature_K])
    last = np.array([trace[f"cli_{index}"].iloc[-1] for trace in by_replica.values()] or [np.nan])
    return Figure(
        id=f"cli-certificate-{run.ensemble}",
        title=f"Runs {NAMES[run.ensemble]}",
        caption=f"Λ of the {survival_words.NAMES[index]}, a curve for each replica; × marks a "
        "failure. Where a curve is flat, all predictions are inside the model's domain.",
        alt=f"Λ in ps against simulated time of {len(run.replicas)} replicas "
        f"{NAMES[run.ensemble]}; mean at the end {number_text(float(last.mean()))} ps, "
        f"{run.overall.failures.failures} failed.",
        data=data,
        x=titled("simulated time, ps", range=[0, run.time_ps * 1.02]),
        y=titled("Λ, mean over atoms, ps", rangemode="tozero"),
        thinned=(points, drawn),
        key={f"{kelvin:g} K": colour for kelvin, colour in colours.items()},
    )


def _replica(
    end: ReplicaEnd, time: np.ndarray, index: np.ndarray, kept: np.ndarray, colour: str
) -> list[Trace]:
    """The curve of a replica and, if it failed, a cross at its end."""
    name = f"replica {end.replica} ({end.structure}, {end.temperature_K:g} K)"
    curve = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [0.0, *rounded(time[kept])],
        "y": [0.0, *rounded(index[kept])],
        "line": {"color": colour, "width": 1.3},
        "hovertemplate": f"{escape(name)}<br>%{{x:.4g}} ps: Λ = %{{y:.3g}} ps<extra></extra>",
    }
    if end.failure is None:
        return [curve]
    cross = {
        "type": "scatter",
        "mode": "markers",
        "name": f"{name}: failure",
        "x": rounded(time[-1:]),
        "y": rounded(index[-1:]),
        "text": [escape(f"{name}: {end.failure} at {end.time_ps:.4g} ps")],
        "marker": {"symbol": "x", "size": 8, "color": colour},
        "hovertemplate": "%{text}<extra></extra>",
    }
    return [curve, cross]
