"""What signatures say of shapes and types, checked whenever a function of `onward` is called.

jaxtyping binds the arguments of every call, since a shape's axes must agree among them. Beartype
alone checks a signature that names no shape as strictly, in a tenth of the time.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import jaxtyping


def check_signatures() -> None:
    """Check each call of what is imported from `onward` from here on."""
    by_shapes = jaxtyping.jaxtyped

    def jaxtyped(*, typechecker: Callable[..., Any]) -> Callable[..., Any]:
        def decorate(one: Any) -> Any:
            if inspect.isfunction(one) and not _names_shapes(one):
                return _checked(one, typechecker)
            return by_shapes(one, typechecker=typechecker)

        return decorate

    jaxtyping.jaxtyped = jaxtyped  # by this name the import hook finds it
    jaxtyping.install_import_hook("onward", "beartype.beartype")


def _names_shapes(function: Callable[..., Any]) -> bool:
    """Say whether a signature names a shape, or a type that only mypy knows, as jaxtyping does."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError:
        return True
    return any(map(_has_shape, hints.values()))


def _has_shape(hint: Any) -> bool:
    is_shape = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return is_shape or any(map(_has_shape, get_args(hint)))


def _checked(function: Callable[..., Any], typechecker: Callable[..., Any]) -> Callable[..., Any]:
    strict = typechecker(function)
    if strict is function:
        return function  # its signature says nothing

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else strict)(*args, **kwargs)

    return call
