"""Prompt sets in files outside the package: brought, verified, listed, and a new one with a known judge."""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

import diffusionbench as db
from diffusionbench.available import prompt_facts
from diffusionbench.benchmarks.dpgbench.prompts import from_archive
from diffusionbench.cli import app
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS
from diffusionbench.prompts.pinned import in_order, prepare_prompts, read_jsonl
from diffusionbench.specs import MetricSpec
from diffusionbench.writing import prompt_folder

FILES = [name for name, row in PROMPTS.items() if row.files]


def test_six_sets_are_registered_with_count_hash_licence_and_source():
    assert FILES == ["geneval", "dpg_bench", "dsg1k", "genai_bench", "t2i_compbench", "parti_prompts"]
    for name in FILES:
        row = PROMPTS[name]
        assert row.count
        assert row.licence
        assert "commit" in row.source
        assert row.url is not None
        assert row.url.startswith("https://")
        assert row.source.split("commit ")[1].split(",")[0] in row.url
        assert all(sha256 == "" or len(sha256) == 64 for sha256 in row.files.values())


def test_counts_and_tags_are_those_of_their_provenance(prompts_installed):
    opened = {name: PROMPTS.load(name).open("public-0") for name in FILES}
    assert {name: len(one.items) for name, one in opened.items()} == {
        "geneval": 553, "dpg_bench": 1065, "dsg1k": 1060, "genai_bench": 1600, "t2i_compbench": 2400,
        "parti_prompts": 1632,
    }  # fmt: skip
    assert {name: one.images_per_prompt for name, one in opened.items()} == {
        "geneval": 4, "dpg_bench": 4, "dsg1k": 1, "genai_bench": 1, "t2i_compbench": 1, "parti_prompts": 1
    }  # fmt: skip
    skills = Counter(tag for item in opened["genai_bench"].items for tag in item.tags)
    assert skills == {
        "basic": 722, "advanced": 871, "attribute": 553, "scene": 360, "spatial relation": 386,
        "action relation": 467, "part relation": 195, "counting": 340, "comparison": 162, "differentiation": 296,
        "negation": 347, "universal": 147,
    }  # fmt: skip
    untagged = [item.key for item in opened["genai_bench"].items if not item.tags]
    assert untagged == [f"genai_bench/{number:05d}" for number in (719, 721, 730, 733, 739, 743, 951)]
    # A text that stands twice is two prompts.
    assert len(set(opened["dsg1k"].texts)) == 1059
    assert sum(len(item.detail["questions"]) for item in opened["dsg1k"].items) == 8182
    assert set(Counter(item.tags for item in opened["t2i_compbench"].items).values()) == {300}
    assert len(PROMPTS.load("geneval").open("public-0", "1x").samples()) == 553


def test_what_is_not_here_says_how_to_get_it():
    with pytest.raises(RequestError, match=r"is not here: evaluation_metadata\.jsonl is absent\. Run: diffusionbench"):
        PROMPTS.load("geneval").open("public-0")
    assert not prompt_facts(PROMPTS["geneval"])["present"]
    assert "not here: diffusionbench prepare prompts geneval" in prompt_facts(PROMPTS["geneval"])["text"]
    with pytest.raises(RequestError, match="comes with the package"):
        prepare_prompts(PROMPTS["simpleeval_v1"])


LINES = [
    {"key": "new/0", "prompt": "a cat", "tags": ["one"]},
    {"key": "new/1", "prompt": "a cat", "tags": ["two"]},
    {"key": "new/2", "prompt": "two dogs ", "tags": ["two"]},
]


def test_files_are_fetched_from_their_place_and_verified(new_set, tmp_path):
    row = new_set(LINES)
    (path,) = prepare_prompts(row)
    assert path == prompt_folder("new") / "list.jsonl"
    opened = PROMPTS.load("new").open("public-0")
    assert opened.texts == ("a cat", "a cat", "two dogs ")
    assert [json.loads(line) for line in opened.jsonl.splitlines()] == LINES
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match="does not have the SHA-256 of the pinned file"):
        PROMPTS.load("new").open("public-0")
    (tmp_path / "remote" / "list.jsonl").write_text("other")
    with pytest.raises(DataError, match=r"list.jsonl with SHA-256 [0-9a-f]{12}..., and the one found has [0-9a-f]{12}"):
        prepare_prompts(row)
    assert path.read_text() != "other"
    (tmp_path / "remote" / "list.jsonl").unlink()
    with pytest.raises(RequestError, match=r"prompt set 'new' cannot be fetched from file.*with --from"):
        prepare_prompts(row)


def test_a_local_file_may_have_another_name(new_set, tmp_path):
    row = new_set(LINES)
    (tmp_path / "mine").mkdir()
    (tmp_path / "remote" / "list.jsonl").rename(tmp_path / "mine" / "renamed.txt")
    prepare_prompts(row, tmp_path / "mine")
    assert len(PROMPTS.load("new").open("public-0").items) == 3
    with pytest.raises(DataError, match=r"does not exist\. Give a file, or a folder that holds: list\.jsonl"):
        prepare_prompts(row, tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"needs list.jsonl \(SHA-256 [0-9a-f]{12}\), which is not in"):
        prepare_prompts(row, tmp_path / "remote")


@pytest.mark.parametrize(
    "questions, sentence",
    [
        ([("a", ["b"]), ("b", ["a"])], "item 'new/0': questions a, b are each other's parents in a circle"),
        ([("a", ["c"])], "item 'new/0': question a has the parent c, which is not among them"),
        ([("a", []), ("a", [])], "item 'new/0' has question a twice"),
    ],
)
def test_a_graph_that_is_none_is_one_sentence(new_set, questions, sentence):
    asked = [{"id": name, "question": f"{name}?", "parents": parents} for name, parents in questions]
    row = new_set([{"key": "new/0", "prompt": "a cat", "detail": {"questions": asked}}])
    prepare_prompts(row)
    with pytest.raises(DataError) as error:
        PROMPTS.load("new").open("public-0")
    assert sentence in str(error.value)


def test_parents_are_put_before_their_children():
    asked = [{"id": 3, "parents": [2]}, {"id": 1, "parents": []}, {"id": 2, "parents": [1]}, {"id": 4, "parents": []}]
    assert [one["id"] for one in in_order(asked, "x")] == [1, 4, 2, 3]


def test_the_repository_s_texts_become_the_pinned_list(shared):
    with tarfile.open(shared("prompts", "dpg_bench", "prompts.tar")) as given:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as made:
            for member in given:
                content = given.extractfile(member).read()
                member.name = f"ELLA-3c22/dpg_bench/{member.name}"
                made.addfile(member, io.BytesIO(content))
    files = from_archive(packed.getvalue())
    assert hashlib.sha256(files["prompts.jsonl"]).hexdigest() == PROMPTS["dpg_bench"].files["prompts.jsonl"]
    with pytest.raises(DataError, match="what was fetched is no archive"):
        from_archive(b"<html>")


def test_the_command_line_prepares_and_lists(new_set, tmp_path):
    new_set(LINES)
    done = CliRunner().invoke(app, ["prepare", "prompts", "new", "--from", str(tmp_path / "remote")])
    assert done.exit_code == 0, done.output
    assert str(prompt_folder("new") / "list.jsonl") in done.output
    for out, wanted in (("texts.txt", "a cat\na cat\ntwo dogs \n"), ("all.jsonl", None)):
        done = CliRunner().invoke(app, ["prompts", "--set", "new", "--out", str(tmp_path / out)])
        assert done.exit_code == 0, done.output
        content = (tmp_path / out).read_text()
        assert content == (wanted or PROMPTS.load("new").open("public-0").jsonl)
    assert "texts that stand more than once: 1" in done.output


def test_a_new_benchmark_with_a_known_judge_is_a_file_and_a_row(new_set, hub_installed, monkeypatch):
    prepare_prompts(new_set(LINES))
    row = MetricSpec(
        key="new_score",
        title="a new benchmark",
        higher_is_better=True,
        axis="t2i",
        judges=("clip_vit_l14",),
        items="prompts",
        prompts="new",
        load="diffusionbench.metrics.text_match:TextMatch",
    )
    monkeypatch.setitem(METRICS._rows, "new_score", row)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    record = db.evaluate(images_of(images), prompts="new", metrics="new_score", num=6, name="noise")
    judge = JUDGES.load("clip_vit_l14")()
    samples = PROMPTS.load("new").open("public-0").samples()
    scores = [one["score"] for one in judge(images, [sample.item for sample in samples])]
    assert record.values["new_score"].value == pytest.approx(np.mean(scores))
    assert record.values["new_score_one"].value == pytest.approx(np.mean(scores[:2]))
    assert record.values["new_score_two"].value == pytest.approx(np.mean(scores[2:]))
    # Two images of a prompt are one independent draw.
    means = np.reshape(scores, (3, 2)).mean(axis=1)
    assert record.values["new_score"].stderr == pytest.approx(means.std(ddof=1) / np.sqrt(3))
    assert record.values["new_score"].method == "prompts"


def images_of(images):
    """A source of images by the seeds of their samples."""
    known = {}

    def draw(prompts, seeds):
        return np.stack([images[known.setdefault(seed, len(known))] for seed in seeds])

    return draw


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "it holds no prompt"),
        ("\n\n", "it holds no prompt"),
        ("[1]", "line 1 is no JSON object"),
        ('{"key": "a", "prompt": "x"}\n3', "line 2 is no JSON object"),
        ('{"key": 3, "prompt": "x"}', "line 1: key is no text"),
        ('{"key": "a", "prompt": ["x"]}', "line 1: prompt is no text"),
        ('{"key": "a", "prompt": " "}', "line 1: prompt is no text"),
        ('{"key": "a", "prompt": "\\ud800"}', "line 1: prompt is no text"),
        ('{"key": "../../a", "prompt": "x"}', "key '../../a' leads out of the folder of images"),
        ('{"key": "/a", "prompt": "x"}', "key '/a' leads out"),
        ('{"key": "a", "prompt": "x", "tags": "abc"}', "tags are no list of texts"),
        ('{"key": "a", "prompt": "x", "tags": [["a"]]}', "tags are no list of texts"),
        ('{"key": "a", "prompt": "x", "detail": []}', "detail is no JSON object"),
    ],
)
def test_lines_that_are_no_prompts_are_named(content, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        list(read_jsonl({"mine.jsonl": content.encode()}))


def test_marks_and_line_ends_of_other_systems_change_nothing():
    lines = [b'{"key": "a", "prompt": "x", "tags": ["t"]}', b'{"key": "b/1", "prompt": "y"}']
    plain = list(read_jsonl({"mine.jsonl": b"\n".join(lines)}))
    assert [(item.key, item.text, item.tags) for item in plain] == [("a", "x", ("t",)), ("b/1", "y", ())]
    assert list(read_jsonl({"mine.jsonl": b"\xef\xbb\xbf" + b"\r\n".join(lines) + b"\r\n"})) == plain
