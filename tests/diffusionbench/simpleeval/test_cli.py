"""The commands around SimpleEval, as a user types them."""

import hashlib
import json
import os

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffusionbench.benchmarks.simpleeval import claims
from diffusionbench.benchmarks.simpleeval.evidence import wanted
from diffusionbench.benchmarks.simpleeval.prompts import build
from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer
from diffusionbench.cli import app
from diffusionbench.errors import RequestError, UserError
from diffusionbench.prompts import PromptChoice

RUNNER = CliRunner()


def call(*words, code=0):
    result = RUNNER.invoke(app, list(words))
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout


def test_prompts_writes_the_file_it_names(tmp_path):
    text = call("prompts", "--set", "simpleeval_shapes_v1", "--out", str(tmp_path))
    file = tmp_path / "prompts.jsonl"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == build("shapes", "public-0", "quick").digest
    assert f"sha256 {digest}" in text
    assert "72 blocks, 288 prompts (288 different), 576 images" in text
    assert len(file.read_text().splitlines()) == 288
    facts = json.loads(call("prompts", "--set", "simpleeval_shapes_v1", "--seed", "public-1", "--json"))
    assert facts["prompts"] == 288
    assert facts["sha256"] != digest
    call("prompts", "--set", "simpleeval_shapes_v1", "--out", str(tmp_path))
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    file.write_text('{"prompt": "mine"}')
    for words in (("prompts", "--set", "simpleeval_shapes_v1", "--out", tmp_path), ("stress", "--out", file)):
        with pytest.raises(RequestError, match="it would be lost"):
            call(*map(str, words))
    assert file.read_text() == '{"prompt": "mine"}'


def test_prompts_of_a_bound_seed(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights")
    call("prompts", "--set", "simpleeval_shapes_v1", "--weights", str(weights), "--out", str(tmp_path))
    seed = claims.bound_seed(hashlib.sha256(b"weights").hexdigest())
    assert json.loads((tmp_path / "prompts.jsonl").read_text().splitlines()[0])["id"].startswith(seed)
    told = call("simpleeval", "verify", "--seed", seed, "--weights", str(weights))
    assert told.startswith(
        f"{seed} follows from these weights\nnot ranked: the SHA-256 of the weights was not published"
    )
    weights.write_bytes(b"others")
    with pytest.raises(RequestError, match="does not follow"):
        call("simpleeval", "verify", "--seed", seed, "--weights", str(weights))


def test_wrong_words_are_told():
    with pytest.raises(UserError, match="Did you mean 'simpleeval_shapes_v1'"):
        call("prompts", "--set", "simpleeval_shapes")
    with pytest.raises(RequestError, match="no seed"):
        call("prompts", "--set", "simpleeval_shapes_v1", "--seed", "mine")
    with pytest.raises(RequestError, match="Did you mean 'standard'"):
        call("prompts", "--set", "simpleeval_shapes_v1", "--layout", "standart")
    bound = ("--seed", "bound-1", "--digest", "ab" * 32)
    for words in (
        *((), bound[:2], (*bound, "--weights", "x"), (*bound, "--name", "x"), ("--beacon", "7")),
        *(("--record", "x", "--seed", "bound-1"), ("--record", "x", "--beacon", "7")),
        ("--name", "x", "--secret", "x", "--commitment", "x", "--beacon", "7"),
    ):
        with pytest.raises(RequestError, match="one thing is verified at a time"):
            call("simpleeval", "verify", *words)
    for words, message in (
        (("--weights", "x", "--seed", "public-1"), "--weights binds a seed of its own"),
        (("--beacon", "7"), "--beacon belongs to a seed that is bound"),
    ):
        with pytest.raises(RequestError, match=message):
            call("prompts", "--set", "simpleeval_shapes_v1", *words)
    with pytest.raises(RequestError, match="beacon is empty"):
        call("simpleeval", "verify", *bound, "--beacon", "")
    with pytest.raises(RequestError, match="no such file"):
        call("prompts", "--set", "simpleeval_shapes_v1", "--weights", "nowhere.safetensors")
    with pytest.raises(RequestError, match="unknown attack"):
        call("stress", "--attacks", "A99")
    with pytest.raises(RequestError, match="layout"):
        call("stress", "--layout", "quik", "--attacks", "A7")


def test_a_run_refuses_seeds_that_do_not_follow(tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")

    def run(*words, **claim):
        file = tmp_path / "claim.yaml"
        file.write_text(json.dumps(claim))
        call("run", str(tmp_path), "--axis", "t2i", "--metrics", "simpleeval_shapes_v1", "--claim", str(file), *words)

    sealed = "sealed-autumn-" + "0a" * 32
    with pytest.raises(RequestError, match="not the one committed to"):
        run(seed=sealed, commitment="0" * 64)
    os.mkfifo(tmp_path / "pipe")
    for name in ("model.safetensors", "pipe", "."):
        with pytest.raises(RequestError, match="no such file"):
            run(seed="public-0", weights=name)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(RequestError, match="does not follow from these weights"):
        run(seed="bound-" + "0" * 32, weights="model.safetensors")
    with pytest.raises(RequestError, match="--prompts names the set 'x' and the claim 'simpleeval_v1'"):
        run("--prompts", "x", set="simpleeval_v1")
    (tmp_path / "0.jpg").write_bytes((tmp_path / "0.png").read_bytes())
    with pytest.raises(UserError, match="are both image 0"):
        run("--layout", "flat", seed="public-0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 7", "seed is 7, and a line of 1 to 1,000 printable characters is allowed"),
        ("sed: public-0", "unknown key 'sed'. Did you mean 'seed'"),
        ("- seed", "does not consist of 'key: value' lines"),
        ("just words", "does not consist of 'key: value' lines"),
        ("", "does not consist of 'key: value' lines"),
        ("1: 2", "does not consist of 'key: value' lines"),
        ("seed: [", "is not valid YAML"),
        ("seed: a\nseed: b", "is not valid YAML"),
        ("networks: clip", "networks is 'clip', and a list of texts, such as [a, b], is allowed"),
        ('beacon: "\\e[2J"', "beacon is '\\x1b[2J', and a line of 1 to 1,000 printable characters is"),
        (f"beacon: {'9' * 5000}", "is not valid YAML"),
        ("&a [*a, *a]", "does not consist of 'key: value' lines"),
        ("[" * 9000, "is not valid YAML"),
        ("x" * 20_000, "has 20,000 bytes"),
        ("weights: ''", "weights is '', and a line of"),
        ("public: nowhere.json", "nowhere.json"),
    ],
)
def test_a_bad_claim_file_is_one_sentence(text, said, tmp_path):
    file = tmp_path / "claim.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        claims.read_claim(file).choice("simpleeval_shapes_v1", "simpleeval_shapes_v1")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="cannot be read"):
        claims.read_claim(tmp_path / "none.yaml")


def test_a_claim_file_names_its_facts(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    file = tmp_path / "claim.yaml"
    file.write_text("weights: model.safetensors\nnetworks: [openai/clip, sd-vae]\nbeacon: round 7\nlayout: quick\n")
    choice = claims.read_claim(file).choice("simpleeval_shapes_v1", "simpleeval_shapes_v1")
    claim = claims.claim_of(choice)
    assert (choice.seed, choice.layout) == ("public-0", "quick")
    assert claim.weights_digest == hashlib.sha256(b"weights").hexdigest()
    assert (claim.beacon, claim.networks, claim.public, claim.again) == ("round 7", ("openai/clip", "sd-vae"), None, {})


def test_requests_of_before_keep_their_claim():
    flat = {"weights_digest": "ab" * 32, "beacon": "7", "commitment": None, "networks": ["clip"]}
    flat |= {"public": [0.5, 0.1], "again": {"a/0": 1.0}}
    choice = PromptChoice.model_validate({"name": "simpleeval_v1", "seed": "public-1", "layout": None, **flat})
    assert (choice.seed, choice.claim) == ("public-1", flat)
    assert PromptChoice.model_validate(choice.model_dump(mode="json")) == choice
    assert claims.claim_of(choice).public == (0.5, 0.1)


def test_sealed_sets_are_verified():
    secret = "0a" * 32
    published = claims.commitment("autumn", secret)
    words = ["simpleeval", "verify", "--name", "autumn", "--secret", secret, "--commitment"]
    told = call(*words, published)
    assert f"sealed-autumn-{secret}" in told
    # What the submitter calls the commitment is no proof.
    assert "not ranked: that commitment is not in the repository's list" in told
    with pytest.raises(RequestError, match="not the one committed to"):
        call(*words, "0" * 64)


def test_folder_to_record_to_verification(tmp_path, monkeypatch):
    """Somebody's folder is scored, its record verified, and a changed record is refused."""

    def all_right(scorer, images, prompts):
        return [np.broadcast_to(wanted(prompt), (2, 4, len(prompt.questions))) for prompt in prompts]

    monkeypatch.setattr(ShapesScorer, "predict", all_right)
    grey = Image.fromarray(np.full((16, 16, 3), 9, np.uint8))
    images = tmp_path / "images"
    for prompt in build("shapes", "public-0", "quick").prompts:
        (images / prompt.id).mkdir(parents=True)
        for k in range(2):
            grey.save(images / prompt.id / f"{k}.png")
    record = tmp_path / "record.json"
    words = ["run", str(images), "--axis", "t2i", "--metrics", "simpleeval_shapes_v1", "--out", str(record)]
    text = call(*words)
    assert "simpleeval_shapes_v1  1.000 [1.000, 1.000]  set public-0" in text
    # One grey picture for everything is no variety, whatever the answers say.
    assert "flagged: variety" in text
    assert "status flagged" in call("simpleeval", "verify", "--record", str(record))
    changed = json.loads(record.read_text())
    changed["extra"]["facts"]["simpleeval_shapes_v1"]["status"] = "ranked"
    record.write_text(json.dumps(changed))
    with pytest.raises(RequestError, match="calls itself ranked, but guard variety is raised"):
        call("simpleeval", "verify", "--record", str(record))
    changed["extra"]["facts"]["simpleeval_shapes_v1"]["guards"] = {}
    record.write_text(json.dumps(changed))
    with pytest.raises(RequestError, match="calls itself ranked, but the seed is public"):
        call("simpleeval", "verify", "--record", str(record))
    changed["extra"]["facts"]["simpleeval_shapes_v1"]["set_digest"] = "0" * 64
    record.write_text(json.dumps(changed))
    with pytest.raises(RequestError, match="another version or changed"):
        call("simpleeval", "verify", "--record", str(record))
    with pytest.raises(RequestError, match=r"needs a prompt set, and neither .* name it .diffusionbench: --prompts"):
        call("run", str(images), "--axis", "t2i", "--metrics", "clipscore")


def test_images_to_sample_again_are_drawn_at_random(tmp_path):
    words = ["prompts", "--set", "simpleeval_shapes_v1", "--again"]
    with pytest.raises(RequestError, match="--again writes a file"):
        call(*words)
    rows = {row["id"]: row for row in map(json.loads, build("shapes", "public-0", "quick").jsonl.splitlines())}
    drawn = []
    for name in ("a", "b"):
        call(*words, "--out", str(tmp_path / name))
        drawn.append([json.loads(line) for line in (tmp_path / name / "again.jsonl").read_text().splitlines()])
        assert len(drawn[-1]) == round(576 / 50)
        for one in drawn[-1]:
            prompt, k = one["file"].removesuffix(".png").rsplit("/", 1)
            assert (one["text"], one["seed"]) == (rows[prompt]["text"], rows[prompt]["seeds"][int(k)])
    assert drawn[0] != drawn[1]
    call(*words, "--out", str(tmp_path / "a"))
    (tmp_path / "a" / "again.jsonl").write_text("mine")
    with pytest.raises(RequestError, match="it would be lost"):
        call(*words, "--out", str(tmp_path / "a"))
    assert (tmp_path / "a" / "again.jsonl").read_text() == "mine"
