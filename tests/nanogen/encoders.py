"""Text encoders small enough for a test: random weights of the real classes, saved as the hub has them."""

from __future__ import annotations

from pathlib import Path

import torch

from nanogen.text import cache

WORDS = ("a an one two three red green blue circle square circles squares above below left right of on image").split()  # noqa: SIM905
KINDS = ("bert", "qwen3", "t5", "clip")


def save_encoder(folder: Path, kind: str, seed: int = 0) -> Path:
    """A text model of a few thousand weights with a word tokenizer.

    Args:
        kind: "bert" frames a text with two tokens, "clip" too, "t5" closes it with one, "qwen3" adds none.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    words = {word: place for place, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = {"bert": "[BOS] $A [EOS]", "clip": "[BOS] $A [EOS]", "t5": "$A [EOS]", "qwen3": "$A"}[kind]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("[BOS]", 2), ("[EOS]", 3)])
    # The encoders' own habit must not matter: this one would pad on the left.
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", eos_token="[EOS]", padding_side="left"
    )
    fast.save_pretrained(folder)
    size = {"vocab_size": len(words)}
    torch.manual_seed(seed)
    if kind == "bert":
        model = transformers.BertModel(
            transformers.BertConfig(
                hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **size
            )
        )
    elif kind == "qwen3":
        model = transformers.Qwen3Model(
            transformers.Qwen3Config(
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=12,
                intermediate_size=32,
                **size,
            )
        )
    elif kind == "t5":
        model = transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2, **size)
        )
    else:
        model = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=20,
                eos_token_id=3,
                **size,
            )
        )
    model.save_pretrained(folder)
    return folder


def write_cache(folder: Path, captions, encoder, data_digest: str, dtype: str = "float16") -> cache.CacheManifest:
    """Encode each distinct caption once, in this process, and store the states."""
    ordered = cache.distinct(captions)
    recipe = cache.shard_recipe(ordered, encoder, data_digest, dtype)
    parts = (ordered[start : start + cache.CHUNK] for start in range(0, len(ordered), cache.CHUNK))
    return cache.assemble(folder, ordered, recipe, (cache.shard_content(part, encoder, dtype) for part in parts))
