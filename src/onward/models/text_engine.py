"""Runs a text encoder of transformers; a module of its own, for it alone loads that library.

What is read is a folder as the Hugging Face hub has it, of a plain encoder or of a sentence
encoder, whose pooling and normalisation stand in files of JSON beside it. No code of the folder is
run, nothing is unpickled, and nothing is fetched.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Encoding, Tokenizer
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel

from onward.errors import ModelError
from onward.models.backbone_engine import exactly, find_device
from onward.models.engines import Content, Engine, Precision, TextSpec
from onward.models.layers import PooledStages
from onward.plain import Plain

Pooling = Literal["mean", "cls"]
Tokens = Float[Tensor, "item token dim"]

CONFIG, TOKENIZER, WEIGHTS, MODULES = (
    "config.json", "tokenizer.json", "model.safetensors", "modules.json"
)  # fmt: skip
RUN = ("Transformer", "Pooling", "Normalize")
"""The modules of a sentence encoder that are run, in this order; the last one may be missing."""
NOT_OF_VECTORS = ("_name_or_path", "architectures", "transformers_version", "torch_dtype", "dtype")
"""What a configuration says besides of where it came from; no vector depends on it."""
TOKENS = 4096  # of all texts, with what fills them up, that go through the encoder at a time
UNKNOWN_LENGTH = 1_000_000  # beyond it, a tokenizer says that it knows no limit
DO = "give the folder that save_pretrained of transformers or sentence-transformers writes"


@dataclass(frozen=True)
class TextSettings(Plain):
    """What a text encoder is built from, but for its weights and its tokenizer.

    Attributes:
        encoder: `config.json`, without what no vector depends on.
        pooling: how the tokens of a text make one vector.
        normalised: whether that is brought to length 1.
        precision: a `Precision`: "bf16-mixed" computes what can be in bfloat16, faster and less
            exactly.

    Raises:
        ModelError: if the precision is unknown.
    """

    encoder: Mapping[str, Any]
    pooling: Pooling
    normalised: bool
    precision: str = "32-true"

    def __post_init__(self) -> None:
        kept = {name: one for name, one in self.encoder.items() if name not in NOT_OF_VECTORS}
        object.__setattr__(self, "encoder", kept)
        if self.precision not in get_args(Precision):
            raise ModelError(
                f"a text encoder cannot compute in {self.precision!r}",
                f"choose one of {', '.join(get_args(Precision))}",
            )


@dataclass(frozen=True, eq=False)
class TextEngine(Engine):
    """A text encoder: tokens, hidden states of its blocks, one vector a text.

    The vector is the mean of the last block's over the tokens of the text, those that begin and end
    it among them, or the first token's. Texts are sorted by length and padded to the longest of a
    few; what pads is masked out, so that a text's vector depends on those beside it by rounding
    alone: that of float32, or, where it was asked for, of bfloat16.

    Attributes:
        encoder: in eval mode on the CPU.
        settings: what it is built from.
        tokenizer: `tokenizer.json`, as it is.

    Raises:
        ModelError: if the tokenizer cannot be read, or knows tokens that the encoder does not.
    """

    encoder: torch.nn.Module
    settings: TextSettings
    tokenizer: bytes
    cells: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        config: Any = self.encoder.config
        object.__setattr__(self, "dim", int(config.hidden_size))
        blocks = (int(config.hidden_size),) * int(config.num_hidden_layers)
        object.__setattr__(self, "stage_channels", blocks)
        known, has = self._tokenizer.get_vocab_size(), int(config.vocab_size)
        if known > has:
            raise ModelError(
                f"the tokenizer knows {known} tokens and the encoder {has}",
                "give the tokenizer.json that the encoder was trained with",
            )

    @classmethod
    def of_folder(
        cls, folder: Path, max_tokens: int | None, precision: Precision
    ) -> tuple["TextEngine", TextSpec]:
        """Return the encoder in a folder, and how many tokens of a text it reads.

        Raises:
            ModelError: if a file is missing or damaged, or it is no encoder that can be run.
        """
        inner, pooling, normalised = _read_modules(folder)
        settings = TextSettings(_read_json(inner / CONFIG), pooling, normalised, precision)
        try:
            weights, tokenizer = load_file(inner / WEIGHTS), (inner / TOKENIZER).read_bytes()
        except (OSError, SafetensorError) as error:
            name = getattr(error, "filename", None) or inner / WEIGHTS
            reason = getattr(error, "strerror", None) or error
            raise ModelError(f"{name} cannot be read ({reason})", DO) from error
        engine = cls.of_weights(settings, weights, tokenizer)
        return engine, TextSpec(engine._limit(inner, max_tokens))

    @classmethod
    def of_saved(
        cls,
        said: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
    ) -> "TextEngine":
        """Return the engine of which `to_json` and `content` were saved.

        Raises:
            ModelError: if it cannot be built, or the weights are not all there.
        """
        weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        settings = TextSettings(**{name: one for name, one in said.items() if name != "kind"})
        return cls.of_weights(settings, weights, files[TOKENIZER])

    @classmethod
    def of_weights(
        cls, settings: TextSettings, weights: Mapping[str, Tensor], tokenizer: bytes
    ) -> "TextEngine":
        """Build the encoder and give it weights; torch's generator is left as it was.

        What turns its first token into an answer about two sentences (`pooler`) is left out.

        Raises:
            ModelError: if it cannot be built, or the weights are not all there.
        """
        kind = settings.encoder.get("model_type")
        try:
            with torch.random.fork_rng(devices=[]):
                encoder = AutoModel.from_config(AutoConfig.for_model(**settings.encoder))
        except Exception as error:  # whatever the settings lead the library to
            raise ModelError(
                f"an encoder of type {kind!r} cannot be built "
                f"({' '.join(str(error).split())[:200]})",
                "export it to ONNX and embed with that, or install a newer transformers",
            ) from error
        if encoder.config.is_encoder_decoder:
            raise ModelError(f"{kind} is an encoder with a decoder", "give one without a decoder")
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None
        prefix = f"{encoder.base_model_prefix}."
        own = {name.removeprefix(prefix): one.float() for name, one in weights.items()}
        needed = encoder.state_dict()
        lacking = [
            name for name, one in needed.items() if name not in own or own[name].shape != one.shape
        ]
        if lacking:
            raise ModelError(
                f"{len(lacking)} of {len(needed)} weights of {kind} are missing or of another "
                f"shape, the first {lacking[0]}",
                DO,
            )
        encoder.load_state_dict({name: own[name] for name in needed})
        return cls(encoder.float().eval().requires_grad_(False), settings, tokenizer)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_str(self.tokenizer.decode())
        except Exception as error:  # the library's own have no common class
            raise ModelError(f"{TOKENIZER} cannot be read ({error})", DO) from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _limit(self, folder: Path, asked: int | None) -> int:
        """Return how many tokens of a text are read: as asked, else as the folder says."""
        said = [
            _read_json(path).get(name) if path.is_file() else None
            for path, name in (
                (folder / "sentence_bert_config.json", "max_seq_length"),
                (folder / "tokenizer_config.json", "model_max_length"),
            )
        ]
        own, *limits = [*said, self._positions]
        longest = min((int(one) for one in limits if one and one < UNKNOWN_LENGTH), default=None)
        least = self._tokenizer.num_special_tokens_to_add(is_pair=False) + 1
        tokens = asked if asked is not None else own or longest
        if tokens is None or not least <= tokens <= (longest or tokens):
            most = f" to {longest}" if longest else ", as many as it was trained with"
            given = "nothing says how many" if tokens is None else f"{tokens}"
            raise ModelError(
                f"{given} tokens of a text are to be read", f"give max_tokens, from {least}{most}"
            )
        return int(tokens)

    @property
    def _positions(self) -> int | None:
        """How many tokens have a place of their own; None where places are relative."""
        config: Any = self.encoder.config
        count = getattr(config, "max_position_embeddings", None)
        for name, module in self.encoder.named_modules():
            if name.endswith("position_embeddings") and count is not None:
                padding = getattr(module, "padding_idx", None)  # the places begin behind it
                return int(count) - (0 if padding is None else padding + 1)
        return count

    def start(
        self, input_spec: TextSpec, device: str, grid: int | None
    ) -> Callable[[Sequence[str]], tuple[np.ndarray, PooledStages | None]]:
        """Return a function that embeds texts on a device."""
        if grid not in (None, 1):
            raise ModelError(f"texts have no grid of {grid} x {grid} cells", "give grid=1")
        place = find_device(device)
        on_cpu = place.type == "cpu"
        encoder = self.encoder if on_cpu else copy.deepcopy(self.encoder).to(place)
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.enable_truncation(input_spec.max_tokens)
        total = sum(self.stage_channels) if grid else 0

        def run(texts: Sequence[str]) -> tuple[np.ndarray, PooledStages | None]:
            encoded = tokenizer.encode_batch(list(texts))
            vectors = np.empty((len(texts), self.dim), np.float32)
            pooled = np.empty((len(texts), total), np.float32)
            with exactly(place):
                for rows in _by_length(encoded):
                    few = [encoded[row] for row in rows]
                    vectors[rows], pooled[rows] = self._embed(encoder, few, place, bool(grid))
            return vectors, pooled if grid else None

        return run

    def _embed(
        self, encoder: torch.nn.Module, few: Sequence[Encoding], place: torch.device, stages: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the vectors of a few texts, and what all blocks say of them if that is wanted."""
        longest = max(len(one.ids) for one in few)
        config: Any = self.encoder.config
        ids = np.full((len(few), longest), config.pad_token_id or 0, np.int64)
        is_token = np.zeros((len(few), longest), np.int64)
        for row, one in enumerate(few):
            ids[row, : len(one.ids)], is_token[row, : len(one.ids)] = one.ids, 1
        mask = torch.from_numpy(is_token).to(place)
        mixed = self.settings.precision == "bf16-mixed"
        with torch.autocast(place.type, torch.bfloat16, enabled=mixed):
            said = encoder(
                input_ids=torch.from_numpy(ids).to(place),
                attention_mask=mask,
                output_hidden_states=stages,
            )
        last = said.last_hidden_state.float()
        vectors = last[:, 0] if self.settings.pooling == "cls" else _mean(last, mask)
        vectors = normalize(vectors, dim=1) if self.settings.normalised else vectors
        blocks = said.hidden_states[1:] if stages else []
        means = [_mean(block.float(), mask).cpu() for block in blocks]
        read = torch.cat(means, dim=1) if means else torch.empty(len(few), 0)
        return vectors.cpu().numpy(), read.numpy()

    def to_json(self) -> dict[str, Any]:
        """Return its kind and what it is built from."""
        return {"kind": "text", **self.settings.to_json()}

    def content(self) -> Content:
        """Return the weights as arrays, and the tokenizer as a file."""
        state = self.encoder.state_dict()
        arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}
        return arrays, {TOKENIZER: self.tokenizer}


def _mean(states: Tokens, mask: Tensor) -> Float[Tensor, "item dim"]:
    """Return the mean over the tokens of each text."""
    weights = mask[:, :, None].to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _by_length(encoded: Sequence[Encoding]) -> Iterator[list[int]]:
    """Yield the rows of a few texts at a time, the longest first, all together `TOKENS` at most."""
    order = sorted(range(len(encoded)), key=lambda row: -len(encoded[row].ids))
    while order:
        count = max(1, TOKENS // max(1, len(encoded[order[0]].ids)))
        yield order[:count]
        order = order[count:]


def _read_modules(folder: Path) -> tuple[Path, Pooling, bool]:
    """Return the folder of the encoder, the pooling, and whether vectors are brought to length 1.

    A folder that says nothing of it is a plain encoder: the mean over tokens, of any length.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}", DO)
    if not (folder / MODULES).is_file():
        return folder, "mean", False
    modules: Any = _read_json(folder / MODULES, list)
    kinds = tuple(str(one.get("type")).rpartition(".")[2] for one in modules)
    if kinds not in (RUN[:2], RUN):
        raise ModelError(
            f"{folder / MODULES} wants {', '.join(kinds) or 'nothing'}",
            "export it to ONNX if it needs others",
            needed=f"what is run is {RUN[0]}, {RUN[1]} and perhaps {RUN[2]}",
        )
    inner = folder / modules[0].get("path", "")
    said = _read_json(folder / modules[1].get("path", "") / CONFIG)
    told = [name.removeprefix("pooling_mode_") for name, on in said.items() if on is True]
    modes = [said["pooling_mode"]] if isinstance(said.get("pooling_mode"), str) else told
    names = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    found = [mode for mode in modes if mode != "include_prompt"]
    if len(found) != 1 or found[0] not in names:
        raise ModelError(
            f"{folder} pools tokens by {' and '.join(map(str, found)) or 'nothing'}",
            "export it to ONNX if it needs that",
            needed="what is run is the mean of the tokens or the first one (cls)",
        )
    _refuse_unread(folder, inner)
    pooling: Pooling = "cls" if names[found[0]] == "cls" else "mean"
    return inner, pooling, kinds == RUN


def _refuse_unread(folder: Path, inner: Path) -> None:
    """Refuse what changes texts before they are tokens, which is not done here."""
    for path, name, what in (
        (inner / "sentence_bert_config.json", "do_lower_case", "lower case"),
        (folder / "config_sentence_transformers.json", "default_prompt_name", "a prompt"),
    ):
        if path.is_file() and _read_json(path).get(name):
            raise ModelError(
                f"{path} wants {what} for every text ({name})",
                f"prepare the texts so, and remove {name} from that file",
            )


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{path} cannot be read ({reason})", DO) from error
    if not isinstance(said, kind):
        raise ModelError(f"{path} holds {type(said).__name__}, not {kind.__name__}", DO)
    return said
