"""`onward upgrade log`: every step that was taken on a gallery."""

from collections.abc import Mapping
from typing import Any

import typer

from onward.cli.options import GalleryUrl
from onward.cli.output import AsJson, to_text
from onward.progress import visible

DIGEST_DIGITS = 64

NOT_SHOWN = frozenset(
    {"number", "time", "event", "state", "version", "gallery", "next_steps", "made_by", "left"}
)
"""To a person: what every line has, or says too much."""


def log(gallery: GalleryUrl, as_json: AsJson = False) -> None:
    """Show every step that was taken on GALLERY, oldest first; with --json, one a line.

    Example: onward upgrade log photos.lance --json
    """
    from onward.gallery import open_gallery

    for entry in open_gallery(gallery).journal():
        typer.echo(to_text(entry, indent=None) if as_json else visible(_line(entry)))


def _line(entry: Mapping[str, Any]) -> str:
    first = f"{entry['number']:>4}  {entry.get('time')}  {entry['event']}"
    shown = ((name, _short(value)) for name, value in entry.items() if name not in NOT_SHOWN)
    return "  ".join([first, *(f"{name}={value}" for name, value in shown if value)])


def _short(value: Any) -> str:
    """Return a number, a text, a space by its name, rows by their count, or a list of these."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return _short(value.get("name", value.get("space", value.get("rows", ""))))
    if isinstance(value, list):
        return ",".join(filter(None, map(_short, value)))
    is_digest = isinstance(value, str) and len(value) == DIGEST_DIGITS
    return "" if value is None else str(value)[:8] if is_digest else str(value)
