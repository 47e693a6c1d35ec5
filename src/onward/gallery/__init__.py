"""Galleries: items with one nullable vector a space, and a record of which space answers queries.

`open_gallery` and `create_gallery` take a URL; what they give behaves the same in every store.
"""

from onward.gallery.gallery import Gallery, Place, create_gallery, open_gallery, scratch_gallery
from onward.gallery.reader import Answered, Reader, Shadow, Shadowed
from onward.gallery.record import Control, RecordedRoutes, RecordedTransformation, Served
from onward.gallery.store import Batch, JournalEntry, Revisions, Share
from onward.gallery.view import Derived, FieldCounts, GalleryRows, GalleryView
from onward.spaces import Origin

__all__ = [
    "Answered",
    "Batch",
    "Control",
    "Derived",
    "FieldCounts",
    "Gallery",
    "GalleryRows",
    "GalleryView",
    "JournalEntry",
    "Origin",
    "Place",
    "Reader",
    "RecordedRoutes",
    "RecordedTransformation",
    "Revisions",
    "Served",
    "Shadow",
    "Shadowed",
    "Share",
    "create_gallery",
    "open_gallery",
    "scratch_gallery",
]
