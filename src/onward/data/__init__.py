"""Images and texts to embed: the bundled digits, folders, Parquet, lists; opened one by one.

Only `onward.data.augmentation` needs torch.
"""

from onward.data.images import load_images
from onward.data.items import Items, LeftOut
from onward.data.parts import Stated
from onward.data.payloads import open_payload, open_text
from onward.data.sources import describe_data, open_items, open_splits

__all__ = [
    "Items",
    "LeftOut",
    "Stated",
    "describe_data",
    "load_images",
    "open_items",
    "open_payload",
    "open_splits",
    "open_text",
]
