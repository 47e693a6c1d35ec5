"""What every page of a report has around its own content: head, style, sections, footer.

One file that needs nothing else: pictures and style stand in it, there is no script, and a content
security policy forbids the browser to load anything.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from onward import __version__

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *, kind: str, introduction: str, sections: Sequence[str]) -> str:
    """Return a whole page.

    Args:
        title: its heading.
        kind: what sort of page it is, in a word.
        introduction: plain text; blank lines part paragraphs.
        sections: from `section`.
    """
    style = files("onward.report").joinpath("style.css").read_text(encoding="utf-8")
    paragraphs = "".join(
        f"<p>{escape(part.strip())}</p>" for part in introduction.split("\n\n") if part.strip()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n"
        f'<header><p class="kicker">Onward · {kind}</p><h1>{escape(title)}</h1>{paragraphs}'
        "</header>\n<main>\n" + "\n".join(sections).replace(" %", "&nbsp;%") + "\n</main>\n"
        f"<footer><p>Written by Onward {__version__}. The page is whole in this one file: it loads "
        "nothing and runs no script.</p></footer>\n</body>\n</html>\n"
    )


def section(name: str, heading: str, content: str) -> str:
    """Return a section with its heading.

    Args:
        name: its id in the page.
        heading: plain text.
        content: HTML.
    """
    return (
        f'<section id="{name}" aria-labelledby="{name}-heading">'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>{content}</section>'
    )


def facts_section(facts: Mapping[str, str]) -> str:
    """Return the section that says how the numbers came to be, folded."""
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return section(
        "facts",
        "How these numbers came to be",
        f"<details><summary>{escape(', '.join(facts))}</summary><dl>{rows}</dl></details>",
    )
