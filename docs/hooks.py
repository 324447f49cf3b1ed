"""For MkDocs: a link to a file of the repository that is no page becomes its name.

A link whose file is not there stays, and `mkdocs build --strict` complains about it.
"""

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
LINK = re.compile(r"\[([^\]]*)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_more: Any) -> str:
    """The page's Markdown before MkDocs reads it."""
    folder = Path(page.file.abs_src_path).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(DOCS) or not target.exists():
            return link[0]
        name = target.relative_to(DOCS.parent)
        return f"`{name}`" if link[1].strip("`") == str(name) else f"{link[1]} (`{name}`)"

    return LINK.sub(named, markdown)
