"""Our feature networks against timm's, whose definitions the published statistics were made with: the same weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from feature_folders import HEADS, HIDDEN, LAYERS, save_network

from diffusionbench.judges import JUDGES
from diffusionbench.writing import model_folder

pytestmark = pytest.mark.oracle
transformers = pytest.importorskip("transformers", reason="transformers is not installed; `make oracle` does")
timm = pytest.importorskip("timm", reason="timm is not installed; `make oracle` does")

# Of the networks by judge: what timm calls it, and what of the arguments of its own row is not the default.
VITS = {
    "dinov2": ("vit_large_patch14_dinov2", {"img_size": 518, "dynamic_img_size": True, "dynamic_img_pad": True}),
    "mae": ("vit_large_patch16_224", {}),
    "siglip": ("vit_so400m_patch16_siglip_256", {"img_size": 256, "dynamic_img_size": True}),
    "clip": ("vit_large_patch14_clip_224", {"dynamic_img_size": True, "dynamic_img_pad": True}),
}
# Names of ours -> timm's, tried in order.
RENAMED = (
    (r"^embeddings\.cls_token$|^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embeddings$|^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(post_layernorm|layernorm)\.", "norm."),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.(layer_norm1|layernorm_before)\.", ".norm1."),
    (r"\.(layer_norm2|layernorm_after)\.", ".norm2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.(self_attn\.out_proj|attention\.output\.dense|attention\.o_proj)\.", ".attn.proj."),
    (r"\.(self_attn|attention\.attention|attention)\.(query|q_proj)\.", ".attn.q."),
    (r"\.(self_attn|attention\.attention|attention)\.(key|k_proj)\.", ".attn.k."),
    (r"\.(self_attn|attention\.attention|attention)\.(value|v_proj)\.", ".attn.v."),
    (r"\.(intermediate\.dense)\.", ".mlp.fc1."),
    (r"\.(output\.dense)\.", ".mlp.fc2."),
)


def renamed(state):
    """Tensors of transformers by timm's names."""
    found = {}
    for name, tensor in state.items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)
        found[name] = tensor
    for name in [name for name in found if ".attn.q." in name]:
        parts = [found.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        found[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    for name in [name for name in found if name.startswith("head.")]:
        part, tensor = name.removeprefix("head."), found.pop(name)
        rows = len(tensor) // 3
        if part == "probe":
            found["attn_pool.latent"] = tensor
        elif part.startswith("attention.in_proj_"):
            kind = part.removeprefix("attention.in_proj_")
            found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = tensor[:rows], tensor[rows:]
        else:
            found["attn_pool." + part.replace("attention.out_proj", "proj").replace("layernorm", "norm")] = tensor
    return found


def installed(name: str, folder, monkeypatch):
    """A small network where its judge looks before it asks the hub."""
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(folder))
    return save_network(name, model_folder(JUDGES[name].hub[0]))


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", VITS)
def test_a_vision_transformer(name, tmp_path, monkeypatch):
    given = installed(name, tmp_path, monkeypatch)
    judge = JUDGES.load(name)("cpu")
    stored = getattr(transformers, judge.model).from_pretrained(given)
    model, options = VITS[name]
    small = {"embed_dim": JUDGES[name].dim, "depth": LAYERS, "num_heads": HEADS}
    ratio = {"mlp_ratio": 1 if name == "dinov2" else HIDDEN / JUDGES[name].dim}
    net = timm.create_model(model, pretrained=False, num_classes=0, **small, **ratio, **options).eval()
    state = {key: value for key, value in renamed(stored.state_dict()).items() if key in net.state_dict()}
    state = {key: value.reshape(net.state_dict()[key].shape) for key, value in state.items()}
    assert net.load_state_dict(state, strict=True)
    x = judge._prepared(judge.pixels(pictures()))[:, :, : judge.side, : judge.side]
    with torch.no_grad():
        wanted = net(x).numpy()
    np.testing.assert_allclose(judge(pictures())["features"], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_convnext(tmp_path, monkeypatch):
    installed("convnext", tmp_path, monkeypatch)
    judge = JUDGES.load("convnext")("cpu")
    net = timm.create_model(
        "convnextv2_base", pretrained=False, num_classes=0, depths=(1, 1, 2, 1), dims=(8, 8, 16, JUDGES["convnext"].dim)
    ).eval()
    ours = judge._net.state_dict()
    names = (
        (r"^embeddings\.patch_embeddings\.", "stem.0."),
        (r"^embeddings\.layernorm\.", "stem.1."),
        (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"stages.\1.downsample."),
        (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1.blocks."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"\.layernorm\.", ".norm."),
        (r"\.pwconv([12])\.", r".mlp.fc\1."),
        (r"\.grn\.", ".mlp.grn."),
    )
    state = {}
    for key, value in ours.items():
        for pattern, new in names:
            key = re.sub(pattern, new, key)
        state[key] = value.flatten() if ".grn." in key else value
    state = {key: value for key, value in state.items() if not key.startswith("layernorm.")}
    found = net.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(key.startswith("head.") for key in found.missing_keys)
    with torch.no_grad():
        wanted = net.forward_features(judge._prepared(judge.pixels(pictures()))).mean((2, 3)).numpy()
    np.testing.assert_allclose(judge(pictures())["features"], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
