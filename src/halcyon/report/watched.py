"""A page about a trajectory that was judged by a campaign's index: one file, no network.

    from pathlib import Path
    from halcyon.report.watched import write_page

    write_page(judged, Path("watch.html"), title="production.lammpstrj")

Not for: a campaign's own page (`report.page`).
"""

import html
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from halcyon import files
from halcyon.final.monitor.judging import Judged
from halcyon.wording import count

SHOWN_ATOMS = 20
STYLE = (
    "body{font-family:system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1f24;background:#fff}table{border-collapse:collapse}td,th{padding:.25rem .75rem;"
    "text-align:right;border-bottom:1px solid #ddd}.note{color:#555}"
)


def sentence(judged: Judged) -> str:
    """What the index says of the trajectory, in a sentence or two."""
    frames = judged.frames
    outside, failed = int((frames["outside"] > 0).sum()), frames[frames["failure"] != ""]
    words = (
        f"{count(len(frames), 'frame')} of {judged.structure}, {judged.interval_ps * 1000:g} fs "
        f"apart: {count(outside, 'frame')} with an atom beyond the tolerance; Λ "
        f"{frames['cli_ps'].iloc[-1]:.3g} ps on average, {frames['cli_max_ps'].iloc[-1]:.3g} ps of "
        "the worst atom."
    )
    if len(failed):
        first = failed.iloc[0]
        words += f" First failure in frame {int(first['frame'])}: {first['failure']}."
    return words


def write_page(judged: Judged, path: Path, *, title: str) -> None:
    """Write the page.

    Args:
        judged: what to show.
        path: of the page, .html.
        title: name of the trajectory.
    """
    frames = judged.frames
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for name, label in (("cli_ps", "mean over atoms"), ("cli_max_ps", "worst atom")):
        figure.add_trace(go.Scatter(x=frames["time_ps"], y=frames[name], name=label), row=1, col=1)
    figure.add_trace(
        go.Scatter(
            x=frames["time_ps"], y=frames["outside"], name="atoms outside", mode="lines+markers"
        ),
        row=2,
        col=1,
    )
    figure.update_yaxes(title_text="Λ, ps", row=1, col=1)
    figure.update_yaxes(title_text="atoms beyond the tolerance", row=2, col=1)
    figure.update_xaxes(title_text="time, ps", row=2, col=1)
    figure.update_layout(template="plotly_white", height=600)
    atoms = judged.atoms.sort_values("cli_ps", ascending=False).head(SHOWN_ATOMS)
    rows = "".join(
        f"<tr><td>{row.element}{row.atom}</td><td>{row.cli_ps:.3g}</td><td>{row.excursions}</td></tr>"
        for row in atoms.itertuples()
    )
    content = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
        f"<style>{STYLE}</style><h1>{html.escape(title)}</h1><p>{html.escape(sentence(judged))}</p>"
        "<p class=note>Λ is a sum over saved frames: excursions shorter than the time between two "
        f"of them are missed. Decides: {html.escape(judged.decides)}.</p>"
        + figure.to_html(full_html=False, include_plotlyjs=True)
        + "<h2>Atoms</h2><table><tr><th>atom</th><th>Λ, ps</th><th>excursions</th></tr>"
        + rows
        + "</table></html>"
    )
    files.write_text(path, content)
