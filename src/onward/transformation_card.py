"""The card of a saved transformation, for people: text with places for what is particular."""

from typing import Any

CARD = """# Transformation {direction}

Carries stored vectors into a new embedding space. It reads no image.

| | |
| --- | --- |
| old space (goes in) | `{of.old}` |
| side-information (goes in) | {side} |
| new space (comes out) | `{of.new}` |
| parameters | {of.parameters:,} |
| bytes | {size:,} |
| multiply-adds an item | {of.multiply_adds:,} |
| digest | `{of.digest}` |

A whole gallery: `onward upgrade GALLERY TRANSFORMATION`. Some embeddings, in Python:

```python
from onward.spaces import Embeddings
from onward.transformation import Transformation

h = Transformation.load("TRANSFORMATION")  # this directory
new = h.apply(Embeddings.load("old.parquet"){load_side})
```

Elsewhere: `{file}` (opset {opset}) takes {inputs} as float32, one row an item, and gives
{outputs}.

Made by:

```json
{made_by}
```
"""


def without_ids(made_by: Any) -> Any:
    """Return what made it without lists of ids: `config.json` has them, a page has no room."""
    if not isinstance(made_by, dict):
        return made_by
    return {name: without_ids(value) for name, value in made_by.items() if name != "ids"}
