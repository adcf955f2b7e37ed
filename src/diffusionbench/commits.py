"""The commits at which repositories of the Hugging Face hub are fetched and looked for: data alone, for both packages.

The commits are those that public code and pages name for these repositories; they were not checked against the hub
itself. Of a repository that is not here none is pinned: its newest commit is taken, and the hash of what was loaded
tells what was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# In order of names.
COMMITS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Qwen/Qwen-Image": "75e0b4be04f60ec59a75f475837eced720f823b6",
        "Qwen/Qwen2.5-VL-32B-Instruct": "7cfb30d71a1f4f49a57592323337a4a4727301da",
        "Qwen/Qwen2.5-VL-3B-Instruct": "66285546d2b821cf421d4f5eb2576359d3770cd3",
        "Qwen/Qwen2.5-VL-72B-Instruct": "89c86200743eec961a297729e7990e8f2ddbc4c5",
        "Qwen/Qwen2.5-VL-7B-Instruct": "cc594898137f460bfe9f0759e9844b3ce807cfb5",
        "Qwen/Qwen3-0.6B": "c1899de289a04d12100db370d81485cdf75e47ca",
        "Qwen/Qwen3-VL-2B-Instruct": "89644892e4d85e24eaac8bacfd4f463576704203",
        "Qwen/Qwen3-VL-32B-Instruct": "0cfaf48183f594c314753d30a4c4974bc75f3ccb",
        "Qwen/Qwen3-VL-4B-Instruct": "ebb281ec70b05090aa6165b016eac8ec08e71b17",
        "Qwen/Qwen3-VL-8B-Instruct": "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b",
        "Qwen/Qwen3.5-27B": "fc05daec18b0a78c049392ed2e771dde82bdf654",
        "Qwen/Qwen3.5-4B": "851bf6e806efd8d0a36b00ddf55e13ccb7b8cd0a",
        "Qwen/Qwen3.5-9B": "c202236235762e1c871ad0ccb60c8ee5ba337b9a",
        "Qwen/Qwen3.6-27B": "6a9e13bd6fc8f0983b9b99948120bc37f49c13e9",
        "black-forest-labs/FLUX.1-dev": "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
        "black-forest-labs/FLUX.2-dev": "26afe3a78bb242c0a8bb181dcc8937bb16e5c66c",
        "diffusion-bench/diffusion-bench": "a4a0f5c22e70f7f253f47a5250b478ae5084acd7",
        "facebook/PE-Core-B16-224": "a16450b46fef32363459920c2685a1b4ef13dcd9",
        "facebook/PE-Core-G14-448": "a6046680086f67d1f24d4b465a240de0578dfc0b",
        "facebook/PE-Core-L14-336": "bafb0f76541d399057e980a25947f67acec76575",
        "facebook/PE-Core-S16-384": "aabf3b990573d8114ae6e501b4697106beac8f19",
        "facebook/PE-Core-T16-384": "8b4722741a516c18e7d311f158f13c600fea6c78",
        "facebook/PE-Spatial-G14-448": "12594718a2702146ec5f73a6aef4e3cc26c28710",
        "facebook/convnextv2-base-22k-224": "758ff0922dc09136abb55774e7f8b1e1bd0dc344",
        "facebook/convnextv2-large-22k-224": "e58a79c331e6c9acd20e3ba2de0e934c546f0eea",
        "facebook/convnextv2-nano-22k-224": "527b00bc5fe25e3591738e0d2b97e355bd5f0b5e",
        "facebook/convnextv2-tiny-22k-224": "98c27c19bb5d32a35ecdb84bc2050b5ad99686c8",
        "facebook/dinov2-large": "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        "facebook/dinov2-with-registers-base": "a1d738ccfa7ae170945f210395d99dde8adb1805",
        "facebook/dinov2-with-registers-giant": "8d0d49f77fb8b5dd78842496ff14afe7dd4d85cb",
        "facebook/dinov2-with-registers-large": "e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
        "facebook/dinov2-with-registers-small": "0d9846e56b43a21fa46d7f3f5070f0506a5795a9",
        "facebook/dinov3-vit7b16-pretrain-lvd1689m": "b80367753773648a6793235ab9c65cdbb029506f",
        "facebook/dinov3-vitb16-pretrain-lvd1689m": "3a0fa61ff39414e2d3be4a1d50c7dfbf459aa8b8",
        "facebook/dinov3-vith16plus-pretrain-lvd1689m": "c807c9eeea853df70aec4069e6f56b28ddc82acc",
        "facebook/dinov3-vitl16-pretrain-lvd1689m": "ea8dc2863c51be0a264bab82070e3e8836b02d51",
        "facebook/dinov3-vits16-pretrain-lvd1689m": "114c1379950215c8b35dfcd4e90a5c251dde0d32",
        "facebook/dinov3-vits16plus-pretrain-lvd1689m": "c93d816fc9e567563bc068f01475bec89cc634a6",
        "facebook/mask2former-swin-small-coco-instance": "f77f179fc62b98f6734481ebbef5bceeb1e7f10b",
        "facebook/vit-mae-base": "25b184bea5538bf5c4c852c79d221195fdd2778d",
        "facebook/vit-mae-huge": "5e0e60b29318a30e9ed13e27cb56d28071704980",
        "facebook/vit-mae-large": "142cb8c25e1b1bc1769997a919aa1b5a2345a6b8",
        "facebook/webssl-dino1b-full2b-224": "d3bf033d9c8cc62ea9e73c40956642cad2ec568a",
        "facebook/webssl-dino2b-full2b-224": "cd5893e3fd2e988eb716792049b3dd53b3f1b68b",
        "facebook/webssl-dino300m-full2b-224": "8529cdb3fb75014932af3b896455fc21c386168e",
        "facebook/webssl-dino3b-full2b-224": "2d015c340b16bc47bc6557fcb4e6c83a9d4aa1d3",
        "facebook/webssl-dino5b-full2b-224": "88006b18b9af369f6c611db7a64d908bde3714e0",
        "facebook/webssl-dino7b-full8b-224": "c6085463ea680043042a80c6d41db2c65e85f466",
        "google/flan-t5-xl": "7d6315df2c2fb742f0f5b556879d730926ca9001",
        "google/flan-t5-xxl": "ae7c9136adc7555eeccc78cdd960dfd60fb346ce",
        "google/siglip2-base-patch16-256": "3f9f96cb90da5dbc758b01813f2f6f1aee24c1ab",
        "google/siglip2-giant-opt-patch16-256": "46d7129e1aa1527cc5a44d86fb35250df3abf0aa",
        "google/siglip2-large-patch16-256": "787800c8990e6f058423089178e718139608408c",
        "google/siglip2-so400m-patch16-256": "e8708ab72d125807e45b36fb7d4e0aacbb59f379",
        "google/t5-v1_1-base": "b5fc947a416ea3cb079532cb3c2bbadeb7f800fc",
        "google/t5-v1_1-xl": "a9e51c46bd6f3893213c51edf9498be6f0426797",
        "google/t5-v1_1-xxl": "3db67ab1af984cf10548a73467f0e5bca2aaaeb2",
        "google/tipsv2-b14": "23cfc936f39a74b5ae272149f703e3941b190529",
        "google/tipsv2-g14": "9b6d9f098466347ec47856eb281c69641b50899d",
        "google/tipsv2-l14": "3001ef12a69340be4a946cc4e2799ac5eb697818",
        "google/tipsv2-so400m14": "582b2c6814afea7eb6a64ccc2ce3a4b5af1036a0",
        "kakaobrain/align-base": "e96a37facc7b1f59090ece82293226b817afd6ba",
        "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "bc7788f151930d91b58474715fdce5524ad9a189",
        "madebyollin/sdxl-vae-fp16-fix": "207b116dae70ace3637169f1ddd2434b91b3a8cd",
        "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
        "openai/clip-vit-large-patch14": "32bd64288804d66eefd0ccbe215aa642df71cc41",
        "openai/clip-vit-large-patch14-336": "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
        "stabilityai/sd-vae-ft-ema": "f04b2c4b98319346dad8c65879f680b1997b204a",
        "stabilityai/sd-vae-ft-mse": "31f26fdeee1355a5c34592e401dd41e45d25a493",
        "stabilityai/stable-diffusion-3.5-large": "ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",
        "zhiqiulin/clip-flant5-xl": "2cee5afb3386792d9b21066a89232687dfce2c62",
    }
)


def pinned(repository: str) -> str:
    """Return the commit of a repository, "org/name"; "" where none is pinned."""
    return COMMITS.get(repository, "")


def at_commit(repository: str, commit: str) -> str:
    """Return a repository and its commit in words; "" for none."""
    return f"{repository} at {commit or 'its newest commit (none is pinned)'}"
