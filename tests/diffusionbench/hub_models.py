"""Tiny networks of random weights, saved as the hub saves them: the classes and the files that judges load."""

from __future__ import annotations

import re
from pathlib import Path

# One letter a byte; texts that differ have tokens that differ.
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def tokenizer(transformers, start: str | None = None, end: str | None = None, marks: tuple[str, ...] = (), **options):
    """A tokenizer of bytes, with what stands before and behind every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *marks, *letters]
    numbers = {word: place for place, word in enumerate(words)}
    made = Tokenizer(models.BPE(numbers, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    around = " ".join(filter(None, (start, "$A", end)))
    used = [(word, numbers[word]) for word in (start, end) if word]
    made.post_processor = processors.TemplateProcessing(single=around, special_tokens=used)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=list(marks),
        **options,
    )


def clip(transformers, to: Path) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 28, "patch_size": 14, "projection_dim": 16}
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(to)
    tokenizer(transformers, "<s>", "</s>").save_pretrained(to)


def mask2former(transformers, to: Path) -> None:
    from diffusionbench.judges.detector import CLASSES

    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    names = [{"mouse": "mouse", "couch": "sofa"}.get(name, name) for name in CLASSES]
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_feedforward_dim=16,
        dim_feedforward=16, num_attention_heads=2, encoder_layers=1, decoder_layers=1, num_queries=8,
        id2label=dict(enumerate(names)), label2id={name: place for place, name in enumerate(names)},
    )  # fmt: skip
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    # Sure of something in every query, so that there are instances.
    network.class_predictor.weight.data *= 400
    network.save_pretrained(to)


def clip_flan_t5(transformers, to: Path) -> None:
    """Under the names of the published checkpoints."""
    from diffusionbench.judges.vqa import _clip_t5

    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = transformers.T5Config(
        vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2,
        feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    config.tie_word_embeddings = config.scale_decoder_outputs = False
    network = _clip_t5(transformers, vision)(config)
    names = {
        re.sub(r"^vision_tower\.", "vision_tower.vision_tower.vision_model.", name): tensor.contiguous().clone()
        for name, tensor in network.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }
    from safetensors.torch import save_file

    to.mkdir(parents=True)
    save_file(names, to / "model.safetensors", metadata={"format": "pt"})
    # The published config has another model type, and does not say that the output matrix is its own.
    facts = config.to_diff_dict() | {"model_type": "clip_t5", "tie_word_embeddings": True}
    del facts["scale_decoder_outputs"]
    import json

    (to / "config.json").write_text(json.dumps(facts))


def flan_t5(transformers, to: Path) -> None:
    tokenizer(transformers, None, "</s>").save_pretrained(to)
    transformers.T5Config(vocab_size=300).save_pretrained(to)


def vision_tower(transformers, to: Path) -> None:
    transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    ).save_pretrained(to)


def qwen(family: str, transformers, to: Path) -> None:
    words = tokenizer(transformers, marks=MARKS, chat_template=CHAT)
    place = words.convert_tokens_to_ids
    text = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    ids = {"image_token_id": place("<|image_pad|>"), "video_token_id": place("<|video_pad|>")}
    ids |= {"vision_start_token_id": place("<|vision_start|>"), "vision_end_token_id": place("<|vision_end|>")}
    if family == "qwen2.5":
        config = transformers.Qwen2_5_VLConfig(
            text_config=text | {"rope_scaling": rope, "rope_parameters": rope},
            vision_config=vision | {"window_size": 112, "fullatt_block_indexes": [1]},
            **ids,
        )
        network = transformers.Qwen2_5_VLForConditionalGeneration(config)
    elif family == "qwen3":
        config = transformers.Qwen3VLConfig(
            text_config=text | {"rope_scaling": rope, "rope_parameters": rope},
            vision_config=vision | {"deepstack_visual_indexes": [0], "num_position_embeddings": 64},
            **ids,
        )
        network = transformers.Qwen3VLForConditionalGeneration(config)
    else:
        gdn = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 16}
        gdn |= {"linear_value_head_dim": 16, "layer_types": ["linear_attention", "full_attention"]}
        config = transformers.Qwen3_5Config(
            text_config=text | gdn | {"rope_parameters": rope | {"partial_rotary_factor": 1.0}},
            vision_config=vision | {"num_position_embeddings": 64},
            **ids,
        )
        network = transformers.Qwen3_5ForConditionalGeneration(config)
    network.save_pretrained(to)
    words.save_pretrained(to)
    transformers.Qwen2VLImageProcessor(
        patch_size=14, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 28 * 28, "longest_edge": 112 * 112}
    ).save_pretrained(to)


def save_all(root: Path) -> Path:
    """Save a model for every repository that a judge's row names, below `root`; return it."""
    import torch
    import transformers

    from diffusionbench.judges import JUDGES

    makers = {
        r"openai/clip-vit-large-patch14$": clip,
        r"openai/clip-vit-large-patch14-336": vision_tower,
        r"facebook/mask2former": mask2former,
        r"zhiqiulin/": clip_flan_t5,
        r"google/flan-t5": flan_t5,
        r"Qwen/Qwen2.5-VL": lambda *given: qwen("qwen2.5", *given),
        r"Qwen/Qwen3-VL": lambda *given: qwen("qwen3", *given),
        r"Qwen/Qwen3\.[56]": lambda *given: qwen("qwen3.5", *given),
    }
    first: dict[str, Path] = {}
    rows = [row for row in JUDGES.values() if row.output == "rows" and not row.name.startswith("simpleeval")]
    repositories = sorted({name for row in rows for name in row.hub})
    with torch.random.fork_rng():
        for repository in repositories:
            pattern = next(pattern for pattern in makers if re.match(pattern, repository))
            place = root / repository
            place.parent.mkdir(parents=True, exist_ok=True)
            if pattern in first:
                place.symlink_to(first[pattern])
                continue
            torch.manual_seed(len(first))
            makers[pattern](transformers, place)
            first[pattern] = place
    return root
