"""Embedding models: frozen values that turn items into embeddings, and know their space.

What runs the model (a torch backbone, a text encoder, an ONNX file, a callable) is hidden behind an
engine. torch is loaded only where a torch backbone or a text encoder is. Nothing here knows of
galleries or of training.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from onward.arrays import as_numbers, as_weights
from onward.artifacts import Artifact, read_artifact, write_artifact
from onward.data import Items
from onward.data.images import Pixels
from onward.errors import (
    ArtifactError,
    EmbeddingsError,
    MissingExtraError,
    ModelError,
    OnwardError,
)
from onward.labels import ClassNames, as_class_names
from onward.models.engines import (
    CallableEngine,
    Engine,
    InputSpec,
    Precision,
    Spec,
    Vectors,
    read_spec,
)
from onward.models.files import (
    CLASSIFIER,
    KIND,
    import_backbone_engine,
    import_text_engine,
    mint,
    pack,
    read_engine,
    read_layers,
)
from onward.models.layers import LayersReadout, PooledStages, Side
from onward.models.running import BATCH_SIZE, run_batches
from onward.nn.specs import BackboneSpec
from onward.progress import Progress, silent
from onward.spaces import Embeddings, Metric, Space


@dataclass(frozen=True, eq=False)
class EmbeddingModel:
    """A model that turns items into embeddings.

    Made by training, `load`, `of_backbone`, `from_transformers`, `from_onnx` or `from_callable`; it
    never changes. An item's embedding does not depend on the batch it stands in, beyond the
    rounding of float32 (of bfloat16 where that was asked for). Whatever else it depends on is in
    the name of the space, which is checked here; a callable of which no digest was declared is the
    exception.

    Attributes:
        space: where its embeddings lie.
        input: what its images, or its texts, are to be.
        engine: what runs it.
        classes: label numbers it was trained on, if any.
        classifier: one row a class, of a linear classifier without bias on the embedding.
        readout: how side-information of kind `layers` is read in the same forward pass, if it is.
        made_by: recipe, seed, versions, digest of the data: plain JSON values.
        class_names: what each of the classes is called; None where nothing says so.

    Raises:
        ModelError: if these do not fit together.
    """

    space: Space
    input: Spec
    engine: Engine = field(repr=False)
    classes: tuple[int, ...] | None = None
    classifier: Float32[np.ndarray, "class dim"] | None = None
    readout: LayersReadout | None = field(default=None, repr=False)
    made_by: Mapping[str, Any] = field(default_factory=dict, repr=False)
    class_names: ClassNames | None = None

    def __post_init__(self) -> None:
        if self.space.dim != self.engine.dim:
            raise ModelError(
                f"{self.space} does not fit a model that gives {self.engine.dim} dimensions"
            )
        if self.engine.is_known:
            made = mint(self.name, self.engine, self.input)
            if made != self.space.name:
                raise ModelError(
                    f"{self.space.name} is not the space of this model, whose weights and input "
                    f"make it {made}",
                    "restore it from a copy, or make it by of_backbone, from_onnx or from_callable",
                )
        if self.classes is not None:
            wrong = f"the model's classes are {self.classes[:5]!r}"
            do = "give one whole number a class, its label"
            if not all(isinstance(one, int | np.integer) for one in self.classes) or any(
                isinstance(one, bool) for one in self.classes
            ):
                raise ModelError(wrong, do)
            classes = as_numbers(self.classes, np.int64, ModelError, wrong, do)
            object.__setattr__(self, "classes", tuple(classes.tolist()))
        if self.class_names is not None:
            object.__setattr__(self, "class_names", self._names_of_classes(self.class_names))
        if self.classifier is not None:
            kept = as_weights(self.classifier, "classifier", ModelError)
            object.__setattr__(self, "classifier", kept)
            count = None if self.classes is None else len(self.classes)
            if kept.shape != (count, self.space.dim):
                raise ModelError(
                    f"a classifier of shape {kept.shape} for {count} classes in {self.space}",
                    "give classes, and one row of the space's dimensions for each",
                )
        if self.readout is not None and self.readout.stages != self.stage_channels:
            raise ModelError(
                f"the read-out is for stages of {self.readout.stages} channels, {self.space.name} "
                f"has {self.stage_channels or 'none to read'}",
                "fit it on this model",
            )
        _ = self.side  # refuses a quantisation that was fitted elsewhere

    @cached_property
    def side(self) -> Space | None:
        """The space of the side-information read in the same forward pass, if any."""
        return None if self.readout is None else self.readout.space_of(self.space)

    @property
    def name(self) -> str:
        """The given name: the space's without the digest."""
        return self.space.name.rpartition("@")[0] or self.space.name

    @property
    def fingerprint(self) -> str:
        """The digest in the space's name; for a callable without one, the name itself."""
        return self.space.name.rpartition("@")[2]

    @property
    def image_input(self) -> InputSpec:
        """What its images are to be.

        Raises:
            ModelError: if it embeds texts.
        """
        if not isinstance(self.input, InputSpec):
            raise ModelError(
                f"{self.space.name} embeds {self.input.words}, and images are needed here",
                "use a model of images",
            )
        return self.input

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of each stage that side-information can be read from; empty where none can."""
        return self.engine.stage_channels

    @classmethod
    def of_backbone(
        cls,
        backbone: Any,
        spec: BackboneSpec,
        *,
        name: str,
        input: InputSpec | None = None,
        classes: tuple[int, ...] | None = None,
        classifier: Float32[np.ndarray, "class dim"] | None = None,
        metric: Metric = "l2",
        made_by: Mapping[str, Any] | None = None,
        class_names: ClassNames | None = None,
    ) -> "EmbeddingModel":
        """Return the model that a torch backbone is now; the backbone is copied, and may go on.

        Args:
            backbone: what `onward.nn.backbones.build_backbone` built from the spec.
            spec: what it was built from.
            name: what the model is called; the digest of the weights is added for its space.
            input: what its images are to be; `InputSpec.of_spec(spec)` where left out.
            classes: label numbers it was trained on.
            classifier: one row a class.
            metric: the distance of its space.
            made_by: plain JSON values.
            class_names: what each of the classes is called.

        Raises:
            ModelError: if these do not fit together, or the backbone is not what the spec builds.
        """
        input_spec = InputSpec.of_spec(spec, input)
        engine = import_backbone_engine().of_backbone(backbone, spec)
        space = Space(mint(name, engine, input_spec), engine.dim, metric)
        return cls(space, input_spec, engine, classes, classifier, None, made_by or {}, class_names)

    @classmethod
    def from_onnx(
        cls,
        path: Path | str,
        *,
        name: str,
        input: InputSpec,
        metric: Metric = "l2",
    ) -> "EmbeddingModel":
        """Return the model that an ONNX file holds.

        The file has one input of images, float32 (they come normalised) or uint8 (they come as they
        are), and as its first output one vector an image. Weights that it keeps in other files are
        read from beside it, and are part of the model and of the name of its space.

        Raises:
            ModelError: if there is no such file, its weights are missing or damaged, or it takes or
                gives something else.
        """
        from onward.models.onnx import OnnxEngine, read_onnx

        engine = OnnxEngine(read_onnx(path), input)
        return cls(Space(mint(name, engine, input), engine.dim, metric), input, engine)

    @classmethod
    def from_transformers(
        cls,
        folder: Path | str,
        *,
        name: str,
        max_tokens: int | None = None,
        precision: Precision = "32-true",
        metric: Metric | None = None,
    ) -> "EmbeddingModel":
        """Return the text encoder in a folder as the Hugging Face hub has it.

        The folder has `config.json`, `tokenizer.json` and `model.safetensors`. Where it is that of
        a sentence encoder (`modules.json`), its pooling and normalisation are those; otherwise a
        text's vector is the mean over its tokens, of any length. Nothing is fetched, and no code of
        the folder is run. A text's vector does not depend on the texts beside it, beyond rounding.

        Args:
            folder: such as a download from the hub.
            name: names the space, with the digest of weights, tokenizer and settings.
            max_tokens: so many tokens of a text are read, those that begin and end it among them;
                as many as the folder says if not given.
            precision: "bf16-mixed" computes what can be in bfloat16: faster on most machines, and
                rounded to some 3 digits. It is part of the name of the space.
            metric: the distance of its space; if not given, cosine where vectors are normalised,
                l2 otherwise.

        Raises:
            ModelError: if a file is missing or damaged, the encoder needs what is not run here, or
                it cannot read so many tokens.
            MissingExtraError: if transformers or torch is not installed.
        """
        engine, spec = import_text_engine().of_folder(Path(folder), max_tokens, precision)
        chosen: Metric = metric or ("cosine" if engine.settings.normalised else "l2")
        return cls(Space(mint(name, engine, spec), engine.dim, chosen), spec, engine)

    @classmethod
    def from_callable(
        cls,
        function: Callable[[Pixels], Any],
        *,
        name: str,
        dim: int,
        input: InputSpec,
        metric: Metric = "l2",
        digest: str | None = None,
    ) -> "EmbeddingModel":
        """Return a model that runs a function of the user's.

        Args:
            function: is given pixels (uint8, B x C x H x W), not normalised, and returns an array
                of B x dim.
            name: names the space. Without a digest nothing else tells one function from another:
                give each version of it a name of its own, whatever about it changes.
            dim: how many numbers it returns an image.
            input: size and channels of the pixels.
            metric: the distance of its space.
            digest: what tells this function from every other that bears the name, such as the
                SHA-256 of its weights and the version of its code. It becomes part of the space's
                name, and so does the input.

        Raises:
            ModelError: if the digest is empty, or with one the name has an `@` of its own.
        """
        engine = CallableEngine(function, dim, digest)
        if digest is None:
            return cls(Space(name, dim, metric), input, engine)
        if not isinstance(digest, str) or not digest.strip():
            raise ModelError(
                f"the declared digest of a callable is {digest!r}",
                "give text that tells it from "
                "others, such as the SHA-256 of its weights, or leave it out and give each version "
                "a name",
            )
        return cls(Space(mint(name, engine, input), dim, metric), input, engine)

    @classmethod
    def load(cls, directory: Path | str) -> "EmbeddingModel":
        """Read what `save` wrote.

        Raises:
            ArtifactError: if it is missing, damaged or holds something else, or its weights are
                not those in the name of its space.
            MissingExtraError: if it needs torch or timm and they are not installed.
        """
        artifact = read_artifact(directory, KIND)
        try:
            return cls._read(directory, artifact)
        except (ArtifactError, MissingExtraError):
            raise
        except OnwardError as error:
            raise ArtifactError(f"{directory} holds a model that cannot be run: {error}") from error
        except Exception as error:  # whatever a distorted header leads to
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ArtifactError(
                f"the header of {directory} is not that of a model ({what})",
                "restore it from a copy, or make the model again",
            ) from error

    def save(self, directory: Path | str) -> None:
        """Write `config.json`, `model.safetensors` and a card; an ONNX file goes in as it is.

        Equal models give equal bytes.

        Raises:
            ArtifactError: if something else stands in the way.
            ModelError: if the model is made from a callable, which cannot be saved.
        """
        write_artifact(directory, pack(self))

    def with_layers(
        self, readout: LayersReadout, *, made_by: Mapping[str, Any] | None = None
    ) -> "EmbeddingModel":
        """Return the same model that gives side-information of kind `layers` as well.

        Its space and its embeddings stay what they are.

        Args:
            readout: how the side-information is read.
            made_by: what made the read-out; it is kept beside what made the model.

        Raises:
            ModelError: if the read-out is not for this model's stages.
        """
        both = self.made_by if made_by is None else {**self.made_by, "layers": dict(made_by)}
        return replace(self, readout=readout, made_by=both)

    def embed(
        self,
        items: Items,
        *,
        batch_size: int = BATCH_SIZE,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> Embeddings:
        """Return the embeddings of items, with their ids and, if any is known, their classes.

        Memory is bounded by two batches of items beside the vectors themselves.

        Args:
            items: what to embed.
            batch_size: how many go through the model at a time.
            device: "cpu", "cuda", or "auto" for a GPU where there is one.
            progress: told after each batch, in items.

        Raises:
            DataError: if an image or a text cannot be opened; the message names it.
            ModelError: if the model gives NaN, infinite values or another shape, or the device
                cannot be used.
        """
        return self._embed(items, (self.space,), batch_size, device, progress)[0]

    def embed_with_side(
        self,
        items: Items,
        *,
        batch_size: int = BATCH_SIZE,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> tuple[Embeddings, Embeddings]:
        """Return embeddings and side-information of items, in one forward pass; else like `embed`.

        Raises:
            ModelError: as `embed` does, and if the model has no side-information to read.
        """
        spaces = (self.space, self._need_side())
        embeddings, side = self._embed(items, spaces, batch_size, device, progress)
        return embeddings, side

    def stages(
        self,
        items: Items,
        *,
        grid: int | None = None,
        batch_size: int = BATCH_SIZE,
        device: str = "cpu",
        progress: Progress = silent,
    ) -> Iterator[PooledStages]:
        """Yield, batch by batch, what the stages say: what a `LayersReadout` is fitted on.

        Each stage's output is averaged over the cells of a grid and flattened, channel after
        channel; the stages stand one after the other. Without another number, the grid has 2 x 2
        cells. The stages of a text encoder are its blocks, each averaged over the tokens of a text;
        there is no grid.

        Raises:
            ModelError: as `embed` does, and if there are no stages to read.
        """
        forward = self.engine.forward(self.input, device, grid or self.engine.cells)

        def pool(pixels: Any) -> tuple[PooledStages | None]:
            return (forward(pixels)[1],)

        for _, (pooled,) in run_batches(self, items, pool, batch_size, progress):
            yield pooled

    def pixel_embedder(
        self, *, device: str = "cpu", with_side: bool = False
    ) -> Callable[[Pixels], tuple[Vectors, Side | None]]:
        """Return a function from pixels (uint8, B x C x H x W) to vectors and side-information.

        For images that are no items, such as augmented views; else like `embedder`.

        Raises:
            ModelError: as `embedder` does, and if the model embeds texts.
        """
        _ = self.image_input
        return self.embedder(device=device, with_side=with_side)

    def embedder(
        self, *, device: str = "cpu", with_side: bool = False
    ) -> Callable[[Any], tuple[Vectors, Side | None]]:
        """Return a function from a batch to vectors and side-information.

        A batch is pixels (uint8, B x C x H x W), or a list of strings for a model of texts. Where
        the function is called again and again, keep it: on a GPU, each holds a copy of the weights.

        Raises:
            ModelError: if there is no side-information to read, or the device cannot be used.
        """
        readout = self.readout if with_side and self._need_side() else None
        forward = self.engine.forward(self.input, device, None if readout is None else readout.grid)

        def embed_batch(batch: Any) -> tuple[Vectors, Side | None]:
            vectors, pooled = forward(batch)
            if readout is None or pooled is None:
                return vectors, None
            return vectors, readout.project(pooled)

        return embed_batch

    def to_json(self) -> dict[str, Any]:
        """Return spaces, input, classes, engine and what made it, as plain values."""
        return {
            "space": self.space.to_json(),
            "side": None if self.side is None else self.side.to_json(),
            "input": self.input.to_json(),
            "classes": None if self.classes is None else list(self.classes),
            "class_names": None if self.class_names is None else dict(self.class_names),
            "engine": self.engine.to_json(),
            "made_by": dict(self.made_by),
        }

    def __str__(self) -> str:
        side = "" if self.side is None else f", and side-information in {self.side}"
        return f"model of {self.space}{side}; {self.input.words}"

    @classmethod
    def _read(cls, directory: Path | str, artifact: Artifact) -> "EmbeddingModel":
        config = artifact.config
        space, input_spec = Space.from_json(config["space"]), read_spec(config["input"])
        engine = read_engine(directory, artifact, input_spec)
        classes = None if config["classes"] is None else tuple(config["classes"])
        readout, classifier = read_layers(artifact), artifact.arrays.get(CLASSIFIER)
        names = config.get("class_names")
        named = None if names is None else {int(label): name for label, name in names.items()}
        model = cls(
            space, input_spec, engine, classes, classifier, readout, artifact.made_by, named
        )
        side = None if config["side"] is None else Space.from_json(config["side"])
        if model.side != side:
            raise ArtifactError(
                f"{directory} says that its side-information is in {side}, but what reads it makes "
                f"it {model.side}",
                "it was changed after it was fitted. Restore it from a copy",
            )
        return model

    def _names_of_classes(self, names: ClassNames) -> ClassNames | None:
        """Return the names of the classes that the model was trained on, and of no others."""
        if self.classes is None:
            return None
        try:
            kept = {label: names[label] for label in self.classes if label in names}
            return as_class_names(kept, np.array(self.classes, np.int64))
        except EmbeddingsError as error:
            raise ModelError(f"the class names of {self.space.name}: {error}") from error

    def _need_side(self) -> Space:
        if self.side is None:
            raise ModelError(
                f"{self.space.name} has no side-information to read",
                "fit it once on the old data, with layers=... or by "
                "onward.training.layers.add_layers_side_information, or embed the items with a "
                "side-information model",
            )
        return self.side

    def _embed(
        self,
        items: Items,
        spaces: tuple[Space, ...],
        batch_size: int,
        device: str,
        progress: Progress,
    ) -> tuple[Embeddings, ...]:
        run = self.embedder(device=device, with_side=len(spaces) == 2)
        arrays = [np.empty((len(items), space.dim), np.float32) for space in spaces]
        for rows, given in run_batches(self, items, run, batch_size, progress):
            for array, of_batch in zip(arrays, given, strict=True):
                array[rows] = of_batch
        labels, names = (items.labels, items.known_names) if items.classes else (None, None)
        return tuple(
            Embeddings(items.ids, array, space, labels, names)
            for array, space in zip(arrays, spaces, strict=True)
        )
