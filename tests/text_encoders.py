"""Small text encoders in folders: random weights, and a tokenizer of a few words."""

import json

import torch
from safetensors.torch import save_file

WORDS = ("ice", "iron", "wood", "floats", "sinks", "burns", "cold", "hot", "what", "in", "water")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "vocab_size": len(SPECIAL) + len(WORDS),
    "pad_token_id": 0,
}


def put(path, said):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(said))


def put_tokenizer(path, words=WORDS):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {word: number for number, word in enumerate((*SPECIAL, *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_padding(length=20)  # what a file says of padding and length does not count
    tokenizer.enable_truncation(4)
    tokenizer.save(str(path))


def put_encoder(folder, seed=0, *, config=BERT, prefix="", modules=None, pooling=None):
    """Write an encoder; with modules, one of sentences."""
    from transformers import AutoConfig, AutoModel

    put(folder / "config.json", config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = AutoModel.from_config(AutoConfig.for_model(**config)).state_dict()
    save_file({prefix + name: one for name, one in state.items()}, folder / "model.safetensors")
    put_tokenizer(folder / "tokenizer.json")
    put(folder / "tokenizer_config.json", {"model_max_length": 20})
    if modules is not None:
        put(
            folder / "modules.json", [{"type": f"st.models.{one}", "path": p} for one, p in modules]
        )
        put(folder / "1_Pooling/config.json", pooling or {"pooling_mode_mean_tokens": True})
        put(folder / "sentence_bert_config.json", {"max_seq_length": 12, "do_lower_case": False})
    return folder


SENTENCES = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
