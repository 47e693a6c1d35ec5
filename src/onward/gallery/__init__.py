"""Galleries: items with one nullable vector a space, and a record of which space answers queries.

`open_gallery` and `create_gallery` take a URL; what they give behaves the same in every store.
"""

from onward.gallery.gallery import Gallery
from onward.gallery.opening import Place, create_gallery, open_gallery, scratch_gallery
from onward.gallery.store import Share
from onward.gallery.values import (
    Batch,
    Control,
    FieldCounts,
    GalleryDescription,
    JournalEntry,
    RecordedRoutes,
    RecordedTransformation,
    Revisions,
    Served,
)
from onward.gallery.view import Derived, GalleryRows, GalleryView
from onward.spaces import Origin

__all__ = [
    "Batch",
    "Control",
    "Derived",
    "FieldCounts",
    "Gallery",
    "GalleryDescription",
    "GalleryRows",
    "GalleryView",
    "JournalEntry",
    "Origin",
    "Place",
    "RecordedRoutes",
    "RecordedTransformation",
    "Revisions",
    "Served",
    "Share",
    "create_gallery",
    "open_gallery",
    "scratch_gallery",
]
