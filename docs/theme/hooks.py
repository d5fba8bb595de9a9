"""What makes a site of pages that are read in the repository too: other files join, links follow, formulas are MathML.

Pages link to files anywhere in the repository by relative paths. Whatever they reach becomes part of the site: Markdown
as a page, source as a page that shows it, pictures as they are. A link to a folder loses its link.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
START = "README.md"
"""The repository's first page is the site's."""
LINK = re.compile(r"\]\(<?(?![a-z]+:|#)([^)\s>#]+)>?(#[^)\s]*)?\)")
WHOLE_LINK = re.compile(r"\[([^\[\]]*)\]\(<?(?![a-z]+:|#)([^)\s>#]+)>?\)")
FENCE = re.compile(r"(^```.*?^```$)", flags=re.MULTILINE | re.DOTALL)
MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', flags=re.DOTALL)
BAR = re.compile(r"<mo((?: [^>]*)?)(?=>(?:&#x0007C;|\|)</mo>)")
"""A bar of an absolute value, around which browsers else leave the space of an operator."""
PICTURES = {".png", ".svg"}


def on_config(config: Any) -> Any:
    """Lists of pages in the navigation that the repository decides, see LISTS."""
    config.nav = _filled(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is reached from the pages in docs/, and from the pages that are added by that."""
    entries = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md")
    waiting = [f"docs/{file.src_uri}" for file in files.documentation_pages()] + list(entries)
    seen = set(waiting)
    for name in entries:
        files.append(_file(name, config))
    files.append(File.generated(config, "api/methods.md", content=_classes(), inclusion=InclusionLevel.INCLUDED))
    while waiting:
        name = waiting.pop()
        for target in sorted(_targets(name) - seen):
            seen.add(target)
            if target.startswith("docs/"):
                continue
            files.append(_file(target, config))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Links as they lie in the site."""
    name = _name(page.file)

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[1]))
        place = posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri))
        return f"](<{place}{found[2] or ''}>)"

    def without_folders(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), found[2]))
        return found[1] if (ROOT / target).is_dir() else found[0]

    parts = FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else LINK.sub(link, WHOLE_LINK.sub(without_folders, part)) for part in parts
    )


def on_page_content(content: str, page: Page, config: Any, files: Files) -> str:
    """Formulas as MathML, which browsers show without a script."""

    def formula(found: re.Match[str]) -> str:
        mathml = convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline")
        return BAR.sub(r'<mo lspace="0" rspace="0"\1', mathml)

    return MATH.sub(formula, content)


def _filled(items: list[Any]) -> list[Any]:
    filled: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            filled.append({title: _filled(page) if isinstance(page, list) else page for title, page in item.items()})
        else:
            filled += LISTS[item]() if item in LISTS else [item]
    return filled


def _methods() -> list[str]:
    """Pages of methods that mkdocs.yml does not name."""
    named = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [f"methods/{path.name}" for path in sorted((ROOT / "docs" / "methods").glob("*.md"))]
    return [page for page in pages if page not in named]


def _classes() -> str:
    """A page with the class of every method that has a page, and of its variants: ``<method>_<variant>.py``."""
    pages = [path.stem for path in (ROOT / "docs" / "methods").glob("*.md")]
    files = sorted(path.stem for path in (ROOT / "weighting").glob("[!_]*.py"))
    modules = [name for name in files if any(name == page or name.startswith(f"{page}_") for page in pages)]
    parts = [f"::: weighting.{name}\n    options:\n      show_root_toc_entry: true\n" for name in modules]
    return "\n".join(["# Classes of the methods\n", *parts])


def _reports() -> list[str]:
    """Reports that the page of the results links to."""
    return [_uri(target) for target in sorted(_targets("docs/results.md")) if target.startswith("results/")]


LISTS: dict[str, Callable[[], list[str]]] = {"*methods": _methods, "*reports": _reports}


def _targets(name: str) -> set[str]:
    """Files of the repository that a page of it links to, as paths from its root."""
    text = FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    found = {posixpath.normpath(posixpath.join(posixpath.dirname(name), link[1])) for link in LINK.finditer(text)}
    return {target for target in found if (ROOT / target).is_file()}


def _uri(target: str) -> str:
    """Where a file of the repository lies in the site."""
    if target == START:
        return "index.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return target if Path(target).suffix in {".md", *PICTURES} else f"{target}.md"


def _name(file: File) -> str:
    """The path from the repository's root of what a page of the site shows."""
    if file.src_uri == "index.md":
        return START
    return file.src_uri if file.generated_by else f"docs/{file.src_uri}"


def _file(target: str, config: Any) -> File:
    place = _uri(target)
    if place in (target, "index.md"):
        return File.generated(config, place, abs_src_path=str(ROOT / target), inclusion=InclusionLevel.INCLUDED)
    text = (ROOT / target).read_text(encoding="utf-8").rstrip()
    language = {".py": "python", ".yaml": "yaml", ".yml": "yaml"}.get(Path(target).suffix, "text")
    return File.generated(
        config, place, content=f"# {target}\n\n```{language}\n{text.rstrip()}\n```\n", inclusion=InclusionLevel.INCLUDED
    )
