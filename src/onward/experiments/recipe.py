"""Recipes: everything that determines a study, read from TOML into one frozen value.

An unknown key is an error that offers the nearest name. What a recipe leaves out has the default
of its settings, so a recipe says only what is its own.
"""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from onward.artifacts import canonical_json, digest
from onward.errors import ConfigurationError
from onward.nn.specs import BackboneSpec
from onward.training.settings import (
    BackwardCompatibleSettings,
    FitSettings,
    SimCLRSettings,
    TrainingSettings,
    read_settings,
)


class DataSettings(BaseModel):
    """Which images, and how their classes are split.

    Attributes:
        source: "digits", an image folder or image Parquet.
        old_classes: how many classes, from the lowest label number on, the old model knows.
        image_column: Parquet only: the struct {bytes, path}.
        label_column: Parquet only: the integer label.
        id_column: Parquet only: ids; otherwise file and row.
        skip_bad: leave out bad images and say which.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = "digits"
    old_classes: int = Field(default=5, ge=1)
    image_column: str | None = None
    label_column: str | None = None
    id_column: str | None = None
    skip_bad: bool = False


class LayersSettings(BaseModel):
    """Side-information of kind `layers`: the old model's own stages, pooled and projected.

    Attributes:
        dim: dimensions to store beside each embedding.
        grid: each stage is pooled to `grid` x `grid` pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = Field(default=128, ge=1)
    grid: int = Field(default=2, ge=1)


class Recipe(BaseModel):
    """A study: old, side-information, new and backward compatible models, and their comparison.

    Attributes:
        name: what the study is called.
        seed: every other seed is derived from it.
        precision: "32-true" or "bf16-mixed", for training the networks that see images.
        threads: CPU threads that torch computes with; all if not given. Tiny networks are quickest
            on one, above all where other programs want the cores too.
        views: how often each training image is embedded to fit the transformation: once as it is,
            the other times augmented.
        data: the images.
        backbone: the network of all four models.
        embedding_model: training of the old and of the new model.
        side_information: training of the SimCLR model, on old data only.
        layers: side-information from the old model's own stages.
        backward_compatible: training of the backward compatible model.
        fit: training of the transformation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    seed: int = Field(default=0, ge=0)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    threads: int | None = Field(default=None, ge=1)
    views: int = Field(default=1, ge=1)
    data: DataSettings = DataSettings()
    backbone: BackboneSpec = BackboneSpec()
    embedding_model: TrainingSettings = TrainingSettings()
    side_information: SimCLRSettings = SimCLRSettings()
    layers: LayersSettings = LayersSettings()
    backward_compatible: BackwardCompatibleSettings = BackwardCompatibleSettings()
    fit: FitSettings = FitSettings()

    def seed_of(self, role: str) -> int:
        """Return the seed of one part of the study, such as "old model".

        Parts have seeds of their own: two models with the same seed would begin with the same
        weights and would not be independent.
        """
        return int(digest(f"{self.seed}/{role}".encode())[:8], 16)

    @property
    def digest(self) -> str:
        """Digest of everything that the recipe determines."""
        return digest(canonical_json(self.model_dump(mode="json")))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe that comes with Onward by its name, or any TOML file by its path.

    Args:
        name: such as "digits", or a path that ends in `.toml`.
        overrides: values by dotted key, such as `{"data.old_classes": 50, "seed": 1}`.

    Raises:
        ConfigurationError: if there is no such recipe, it is no TOML, or a key or value is wrong.
    """
    path = Path(name) if name.endswith(".toml") else None
    text = _read(path) if path else _read_bundled(name)
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is no TOML: {error}") from error
    for key, value in (overrides or {}).items():
        _set(fields, key, value)
    return _read_recipe(fields, where=f"recipe {name}")


def bundled_recipes() -> tuple[str, ...]:
    """Return the names of the recipes that come with Onward."""
    names = (entry.name for entry in files("onward.experiments").joinpath("recipes").iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml")))


def _read(path: Path) -> str:
    if not path.is_file():
        raise ConfigurationError(f"there is no recipe {path}; give a TOML file that exists")
    return path.read_text()


def _read_bundled(name: str) -> str:
    if name not in bundled_recipes():
        raise ConfigurationError(
            f"there is no recipe {name!r}; choose one of {', '.join(bundled_recipes())}, "
            "or give the path of a .toml file"
        )
    return files("onward.experiments").joinpath("recipes", f"{name}.toml").read_text()


def _set(fields: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        fields = fields.setdefault(table, {})
        if not isinstance(fields, dict):
            raise ConfigurationError(
                f"{table} is a value, not a table, so {key} cannot be set; set {table} itself"
            )
    fields[last] = value


def _read_recipe(fields: dict[str, Any], *, where: str) -> Recipe:
    tables = {
        name: read_settings(type(getattr(_DEFAULT, name)), value, where=f"{where}, [{name}]")
        for name, value in fields.items()
        if isinstance(value, dict) and isinstance(getattr(_DEFAULT, name, None), BaseModel)
    }
    return read_settings(Recipe, {**fields, **tables}, where=where)


_DEFAULT = Recipe(name="default")
