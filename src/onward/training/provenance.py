"""What made an artefact of training, as plain values for its header and its card."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

import onward
from onward.data.items import Items
from onward.nn.specs import TIMM
from onward.training.settings import RunSettings


def made_by(
    recipe: str, settings: BaseModel, *, seed: int, run: RunSettings, device: str, **facts: Any
) -> dict[str, Any]:
    """Return what determines a result: recipe, settings, seed, device and versions.

    Args:
        recipe: what was done, such as "embedding model".
        device: what `run.device` came to.
        facts: what else the recipe depends on, as plain JSON values.
    """
    return {
        "recipe": recipe,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "device": device,
        "devices": run.devices,
        "precision": run.precision,
        **facts,
        "versions": versions(facts.get("backbone")),
    }


def versions(backbone: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the versions of the code that a model of this backbone runs by."""
    found = {"onward": onward.__version__, "torch": version("torch")}
    if backbone is not None and str(backbone["name"]).startswith(TIMM):
        found["timm"] = version("timm")
    return found


def describe_items(items: Items) -> Mapping[str, Any]:
    """Return what a result says of the items it was made from."""
    return {
        "source": items.source,
        "items": len(items),
        "classes": len(items.classes),
        "digest": items.digest,
    }
