"""Every recipe, whole, on a small stand-in of its layout made from real images, for one epoch.

What a recipe of days does at its own size is checked here at the size of seconds: the same code,
the same arms, the same files.
"""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_study import quiet

from onward.data import open_items
from onward.errors import ConfigurationError, DataError
from onward.experiments.experiment import run_experiment
from onward.experiments.recipe import bundled_recipes, load_recipe

ITEMS = {"train": 12, "test": 6}  # of each class
BRIEF = {
    "embedding_model.epochs": 1,
    "side_information.epochs": 1,
    "supervised_contrastive.epochs": 1,
    "autoencoder.epochs": 1,
    "backward_compatible.epochs": 1,
    "fit.epochs": 1,
    "fit.inner": 16,
    "fit.least_steps": 0,
    "fit.batch_size": 32,
    "precision": "32-true",
    "threads": 1,
    "views": 1,
    "layers.dim": 16,
} | {
    f"{training}.batch_size": 16
    for training in ("embedding_model", "side_information", "backward_compatible", "autoencoder")
}
SMALLER = {40: 4}  # classes
SMALL = {"backbone.width": 4, "backbone.dim": 16, "backbone.size": 16}
TIMM = {"backbone.name": "timm:test_resnet", "backbone.dim": 16, "backbone.size": 32}
ON_CIFAR = [name for name in bundled_recipes() if load_recipe(name).data.classes == 100]
ON_FOLDERS = ["imagenet", "places365", "vggface2"]


def images_of(label, part):
    """Real digits in colour: another ten of each class for each part."""
    digits = open_items("digits")
    rows = np.flatnonzero(digits.labels == label % 10)
    start = 0 if part == "train" else ITEMS["train"]
    for row in rows[start : start + ITEMS[part]].tolist():
        content = io.BytesIO()
        digits.open(row).convert("RGB").resize((32, 32)).save(content, "PNG")
        yield content.getvalue()


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Ten classes as CIFAR-100 lies on the Hugging Face hub."""
    folder = tmp_path_factory.mktemp("cifar")
    for part in ITEMS:
        rows = [(label, png) for label in range(10) for png in images_of(label, part)]
        images = [{"bytes": png, "path": None} for _, png in rows]
        labels = [label for label, _ in rows]
        table = pa.table({"img": images, "fine_label": labels, "coarse_label": labels})
        pq.write_table(table, folder / f"{part}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Image folders by recipe: the same classes in both parts, or others in the test part."""
    made = {}
    for recipe in ON_FOLDERS:
        folder = tmp_path_factory.mktemp(recipe)
        second = "test" if recipe == "vggface2" else "val"
        parts = {"train": range(6), second: range(6, 10) if recipe == "vggface2" else range(6)}
        for part, labels in parts.items():
            for label in labels:
                place = folder / part / f"n{label:08}"
                place.mkdir(parents=True)
                which = "train" if part == "train" else "test"
                for number, png in enumerate(images_of(label, which)):
                    (place / f"{number}.png").write_bytes(png)
        made[recipe] = folder
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_CIFAR)
def test_a_recipe_on_cifar_runs_on_its_stand_in(name, parquet, tmp_path):
    split = {"data.source": str(parquet), "data.classes": 10, "data.old_classes": 4}
    if load_recipe(name).data.new_classes is not None:
        split["data.new_classes"] = 10 if name.endswith("paper") else 8
    if load_recipe(name).middle_classes is not None:
        split["middle_classes"] = 6
    if name == "datasets":
        split["variants"] = {
            variant: {key: SMALLER.get(value, value) for key, value in values.items()}
            for variant, values in load_recipe(name).variants.items()
        }
    recipe = load_recipe(name, {**BRIEF, **SMALL, **split})
    assert_whole(
        run_experiment(recipe, [0], tmp_path / "run", quiet(tmp_path / "cache"), command="it")
    )
    written = json.loads((tmp_path / "run" / f"{name}.json").read_text())
    assert bool(written["seeds"]["0"].get("open")) == (split.get("data.new_classes") == 8)
    assert (tmp_path / "run" / f"{name}.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_FOLDERS)
def test_a_recipe_on_an_image_folder_runs_on_its_stand_in(name, folders, tmp_path):
    split = {"data.source": str(folders[name]), "data.classes": 6, "data.old_classes": 3}
    recipe = load_recipe(name, {**BRIEF, **TIMM, **split, "views": 2})
    done = run_experiment(recipe, [0], tmp_path / "run", quiet(tmp_path / "cache"), command="it")
    assert_whole(done)
    rates = done.seeds[0].get("verification", {})
    alone = {cell for cell in done.seeds[0]["cells"] if not cell.endswith(" fused")}
    assert (rates.keys() == alone) == (name == "vggface2")


def assert_whole(experiment):
    cells = experiment.seeds[0]["cells"]
    assert all(0 <= cell[metric] <= 1 for cell in cells.values() for metric in ("cmc@1", "map"))
    variants = {name.rpartition(": ")[0] for name in cells}
    for variant in variants:
        before = f"{variant}: " if variant else ""
        assert {f"{before}{cell}" for cell in ("old/old", "new/old", "new/new")} <= cells.keys()


@pytest.mark.parametrize("name", [*ON_CIFAR, *ON_FOLDERS])
@pytest.mark.parametrize(
    "refused",
    [
        ("", ConfigurationError, "needs images: .* folder with train/ .*PATH"),
        ("digits", DataError, "needs .* folder with train/ .*digits has 10 classes"),
        ("an empty folder", DataError, "the recipe '.*' needs .* train/ .*an empty folder"),
    ],
)
def test_a_recipe_without_its_images_says_which_layout_it_needs(
    name, refused, tmp_path, monkeypatch
):
    source, error, words = refused
    (tmp_path / "an empty folder").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name, {"data.source": source})
    with pytest.raises(error, match=words):
        run_experiment(recipe, [0], tmp_path / "run", quiet(tmp_path / "cache"), command="it")
