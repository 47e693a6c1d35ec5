"""How an embedding model's engine is named, written and read, and the card that goes with it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from onward.artifacts import Artifact
from onward.errors import ArtifactError, MissingExtraError, ModelError
from onward.models.engines import Engine, InputSpec, Spec, read_spec
from onward.models.layers import LayersReadout
from onward.nn.specs import BackboneSpec
from onward.quantisation import DIGITS, Quantisation
from onward.spaces import Space

if TYPE_CHECKING:
    from onward.models.embedding import EmbeddingModel

KIND = "embedding-model"
WEIGHTS, LAYERS, CLASSIFIER = "weights.", "layers.", "classifier"  # names of arrays
CODES = "codes.scale"
TEXTS = ("texts", "texts.jsonl")


def mint(name: str, engine: Engine, input_spec: Spec) -> str:
    """Return the name of the space of a model: the given name and the digest of what it computes.

    The digest is of weights, architecture and normalisation, for all three make the vectors.

    Raises:
        ModelError: if the name is empty or has an `@` of its own.
    """
    if not name or "@" in name:
        raise ModelError(
            f"a model cannot be called {name!r}",
            "give a name without '@', such as 'photos-2', "
            "and the digest of the weights is added to it",
        )
    return f"{name}@{engine.fingerprint(input_spec)[:DIGITS]}"


def import_backbone_engine() -> Any:
    """Return the class that runs torch backbones; only here is torch loaded.

    Raises:
        MissingExtraError: if torch is not installed.
    """
    try:
        from onward.models.backbone_engine import BackboneEngine
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", "vision") from error
    return BackboneEngine


def import_text_engine() -> Any:
    """Return the class that runs text encoders; only here is transformers loaded.

    Raises:
        MissingExtraError: if it, or torch, is not installed.
    """
    try:
        from onward.models.text_engine import TextEngine
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "transformers", "tokenizers"):
            raise
        raise MissingExtraError(error.name, "text") from error
    return TextEngine


def pack(model: "EmbeddingModel") -> Artifact:
    """Return what is written of a model.

    Raises:
        ModelError: if its engine cannot be saved.
    """
    weights, files = model.engine.content()
    arrays = {WEIGHTS + name: array for name, array in weights.items()}
    if model.classifier is not None:
        arrays[CLASSIFIER] = model.classifier
    description, readout, layers = model.to_json(), model.readout, None
    if readout is not None:
        arrays |= {LAYERS + name: array for name, array in readout.arrays().items()}
        layers = {"grid": readout.grid, "stages": list(readout.stages)}
        if readout.chosen is not None:  # what is as ever is left out
            layers["chosen"] = list(readout.chosen)
        if (codes := readout.quantisation) is not None:
            layers["quantisation"] = {"of": codes.of.to_json(), "format": codes.format}
            arrays |= {} if codes.scale is None else {CODES: codes.scale}
    config = {**description, "layers": layers}
    return Artifact(KIND, config, arrays, config.pop("made_by"), _card(description), files)


def read_layers(artifact: Artifact) -> LayersReadout | None:
    """Return the read-out of a saved model, if it has one."""
    layers = artifact.config["layers"]
    if layers is None:
        return None
    chosen, written = layers.get("chosen"), layers.get("quantisation")
    quantisation = None
    if written is not None:
        of = Space.from_json(written["of"])
        quantisation = Quantisation(of, written["format"], artifact.arrays.get(CODES))
    return LayersReadout(
        layers["grid"],
        tuple(layers["stages"]),
        **_strip(LAYERS, artifact.arrays),
        chosen=None if chosen is None else tuple(chosen),
        quantisation=quantisation,
    )


def read_engine(directory: Path | str, artifact: Artifact, input_spec: Any) -> Engine:
    """Return the engine of a saved model.

    Raises:
        ArtifactError: if it is of a kind, or has settings, that this Onward does not know.
    """
    config = artifact.config["engine"]
    if config["kind"] == "backbone":
        try:
            spec = BackboneSpec(**config["backbone"])
        except ValidationError as error:
            first = error.errors()[0]
            raise ArtifactError(
                f"{directory} holds a backbone with settings that this Onward does not know: "
                f"{' '.join(map(str, first['loc'])) or first['msg']}. Install the version that "
                "wrote it, or a newer one"
            ) from error
        engine: Engine = import_backbone_engine().of_arrays(spec, _strip(WEIGHTS, artifact.arrays))
        return engine
    if config["kind"] == "text":
        of_saved: Callable[..., Engine] = import_text_engine().of_saved
        return of_saved(config, _strip(WEIGHTS, artifact.arrays), artifact.files)
    if config["kind"] in ("onnx", "onnx-and-data"):
        from onward.models.onnx import ONNX_FILE, WEIGHTS_FILE, OnnxEngine, OnnxFiles

        weights = artifact.files.get(WEIGHTS_FILE, b"")
        return OnnxEngine(OnnxFiles(artifact.files[ONNX_FILE], weights), input_spec)
    raise ArtifactError(
        f"{directory} holds a model of kind {config['kind']!r}",
        "this Onward runs backbones, text encoders and ONNX files. Install a newer Onward",
    )


def _strip(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose name begins with the prefix, without it."""
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }


def _card(description: Mapping[str, Any]) -> str:
    """Return the card of a model for a person, from what its `to_json` says."""
    space, input_spec = description["space"], read_spec(description["input"])
    kind, source = ("images", "digits") if isinstance(input_spec, InputSpec) else TEXTS
    facts = {
        "space": f"`{space['name']}`, {space['dim']} dimensions, metric {space['metric']}",
        kind: input_spec.words,
        "runs by": _engine_words(description["engine"]),
    }
    if description["classes"] is not None:
        facts["trained on"] = f"{len(description['classes'])} classes"
    if description["side"] is not None:
        side = Space.from_json(description["side"])
        facts["side-information"] = (
            f"`{side.name}`, {side.dim} dimensions, {side.format}, {side.bytes} bytes an item, "
            "read from the layers in the same forward pass"
        )
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    made_by = json.dumps(description["made_by"], indent=2, sort_keys=True)
    return (
        f"# {space['name']}\n\nAn embedding model: it turns {kind} into vectors that are nearer "
        f"the more alike the {kind} are.\nVectors of other spaces cannot be compared with its own."
        f"\n\n| | |\n| --- | --- |\n{table}\n\n## Use\n\n```python\n"
        "from onward.data import open_items\nfrom onward.models import EmbeddingModel\n\n"
        'model = EmbeddingModel.load("this-directory")\n'
        f'embeddings = model.embed(open_items("{source}"))\n```\n\n'
        f"## Made by\n\n```json\n{made_by}\n```\n"
    )


def _engine_words(engine: Mapping[str, Any]) -> str:
    if engine["kind"] == "text":
        return f"transformers, `{engine['encoder'].get('model_type')}`, {engine['precision']}"
    if engine["kind"] == "backbone":
        return f"torch, backbone `{engine['backbone']['name']}`"
    beside = " and `model.onnx.data`" if engine["kind"] == "onnx-and-data" else ""
    return f"onnxruntime, `model.onnx`{beside}"
