"""The scorer of natural prompts: its views, its protocol with a fake pair of encoders, real loading of tiny models."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import calibrate_simpleeval
from diffusionbench.benchmarks.simpleeval import open_scorer, open_views, scorecard
from diffusionbench.benchmarks.simpleeval.answers import collect_answers
from diffusionbench.benchmarks.simpleeval.evidence import OPEN_RULE, consensus, majority
from diffusionbench.benchmarks.simpleeval.open_scorer import OpenScorer
from diffusionbench.benchmarks.simpleeval.open_words import scorer_texts, vocabulary
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.errors import MissingPackageError, RequestError

DIM = 1024


class Fake:
    """Sees which sentences were painted: a grey level stands for the sum of its sentences' vectors."""

    def __init__(self, name):
        self.name, self.digest = name, name

    def texts(self, sentences):
        return torch.nn.functional.normalize(torch.stack([pattern(s) for s in sentences]), dim=-1)

    def images(self, views):
        out = []
        for view in views:
            grey = view.mean(dim=0)
            out.append(code(grey))
        return torch.stack(out)


def pattern(sentence):
    seed = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big")
    return torch.randn(DIM, generator=torch.Generator().manual_seed(seed))


PAINTED: dict[int, torch.Tensor] = {}


def code(grey):
    """The painted vectors by the share of pixels at their level; other levels say nothing."""
    total = torch.zeros(DIM)
    _height, _width = grey.shape
    for level, vector in PAINTED.items():
        share = ((grey - level).abs() < 4).float().mean()
        total = total + vector * share
    return torch.nn.functional.normalize(total + 1e-6, dim=-1)


@pytest.fixture(scope="module")
def prompts():
    return build("open", "public-0", "quick")


def paint(facts, flip=False):
    """An image whose left and right halves show object and companion as the relation says, by level."""
    PAINTED.clear()
    scene = [scorer_texts(kind, facts[kind]) for kind in ("place", "light", "style") if kind in facts]
    scene += [scorer_texts("count", facts["count"], facts["object"])] if "count" in facts else []
    vectors = {}
    for slot, prefix in (("object", ""), ("companion", "companion_")):
        if slot not in facts:
            continue
        own = [scorer_texts("object", facts[slot])]
        own += [
            scorer_texts(kind, facts[prefix + kind], facts[slot])
            for kind in ("colour", "material", "action")
            if prefix + kind in facts
        ]
        vectors[slot] = sum(pattern(text) for texts in own + scene for text in texts)
    left, right = ("object", "companion") if facts.get("relation") != "to the right of" else ("companion", "object")
    image = np.zeros((256, 256, 3), np.uint8)
    if facts.get("relation") in ("above", "below"):
        first, second = ("object", "companion") if facts["relation"] == "above" else ("companion", "object")
        PAINTED.update({60: vectors[first], 180: vectors.get(second, vectors[first])})
        image[:128], image[128:] = 60, 180
    else:
        PAINTED.update({60: vectors.get(left, vectors["object"]), 180: vectors.get(right, vectors["object"])})
        image[:, :128], image[:, 128:] = 60, 180
    return image


def test_fake_encoders_drive_the_whole_protocol(prompts, monkeypatch):
    """Pictures that say what was asked are read right, family by family, relation and binding in mirrors too."""
    # Noise would leave the level that carries the message.
    monkeypatch.setattr(open_views, "_noisy", lambda view, seed, key, number: view)
    scorer = OpenScorer(encoders=(Fake("a"), Fake("b")))
    right, asked = {}, {}
    judged = []
    for block in range(2, 108, 6):
        for prompt in prompts.block(block)[::3]:
            votes = scorer.predict([paint(prompt.facts)], [prompt])[0]
            assert votes.shape == (2, 7, len(prompt.questions))
            judged.append((prompt, votes))
            for question, answer in zip(prompt.questions[:2], consensus(majority(votes, 5))[:2], strict=True):
                right[question.family] = right.get(question.family, 0) + (answer == question.answer)
                asked[question.family] = asked.get(question.family, 0) + 1
    shares = {family: right[family] / asked[family] for family in asked}
    assert min(shares.values()) > 0.8, shares
    found = calibrate_simpleeval.competence(judged, OPEN_RULE)
    assert all(scorecard.is_able(row) for row in found.values())


def test_families_below_the_required_competence_leave_the_headline(tmp_path):
    families, file = ("colour", "count", "light"), tmp_path / "competence.json"
    assert scorecard.able_families(families, file) == (families, True)
    rows = {"colour": {"recall": 0.4, "precision": 0.9}, "count": {"recall": 0.39, "precision": 1}}
    file.write_text(json.dumps({"families": rows}))
    assert scorecard.able_families(families, file) == (("colour",), False)


def test_scorers_that_disagree_abstain_and_blind_ones_gain_nothing(prompts):
    scorer = OpenScorer(encoders=(Fake("a"), Fake("b")))
    grey = np.full((64, 64, 3), 128, np.uint8)
    PAINTED.clear()
    votes = {prompt.id: scorer.predict([grey], [prompt]) * 2 for prompt in prompts.prompts[:8]}
    assert {array.shape[1] for arrays in votes.values() for array in arrays} == {7}
    split = np.stack([np.zeros((7, 2), np.int8), np.ones((7, 2), np.int8)])
    assert (consensus(majority(split, 5)) == -1).all()


def test_report_of_the_open_world_is_provisional(prompts):
    votes = {
        prompt.id: [np.broadcast_to([q.answer for q in prompt.questions], (2, 7, len(prompt.questions)))] * 2
        for prompt in prompts.prompts
    }
    found = scorecard.score_card(collect_answers(prompts, votes, OPEN_RULE), scorecard.OPEN)
    assert found.score.value == 1.0
    assert found.status == "provisional"
    assert set(found.families) == set(prompts.families)


def test_views_are_deterministic_and_keep_what_they_say():
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    first, second = open_views.views(image, "s"), open_views.views(image, "s")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert [view.shape[-1] for view in first] == [256, 160, 256, 217, 256, 217, 160]
    assert not torch.equal(first[3], open_views.views(image, "t")[3])
    # Padding is the mean of the image.
    assert torch.allclose(first[0][:, 0, 0], torch.tensor(image.mean(axis=(0, 1))).float(), atol=1e-3)
    flat = torch.full((3, 24, 24), 77.0)
    assert torch.allclose(open_views.block_dct(flat, 60), flat, atol=4)
    assert torch.allclose(open_views.blur(flat, 1.2), flat, atol=1e-3)
    left, right, top, bottom = open_views.halves(first[0])
    assert left.shape == right.shape == (3, 256, 141)
    assert top.shape == bottom.shape == (3, 141, 256)


def test_dct_at_full_quality_is_nearly_the_identity():
    image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 200 + 20
    assert (open_views.block_dct(image, 100) - image).abs().mean() < 1
    assert (open_views.block_dct(image, 10) - image).abs().mean() > 5


def test_missing_package_or_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingPackageError, match="eval-t2i"):
            open_scorer.HubEncoder(open_scorer.CLIP)
        return
    with pytest.raises(RequestError, match="were not found"):
        open_scorer.HubEncoder(replace(open_scorer.CLIP, model=str(tmp_path)))


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """A CLIP and an ALIGN of random weights, saved as the hub saves them."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra eval-t2i)")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted({word for noun in vocabulary().nouns for word in noun.split()} | {"a", "an", "photo", "of", "red"})
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    text = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "pad_token_id": 0}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={**text, "bos_token_id": 1, "eos_token_id": 2, "projection_dim": 16},
            vision_config={
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 224, "patch_size": 32, "projection_dim": 16,
            },
            projection_dim=16,
        )
    )  # fmt: skip
    align = transformers.AlignModel(
        transformers.AlignConfig(
            text_config=text,
            vision_config={
                "hidden_dim": 64, "width_coefficient": 0.1, "depth_coefficient": 0.1, "in_channels": [8, 8],
                "out_channels": [8, 8], "kernel_sizes": [3, 3], "strides": [2, 2], "num_block_repeats": [1, 1],
                "expand_ratios": [1, 2], "depthwise_padding": [], "image_size": 289,
            },
            projection_dim=8,
        )
    )  # fmt: skip
    for name, model in (("clip", clip), ("align", align)):
        model.save_pretrained(root / name)
        numbers = {word: place for place, word in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *words])}
        tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
        ).save_pretrained(root / name)
    return root


def test_tiny_models_from_disk(tiny_models, prompts):
    clip = replace(open_scorer.CLIP, model=str(tiny_models / "clip"))
    first, again = open_scorer.HubEncoder(clip), open_scorer.HubEncoder(clip)
    second = open_scorer.HubEncoder(replace(open_scorer.ALIGN, model=str(tiny_models / "align")))
    assert first.digest == again.digest != second.digest
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for encoder in (first, second):
        vectors = encoder.images([torch.rand(3, 160, 160) * 255, torch.rand(3, 217, 100) * 255])
        sentences = encoder.texts(["a photo of a dog", "red"])
        assert vectors.shape == sentences.shape
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(2), atol=1e-5)
        assert torch.allclose(encoder.texts(["red"]), sentences[1:], atol=1e-5)
    scorer = OpenScorer(encoders=(first, second))
    chosen = [prompts.block(0)[0], prompts.block(100)[3]]
    votes = scorer.predict([image, image], chosen)
    assert [array.shape for array in votes] == [(2, 7, len(prompt.questions)) for prompt in chosen]
    alone = scorer.predict([image], chosen[1:])[0]
    assert np.array_equal(alone, votes[1])


def test_models_that_are_nowhere_are_missed_before_an_image_is_made(monkeypatch):
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    asked = []

    def nowhere(model, **options):
        asked.append(model)
        raise OSError(f"{model} is not in the cache, and there is no connection")

    monkeypatch.setattr("transformers.PretrainedConfig.get_config_dict", nowhere)
    monkeypatch.setattr("diffusionbench.judges.hub.reachable", lambda: True)
    with pytest.raises(RequestError, match=r"weights of judge 'simpleeval_open' were not found at 'openai/"):
        OpenScorer.check()
    assert asked == ["openai/clip-vit-base-patch32"]
