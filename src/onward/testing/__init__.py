"""Certify a store of your own: the contract that every store keeps, and a machine of upgrades.

`StoreContract` tries each promise of `onward.gallery.store.Store` on its own; `upgrade_machine`
takes the steps of upgrades in any order, with writers, slow workers and sudden deaths in between.
Both came with the stores of Onward, which pass them. They need the extra `testing`.
"""

from onward.errors import MissingExtraError

try:
    import hypothesis  # noqa: F401
    import pytest
except ModuleNotFoundError as error:
    raise MissingExtraError(error.name or "pytest", "testing") from error

pytest.register_assert_rewrite("onward.testing.contract", "onward.testing.watching")

from onward.testing.contract import StoreContract  # noqa: E402 - once it is known what is there
from onward.testing.machine import upgrade_machine  # noqa: E402

__all__ = ["StoreContract", "upgrade_machine"]
