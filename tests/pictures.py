"""Small images in folders and in shards of Parquet, as data sets have them."""

import json
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = ("benign", "cyst", "tumour")


def put(path, value=100, size=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value,) * 3).save(path)
    return path


def put_part(folder, classes=CLASSES, images=2, inner=""):
    for name in classes:
        for number in range(images):
            put(folder / name / inner / f"{number}.png")


def encode(value, size=(4, 4)):
    file = BytesIO()
    Image.new("L", size, value).save(file, "PNG")
    return file.getvalue()


def cells(values):
    """Images of one grey value each; None is one without bytes, "null" none at all."""
    contents = [encode(value) if isinstance(value, int) else value for value in values]
    made = [None if one == "null" else {"bytes": one, "path": None} for one in contents]
    return pa.array(made, IMAGE)


def shard(
    path, labels, *, values=None, column="label", image="image", names=None, rows=2, **others
):
    """Write a shard with one image a label, of these grey values, in groups of so many rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {image: cells([0] * len(labels) if values is None else values), **others}
    if column:
        columns[column] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {column: {"names": names, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path, row_group_size=rows)
    return path
