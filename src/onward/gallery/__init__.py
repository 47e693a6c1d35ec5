"""Galleries: items with one nullable vector a space, and a record of which space answers queries.

`open_gallery` and `create_gallery` take a URL; what they give behaves the same in every store.
"""

from onward.gallery.filling import Derived
from onward.gallery.gallery import Gallery
from onward.gallery.opening import create_gallery, open_gallery, scratch_gallery
from onward.gallery.sharing import Share
from onward.gallery.values import (
    Batch,
    Control,
    FieldCounts,
    GalleryDescription,
    JournalEntry,
    Revisions,
    Served,
)
from onward.spaces import Origin

__all__ = [
    "Batch",
    "Control",
    "Derived",
    "FieldCounts",
    "Gallery",
    "GalleryDescription",
    "JournalEntry",
    "Origin",
    "Revisions",
    "Served",
    "Share",
    "create_gallery",
    "open_gallery",
    "scratch_gallery",
]
