"""The page a person looks at: one self-contained HTML file per system.

    from pathlib import Path
    from halcyon import files
    from halcyon.report import collect
    from halcyon.report.page import render

    files.write_text(Path("report.html"), render(collect(campaign, "ethanol", verdicts)))

The page loads nothing from elsewhere; its content security policy forbids it.

Not for: the numbers and sentences on it (`report`).
"""

from halcyon.report.page.render import TEMPLATES, render

__all__ = ["TEMPLATES", "render"]
