"""What makes a site of pages that are written to be read in the repository: MkDocs calls it."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

TOP = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that are not in docs/, and what they are called in the site."""

_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
_OPENING = re.compile(r"^( *```\w+) +(.+)$", re.MULTILINE)
_LINK = re.compile(r"\[((?:[^\[\]`]|`[^`]*`)+)\]\(([^()\s]+)\)")
_POINT = re.compile(r"(?:[-*]|\d+\.) +")
_MARK = re.compile(r"^ *<!-- .* -->\n", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in the place of the folder's name."""
    nav: list[dict[str, Any]] = config.nav or []
    for chapter in nav:
        for title, pages in chapter.items():
            if isinstance(pages, str) and pages.endswith("/"):
                found = sorted((TOP / "docs" / pages).glob("*.md"))
                chapter[title] = [f"{pages}{page.name}" for page in found]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(TOP / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Write a page as the site needs it."""
    place = page.file.src_uri
    named = {place: source for source, place in OUTSIDE.items()}
    return as_in_site(markdown, source=named.get(place, f"docs/{place}"), place=place)


def as_in_site(markdown: str, *, source: str, place: str) -> str:
    """Return a page of the repository, where its path is ``source``, for its place in the site."""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        path, _, heading = target.partition("#")
        if ":" in target or not path:
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        there = _place_of(path)
        if there is None:
            return _without_link(text, path)
        there = posixpath.relpath(there, posixpath.dirname(place))
        return f"[{text}]({there}{'#' * bool(heading)}{heading})"

    parts = _FENCED.split(_indented(_MARK.sub("", markdown)))
    # Every second one is a fenced block.
    parts[::2] = [_LINK.sub(link, part) for part in parts[::2]]
    parts[1::2] = [_OPENING.sub(_titled, part, count=1) for part in parts[1::2]]
    return "".join(parts)


def _indented(markdown: str) -> str:
    """Indent what belongs to a point of a list by four spaces, as the library wants it."""
    lines = []
    width = 0
    for line in markdown.splitlines():
        point = _POINT.match(line)
        if point is not None:
            width = point.end()
        elif width and line.startswith(" " * width):
            line = f"    {line[width:]}"  # noqa: PLW2901
        elif line:
            width = 0
        lines.append(line)
    return "\n".join(lines)


def _place_of(path: str) -> str | None:
    """Where the site has what is at a path of the repository, if it has it."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if not path.startswith("docs/"):
        return None
    if (TOP / path).is_dir():
        path = min(f"{path}/{page.name}" for page in (TOP / path).glob("*.md"))
    return path.removeprefix("docs/")


def _without_link(text: str, path: str) -> str:
    """Name a file that only the repository has."""
    return f"`{path}`" if text.strip("`/") in path and text[0] == "`" else f"{text} (`{path}`)"


def _titled(opening: re.Match[str]) -> str:
    """Show what a block is of."""
    about = opening[2]
    if about == "server":
        about = "in the second terminal"
    elif about.endswith(" +"):
        about = f"{about.removesuffix(' +')}, at its end"
    return f'{opening[1]} title="{about}"'
