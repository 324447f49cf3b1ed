"""The page a person looks at: one self-contained HTML file per system.

    from pathlib import Path
    from halcyon import files
    from halcyon.report import collect
    from halcyon.report.page import render

    files.write_text(Path("report.html"), render(collect(campaign, "ethanol", verdicts)))

It loads nothing, and a content security policy in it forbids to.

Not for: finding the numbers (`report`).
"""

from halcyon.report.page.render import TEMPLATES, render

__all__ = ["TEMPLATES", "render"]
