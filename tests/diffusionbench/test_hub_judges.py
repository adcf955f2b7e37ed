"""Judges of networks from the hub: tiny models of the same classes, against their formulas and up to records."""

import csv
import io
import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import diffusionbench as db
from diffusionbench.benchmarks import dpgbench
from diffusionbench.benchmarks.dpgbench.prompts import read_dpg
from diffusionbench.benchmarks.geneval import COLOURS
from diffusionbench.benchmarks.geneval.evidence import ClipColours
from diffusionbench.cli import app  # noqa: F401
from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.judges import JUDGES, Unjudged, hub
from diffusionbench.judges.clip import ClipMatch, centred
from diffusionbench.judges.instances import Mask2Former, as_row, instances, mask_of, prepare
from diffusionbench.judges.selftest import test_now as run_self_test
from diffusionbench.judges.vqa import SYSTEM, ChatModel, Checklist, FlanT5Score, QwenScore, squared
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS, PromptChoice
from diffusionbench.prompts.pinned import PinnedPrompts
from diffusionbench.sample import Item
from diffusionbench.writing import model_folder

transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra eval-t2i)")
pytestmark = pytest.mark.usefixtures("hub_installed")
NOISE = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
BENCH = Item("x", text="a red bench")


def judge(name):
    return JUDGES.load(name)()


# --- CLIP


def test_clip_s_picture_is_that_of_its_own_processor():
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    for image in (NOISE[0], NOISE[0].transpose(1, 0, 2)[:50].copy()):
        wanted = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(centred(image, 28), wanted, atol=1e-6, rtol=0)


def test_clip_score_is_the_cosine_of_the_network_s_own_vectors():
    row = judge("clip_vit_l14")(NOISE[:1], [BENCH])[0]
    network = transformers.CLIPModel.from_pretrained(model_folder("openai/clip-vit-large-patch14"))
    words = transformers.AutoTokenizer.from_pretrained(model_folder("openai/clip-vit-large-patch14"))
    with torch.inference_mode():
        out = network(pixel_values=centred(NOISE[0], 28)[None], **words(BENCH.text, return_tensors="pt"))
    wanted = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    assert row == {"question": BENCH.text, "score": pytest.approx(float(wanted), abs=1e-6)}
    assert ClipMatch.questions(BENCH) == (BENCH.text,)
    long = Item("y", text=BENCH.text * 20)
    assert -1 <= judge("clip_vit_l14")(NOISE[:1], [long])[0]["score"] <= 1
    assert judge("clip_vit_l14")(NOISE[:1], [Item("z")]) == [Unjudged("nothing was asked about it")]


# --- CLIP-FlanT5


@pytest.fixture
def flan():
    return judge("clip-flant5-xl")


def test_flan_t5_s_score_is_the_geometric_mean_over_yes_and_its_end(flan):
    """Token by token, from the network's parts, in the order that evaluation with a cache would have."""
    row = flan(NOISE[:1], [BENCH])[0]
    assert row["question"] == 'Does this figure show "a red bench"? Please answer yes or no.'
    net, words = flan._net._network, flan._net._tokenizer
    before = words(f"{SYSTEM} USER: ").input_ids
    after = words(f"\n{row['question']} ASSISTANT: ").input_ids
    end = words.eos_token_id
    # Each piece keeps its own end.
    assert (before[-1], after[-1]) == (end, end)
    with torch.inference_mode():
        pixels = centred(squared(NOISE[0]), 28)[None].to(torch.bfloat16)
        seen = net.vision_tower(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        patches = net.mm_projector(seen)
        assert patches.shape == (1, 4, 32)
        table = net.shared.weight
        states = net.encoder(inputs_embeds=torch.cat([table[before][None], patches, table[after][None]], dim=1))
        decoded, logs = [0], []
        for token in (*words("Yes").input_ids,):
            hidden = net.decoder(
                inputs_embeds=table[decoded][None], encoder_hidden_states=states.last_hidden_state
            ).last_hidden_state[0, -1]
            logits = hidden @ net.lm_head.weight.T
            logs.append(float(logits.float().log_softmax(0)[token]))
            decoded.append(token)
    assert decoded[-1] == end
    assert row["probability"] == pytest.approx(np.exp(np.mean(logs)), rel=0.05)


def test_the_output_matrix_is_its_own_and_the_embeddings_are_shared(flan):
    net = flan._net._network
    assert net.encoder.embed_tokens.weight is net.shared.weight
    assert net.decoder.embed_tokens.weight is net.shared.weight
    from safetensors.torch import load_file

    stored = load_file(model_folder("zhiqiulin/clip-flant5-xl") / "model.safetensors")
    for name, tensor in (("lm_head.weight", net.lm_head.weight), ("shared.weight", net.shared.weight)):
        torch.testing.assert_close(tensor, stored[name].bfloat16())
    assert not torch.equal(net.lm_head.weight, net.shared.weight)
    tower = "vision_tower.vision_tower.vision_model.embeddings.class_embedding"
    torch.testing.assert_close(net.vision_tower.embeddings.class_embedding, stored[tower].bfloat16())


def test_pictures_are_padded_to_a_square_of_clip_s_colour():
    padded = squared(np.zeros((3, 6, 3), np.uint8))
    assert padded.shape == (6, 6, 3)
    assert padded[:, 0].tolist() == [[122, 116, 104]] + [[0, 0, 0]] * 3 + [[122, 116, 104]] * 2


def test_a_checkpoint_that_lacks_tensors_is_named(hub_models, in_cache, tmp_path, monkeypatch):
    from safetensors.torch import load_file, save_file

    for name in ("google/flan-t5-xl", "openai/clip-vit-large-patch14-336"):
        shutil.copytree(hub_models / name, tmp_path / "models" / name)
    folder = tmp_path / "models" / "zhiqiulin" / "clip-flant5-xl"
    shutil.copytree(hub_models / "zhiqiulin" / "clip-flant5-xl", folder)
    kept = {name: one for name, one in load_file(folder / "model.safetensors").items() if "mm_projector.2" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"2 tensors are missing or .*: mm_projector.2.bias, mm_projector.2.weight"):
        judge("clip-flant5-xl")
    kept["mm_projector.2.weight"], kept["mm_projector.2.bias"] = torch.zeros(32, 31), torch.zeros(32)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"1 tensors are missing or have another shape: mm_projector.2.weight"):
        judge("clip-flant5-xl")


# --- Chat models


@pytest.mark.parametrize("name", ["qwen2.5-vl-3b", "qwen3-vl-2b", "qwen3.5-4b"])
def test_a_chat_model_s_score_is_the_probability_of_its_first_token(name, monkeypatch):
    made = judge(name)
    row = made(NOISE[:1], [BENCH])[0]
    assert row["question"] == 'Does this image show "a red bench"?'
    assert row["answer"] == "Yes"
    # What the network is given: one turn, the image before the question, as many marks as it has patches.
    net, given = made._net._network, {}
    forward = net.forward

    def watched(**options):
        given.update(options)
        return forward(**options)

    monkeypatch.setattr(net, "forward", watched)
    again = made._net.first_token(NOISE[0], row["question"])
    assert again["Yes"] == row["probability"]
    words = made._net._tokenizer
    text = words.decode(given["input_ids"][0])
    patches = int(given["image_grid_thw"][0].prod()) // 4
    marks = "<|vision_start|>" + "<|image_pad|>" * patches + "<|vision_end|>"
    assert text == f'<|im_start|>user\n{marks}Does this image show "a red bench"?<|im_end|>\n<|im_start|>assistant\n'
    assert int(given["mm_token_type_ids"].sum()) == patches
    with torch.inference_mode():
        logits = forward(**given).logits[0, -1].float()
    assert row["probability"] == pytest.approx(float(logits.softmax(0)[words.encode("Yes")[0]]), rel=1e-6)
    other = made(NOISE[1:], [BENCH])[0]["probability"]
    assert other != row["probability"]


def test_a_checklist_asks_each_question_and_takes_the_likelier_word(monkeypatch):
    made = judge("qwen3-vl-8b_checklist")
    asked = []
    odds = iter([{"Yes": 0.2, "No": 0.1}, {"Yes": 0.2, "No": 0.3}, {"Yes": float("nan"), "No": 0.1}])

    def first_token(image, question):
        asked.append(question)
        return next(odds)

    monkeypatch.setattr(made._net, "first_token", first_token)
    questions = [{"id": n, "question": text, "parents": []} for n, text in enumerate(("Is it red?", "Is it a bench?"))]
    item = Item("x", detail={"questions": questions})
    assert Checklist.questions(item) == ("Is it red?", "Is it a bench?")
    (row,) = made(NOISE[:1], [item])
    assert asked[0] == "Is it red? Please answer yes or no."
    assert row["answers"] == [
        {"question": "Is it red?", "answer": "yes", "probability": 0.2},
        {"question": "Is it a bench?", "answer": "no", "probability": 0.2},
    ]
    single = Item("y", detail={"questions": questions[:1]})
    assert made(NOISE[:1], [single]) == [Unjudged("a probability is not finite")]
    assert made(NOISE[:1], [BENCH]) == [Unjudged("nothing was asked about it")]


def test_weights_and_words_are_part_of_the_digest(monkeypatch):
    first = judge("qwen3-vl-2b").digest
    assert judge("qwen3-vl-2b").digest == first != judge("qwen3-vl-8b_checklist").digest
    with monkeypatch.context() as patch:
        patch.setattr(QwenScore, "form", "Is this {}?")
        assert judge("qwen3-vl-2b").digest != first
    before = ChatModel.__init__

    def moved(self, row, device):
        before(self, row, device)
        next(self._network.parameters()).data += 1
        self.digest = hub.weights_digest(self._network)

    monkeypatch.setattr(ChatModel, "__init__", moved)
    assert judge("qwen3-vl-2b").digest != first


ASKED_IN_WORDS = ("clip_vit_l14", "clip-flant5-xl", "qwen3-vl-2b", "qwen3-vl-2b_original", "qwen3-vl-8b_checklist")


@pytest.mark.parametrize("name", ASKED_IN_WORDS)
def test_a_self_test_compares_a_batch_with_one_alone_and_asks_small_networks_no_sense(name):
    made = judge(name)
    assert run_self_test(made) == ("itself", 0.0, "stand-in")
    assert "smaller than any published one" in str(run_self_test(made))
    # Of random weights taken for the published ones.
    made.is_stand_in = False
    with pytest.raises(RunError, match=f"judge '{name}' fails .* red, green and blue pictures apart.*Remove that copy"):
        run_self_test(made)


def tells(image, text) -> float:
    """A probability that a text is right of a plain picture, by its only colour."""
    return 0.9 if ("red", "green", "blue")[image.mean((0, 1)).argmax()] in text else 0.2


def teach(made, name, odds, monkeypatch) -> None:
    """Put a function of image and text in the place of what a judge reads off its network."""
    if name == "clip_vit_l14":
        words = ("red", "green", "blue")
        monkeypatch.setattr(made._encoder, "image", lambda image: np.array([odds(image, word) for word in words]))
        monkeypatch.setattr(made._encoder, "text", lambda text: np.array([word in text for word in words], float))
    elif name == "clip-flant5-xl":
        monkeypatch.setattr(made._net, "probability", lambda image, text, answer: odds(image, text))
    else:
        both = lambda image, text: {"Yes": odds(image, text), "No": 0.95 - odds(image, text)}  # noqa: E731
        monkeypatch.setattr(made._net, "first_token", both)


@pytest.mark.parametrize("name", ASKED_IN_WORDS)
def test_a_self_test_asks_published_networks_about_plain_colours(name, monkeypatch):
    made = judge(name)
    made.is_stand_in = False
    teach(made, name, tells, monkeypatch)
    assert run_self_test(made) == ("itself", 0.0, "right")
    assert str(run_self_test(made)).endswith("it tells plain red, green and blue pictures apart")
    teach(made, name, lambda image, text: 1.1 - tells(image, text), monkeypatch)
    with pytest.raises(RunError, match="green and blue"):
        run_self_test(made)
    teach(made, name, lambda image, text: float("nan"), monkeypatch)
    with pytest.raises(RunError, match="fails its self-test"):
        run_self_test(made)


def test_a_checklist_must_answer_the_fitting_questions_with_yes_and_the_others_with_no(monkeypatch):
    made = judge("qwen3-vl-8b_checklist")
    made.is_stand_in = False
    for least, most in ((0.6, 0.9), (0.1, 0.4)):
        odds = lambda image, text, most=most, least=least: most if tells(image, text) > 0.5 else least  # noqa: E731
        teach(made, made.name, odds, monkeypatch)
        with pytest.raises(RunError, match="green and blue"):
            run_self_test(made)


def test_values_out_of_their_range_fail(monkeypatch):
    made = judge("clip-flant5-xl")
    monkeypatch.setattr(made._net, "probability", lambda *given: 1.5)
    with pytest.raises(RunError, match="fails its self-test"):
        run_self_test(made)


def test_a_chat_model_s_words_have_probabilities():
    odds = judge("qwen3-vl-2b")._net.first_token(NOISE[0], "Is it red?")
    assert odds.keys() == {"Yes", "No"}
    assert 0 < sum(odds.values()) <= 1
    assert all(0 < one < 1 for one in odds.values())


def test_the_original_mode_asks_in_the_words_of_the_metric_s_own_release():
    row = judge("qwen3-vl-2b_original")(NOISE[:1], [BENCH])[0]
    assert row["question"] == 'Does this figure show "a red bench"? Please answer Yes or No.'
    assert judge("qwen3-vl-2b_original").digest != judge("qwen3-vl-2b").digest
    assert METRICS["vqascore_qwen3-vl-2b_original"].judges == ("qwen3-vl-2b_original",)


def test_models_that_are_nowhere_are_missed_before_an_image_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(
        "transformers.PretrainedConfig.get_config_dict", lambda source: (_ for _ in ()).throw(OSError(f"no {source}"))
    )
    for kind, source in ((FlanT5Score, "clip-flant5"), (Mask2Former, "facebook/mask2former")):
        kind = kind if kind is Mask2Former else JUDGES.load("clip-flant5-xl")
        with pytest.raises(
            RequestError, match=f"were not found at '.*{source}.*no hub: geneval_ssd or simpleeval_shap"
        ):
            kind.check()


# --- Mask2Former and CLIP's colours


def test_detector_input_is_resized_and_padded():
    pixels, inner = prepare(np.zeros((100, 130, 3), np.uint8))
    assert (tuple(pixels.shape), inner) == ((3, 800, 1056), (800, 1040))
    assert pixels[:, 0, 0].tolist() == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    assert pixels[:, :, 1040:].abs().max() == 0
    assert prepare(np.zeros((100, 400, 3), np.uint8))[1] == (333, 1333)


def squares() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two queries over two classes and none, with masks of 8 x 8: a half and a quarter of the picture."""
    classes = torch.log(torch.tensor([[0.9, 0.06, 0.04], [0.02, 0.5, 0.48]]))
    masks = torch.full((2, 8, 8), -20.0)
    masks[0, :, :4] = 20
    masks[1, :4, :4] = 20
    return classes, masks


def test_instances_are_pairs_of_query_and_class_with_the_quality_of_their_masks():
    found = instances(*squares(), (64, 64), (64, 64), (32, 32), "fixed")
    # The pair of the first query and the second class has 0.06, which nobody looks at.
    assert [label for label, _, _ in found] == [0, 1]
    assert [score for _, score, _ in found] == pytest.approx([0.9, 0.5], rel=0.01)
    half, quarter = found[0][2], found[1][2]
    assert half[:, :16].all()
    assert not half[:, 16:].any()
    assert quarter.sum() == pytest.approx(16 * 16, abs=1)
    soft = squares()[1].clamp(-20, 0.5)
    (first, *_) = instances(squares()[0], soft, (64, 64), (64, 64), (32, 32), "fixed")
    assert first[1] == pytest.approx(0.9 / (1 + np.exp(-0.5)), abs=0.02)


def test_padding_is_removed_but_in_the_upstream_mode():
    # The picture is the left half of the padded input, all of which the first mask covers.
    fixed, upstream, original = (
        instances(*squares(), (64, 64), (64, 32), (32, 16), mode)[0][2] for mode in ("fixed", "upstream", "original")
    )
    assert fixed.all()
    assert original.all()
    assert upstream[:, :8].all()
    assert not upstream[:, 8:].any()


def test_boxes_are_half_open_but_in_the_upstream_mode_and_masks_come_back():
    mask = np.zeros((20, 30), bool)
    mask[5:8, 10:14] = True
    mask[6, 11] = False
    row = as_row("cat", 0.9, mask, inclusive=False)
    assert row["box"] == row["mask_box"] == [10, 5, 14, 8]
    assert as_row("cat", 0.9, mask, inclusive=True)["box"] == [10, 5, 13, 7]
    for inclusive in (False, True):
        stored = json.loads(json.dumps(as_row("cat", 0.9, mask, inclusive)))
        np.testing.assert_array_equal(mask_of(stored, (20, 30)), mask)
    full = as_row("cat", 0.9, np.ones((4, 4), bool), inclusive=False)
    assert mask_of(full, (4, 4)).all()


def test_colours_are_asked_of_the_object_cut_out(monkeypatch):
    made: ClipColours = judge("clip_colours")
    image = NOISE[0]
    mask = np.zeros(image.shape[:2], bool)
    mask[5:25, 10:40] = True
    mask[:10, :15] = False
    boxes = [as_row("bench", 0.9, mask, False), as_row("bench", 0.3, mask, False), as_row("dog", 0.9, mask, False)]
    clauses = [{"class": "bench", "count": 1, "color": "red"}, {"class": "dog", "count": 1}]
    item = Item("x", detail={"include": clauses})
    seen = []
    encode = made._encoder.image

    def watched(cut):
        seen.append(cut)
        return encode(cut)

    monkeypatch.setattr(made._encoder, "image", watched)
    (row,) = made(image[None], [item], {"mask2former": [{"boxes": boxes}]})
    assert ClipColours.questions(item) == ("bench",)
    # Above 0.3, and of a class whose colour is asked for.
    assert [word is None for word in row["colours"]] == [False, True, True]
    (cut,) = seen
    assert cut.shape == (20, 30, 3)
    assert (cut[:5, :5] == 0x99).all()
    np.testing.assert_array_equal(cut[5:], image[10:25, 10:40])
    # By hand: three prompts a colour, normalised, averaged, normalised.
    vector = encode(cut)
    scores = []
    for colour in COLOURS:
        forms = (
            f"a photo of a {colour} bench",
            f"a photo of a {colour}-colored bench",
            f"a photo of a {colour} object",
        )
        mean = torch.stack([made._encoder.text(form) for form in forms]).mean(0)
        scores.append(float(mean @ vector / mean.norm()))
    assert row["similarities"][0] == pytest.approx(scores, abs=1e-6)
    assert row["colours"][0] == COLOURS[int(np.argmax(scores))]


# --- To records


def draw(prompts, seeds):
    """Images that depend on their seeds."""
    return np.stack([np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8) for seed in seeds])


@pytest.mark.parametrize("mode", ["", "_upstream", "_original"])
def test_geneval_from_images_to_a_record(mode, prompts_installed):
    key = f"geneval_overall{mode}"
    record = db.evaluate(draw, prompts=PromptChoice(name="geneval", layout="1x"), metrics=key, num=3, name="noise")
    assert record.values[key].scored == 3
    assert {f"geneval_image_mean{mode}", f"geneval_single_object{mode}"} <= record.values.keys()
    assert record.protocol.judges.keys() == {f"mask2former{mode}", f"clip_colours{mode}"}
    lines = record.evidence[f"mask2former{mode}.jsonl"].text.splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["row"]["boxes"] for line in lines)


def test_genai_bench_from_images_to_a_record(prompts_installed):
    record = db.evaluate(draw, metrics="genaibench_overall", num=20, name="noise")
    rows = [json.loads(line) for line in record.evidence["clip-flant5-xxl.jsonl"].text.splitlines()]
    odds = [row["row"]["probability"] for row in rows]
    assert record.values["genaibench_overall"].value == pytest.approx(np.mean(odds))
    items = PROMPTS.load("genai_bench").open("public-0").items[:20]
    tags = Counter(tag for item in items for tag in item.tags)
    for tag, number in tags.items():
        value = record.values[f"genaibench_{tag.replace(' ', '_')}"]
        own = [one for one, item in zip(odds, items, strict=True) if tag in item.tags]
        assert (value.value, value.scored) == (pytest.approx(np.mean(own)), number)
    assert record.values["genaibench_all_tagged"].scored == sum(bool(item.tags) for item in items)
    assert record.protocol.judges["clip-flant5-xxl"].precision == "bfloat16"


def test_vqascore_and_clipscore_share_images_of_any_prompts(prompts_installed):
    keys = ("vqascore_qwen3-vl-2b", "vqascore_clip-flant5-xl", "clipscore")
    record = db.evaluate(draw, prompts="parti_prompts", metrics=keys, num=4, name="noise")
    for key in keys:
        assert record.values[key].scored == 4
    assert "vqascore_qwen3-vl-2b_category_abstract" in record.values
    assert -1 <= record.values["clipscore"].value <= 1


def test_dense_prompts_from_images_to_a_record(monkeypatch, prompts_installed):
    source = PROMPTS.load("dpg_bench")
    questions = io.StringIO()
    table = csv.writer(questions)
    table.writerow(["item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language"])
    texts = source.open("public-0").items
    for item in texts:
        table.writerow([item.key, item.text, 1, 0, "entity - whole (it)", "Is it there?"])
        table.writerow([item.key, item.text, 2, 1, "attribute - color (it, red)", "Is it red?"])
    content = {"dpg_bench.csv": questions.getvalue().encode()}
    monkeypatch.setattr(source, "_read", lambda files: read_dpg({**files, **content}))
    from diffusionbench.prompts import pinned

    pinned._items.cache_clear()
    try:
        keys = tuple(f"dpgbench_qwen3-vl-8b{mode}" for mode in ("", "_upstream", "_original"))
        record = db.evaluate(draw, metrics=keys, num=8, name="noise")
    finally:
        pinned._items.cache_clear()
    assert isinstance(source, PinnedPrompts)
    rows = [json.loads(line)["row"] for line in record.evidence["qwen3-vl-8b_checklist.jsonl"].text.splitlines()]
    assert [one["question"] for one in rows[0]["answers"]] == ["Is it there?", "Is it red?"]
    yes = np.array([[one["answer"] == "yes" for one in row["answers"]] for row in rows], float)
    assert record.values[keys[0]].value == pytest.approx(np.mean([(a + a * b) / 2 for a, b in yes]))
    assert record.values[f"{keys[0]}_entity"].value == pytest.approx(yes[:, 0].mean())
    assert {f"{keys[0]}_soft_am", f"{keys[0]}_soft_gm"} <= record.values.keys()
    # The first row is skipped: its child has an unknown parent, and the original loses the item's four images.
    assert record.values[keys[2]].unscored == 4
    assert set(METRICS[keys[0]].judges) == {f"{dpgbench.ANSWERERS[1]}_checklist"}
