"""Pages of images: what stands on them, that nothing of a stranger's runs, and how they work in a browser."""

import json
import re
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner
from viewed import HOSTILE, TEXTS, attached, boxed_record, pictures

from diffusionbench.cli import app
from diffusionbench.record import PER_SAMPLE
from diffusionbench.study.comparison import compare
from diffusionbench.views import viewer
from diffusionbench.views.viewer import flips_page, record_page


def cards_of(page: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture
def shown(tmp_path):
    return record_page(tmp_path / "r.json", boxed_record(), pictures, TEXTS)


def test_a_card_holds_what_is_known_of_its_image(shown):
    cards = cards_of(shown)
    assert [card["verdict"] for card in cards] == ["right", "wrong", "not scored", "right", "wrong", "right"]
    assert [card["task"] for card in cards] == ["counting"] * 2 + ["colors"] * 2 + ["position"] * 2
    first, wrong = cards[0], cards[1]
    assert (first["title"], first["text"]) == ("geneval/00000 #0", "three <b>dogs</b>")
    image = first["images"][0]
    assert (image["width"], image["height"]) == (80, 64)
    assert image["boxes"] == [[8, 10, 40, 60.5, "dog", 0.91], [30, 4, 70, 50, HOSTILE, None]]
    assert first["answers"] == [[f"is there {HOSTILE}?", "yes", 0.625, "seen"]]
    assert ["because", "expected 3 dogs, found 1"] in wrong["facts"]
    assert ["not scored", "image 2: too dark"] in cards[2]["facts"]
    assert "src" not in cards[5]["images"][0]
    assert "1 images cannot be shown" in shown


def test_facts_asked_for_and_seen_are_a_verdict(tmp_path):
    """As SimpleEval writes them: name, what was asked for, what was seen."""
    verdicts = {
        "0": [["count", "two", "two"], ["colour", "red", "red"]],
        "1": [["count", "two", "three"], ["colour", HOSTILE, "red"]],
    }
    record = boxed_record().model_copy(update={"extra": {"facts": {"simpleeval_shapes_v1": {"verdicts": verdicts}}}})
    right, wrong, *_ = cards_of(record_page(tmp_path / "r.json", record, pictures, TEXTS))
    assert [card["verdict"] for card in (right, wrong)] == ["right", "wrong"]
    assert right["answers"][1:] == [["count: two?", "two", None, None], ["colour: red?", "red", None, None]]
    assert wrong["answers"][1:] == [["count: two?", "three", None, None], [f"colour: {HOSTILE}?", "red", None, None]]


@pytest.mark.parametrize(
    "key, verdicts",
    [
        ("precision_efflite0", ["inside the reference", "outside the reference"]),
        ("accuracy_digits", ["right", "wrong"]),
        ("geneval_ssd", ["right", "wrong"]),
        # A distance of 0 is the best there is; what another package computes is not known.
        ("pd_efflite0", ["scored", "scored"]),
        ("brightness", ["scored", "scored"]),
    ],
)
def test_a_verdict_is_what_the_metric_says_of_an_image(tmp_path, key, verdicts):
    text = json.dumps({"samples": [[i, "unknown", 0, "0" * 64] for i in range(2)], "values": {key: [1.0, 0.0]}})
    record = boxed_record().model_copy(update={"evidence": {PER_SAMPLE: attached(text)}, "extra": {}})
    cards = cards_of(record_page(tmp_path / "r.json", record, pictures, {}))
    assert [card["verdict"] for card in cards[:2]] == verdicts
    assert [card["score"] for card in cards[:2]] == ([1.0, 0.0] if verdicts[0] == "scored" else [None, None])


def test_inspect_puts_the_page_beside_the_record(tmp_path):
    boxed_record().save(tmp_path / "r.json")
    inspect = partial(CliRunner().invoke, app)
    shown = inspect(["inspect", str(tmp_path / "r.json")])
    assert shown.exit_code == 0, shown.output
    assert "geneval_overall" in shown.stdout
    assert shown.stdout.splitlines()[-1] == str(tmp_path / "r.html")
    assert len(cards_of((tmp_path / "r.html").read_text())) == 6
    # The same command replaces its page, and nothing else.
    assert inspect(["inspect", str(tmp_path / "r.json")]).exit_code == 0
    (tmp_path / "r.html").write_text("years of work")
    kept = inspect(["inspect", str(tmp_path / "r.json")])
    assert (kept.exit_code, (tmp_path / "r.html").read_text()) == (0, "years of work")
    assert "no page of its images: " in kept.stderr
    for name, words in (("bare", []), ("json", ["--json"])):
        record = boxed_record().model_copy(update={"evidence": {}} if name == "bare" else {})
        record.save(tmp_path / f"{name}.json")
        assert inspect(["inspect", str(tmp_path / f"{name}.json"), *words]).exit_code == 0
        assert not (tmp_path / f"{name}.html").exists()


def test_options_that_would_play_no_part_are_refused(tmp_path):
    file, page = str(tmp_path / "r.json"), tmp_path / "mine.html"
    boxed_record().save(tmp_path / "r.json")
    for words, message in (
        (("--sample", "0", "--page", str(page)), "--sample prints what is known of one image"),
        (("--sample", "0", "--stores", str(tmp_path)), "--sample prints what is known of one image"),
        (("--page", str(page), "--stores", str(tmp_path / "none")), "there is no such folder"),
        (("--page", str(page), "--stores", file), "there is no such folder"),
    ):
        done = CliRunner().invoke(app, ["inspect", file, *words])
        assert message in str(done.exception)
    assert not page.exists()


def test_nothing_of_a_stranger_is_markup(shown):
    assert shown.count("<script") == 2
    assert "onerror=" not in shown.replace("\\u003cimg src=x onerror=", "")
    assert not re.search(r'(?:src|href)="(?!data:)', shown)


def test_a_page_says_what_it_leaves_out(monkeypatch, tmp_path):
    monkeypatch.setattr(viewer, "MOST", 4)
    page = record_page(tmp_path / "r.json", boxed_record(), None, {})
    assert len(cards_of(page)) == 4
    assert "2 are left out" in page
    assert "The images are not stored here: name the folder of their store with --stores, or score them again" in page
    assert cards_of(page)[0]["task"] == "geneval"


@pytest.mark.parametrize("side, kind", [(8, "png"), (64, "png"), (65, "webp"), (800, "webp")])
def test_small_images_lose_nothing_and_large_ones_are_reduced(side, kind):
    found = viewer.picture(np.zeros((side, side, 3), np.uint8), "")
    assert found["src"].startswith(f"data:image/{kind};base64,")
    assert (found["width"], found["height"]) == (side, side)
    assert len(found["src"]) < 3000


def test_flipped_images_lie_side_by_side(tmp_path):
    records = boxed_record("one"), boxed_record("two", (1.0, 1.0, None, 0.0, 0.0, 1.0))
    paths = tmp_path / "a.json", tmp_path / "b.json"
    values = [record.values["geneval_overall"].model_copy(update={"value": 0.6}) for record in records]
    records = tuple(
        record.model_copy(update={"values": {"geneval_overall": value}})
        for record, value in zip(records, values, strict=True)
    )
    page = flips_page(records, compare(*records, paths=paths), (pictures, None))
    cards = cards_of(page)
    assert [(card["title"], card["verdict"]) for card in cards] == [
        ("geneval/00000 #1", "right in the second only"),
        ("geneval/00001 #1", "right in the first only"),
    ]
    assert [image["name"] for image in cards[0]["images"]] == ["one: wrong", "two: right"]
    assert ["src" in image for image in cards[0]["images"]] == [True, False]
    assert "The images of two are not stored here" in page


# --- In a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "page.html").write_text(record_page(folder / "r.json", boxed_record(), pictures, TEXTS), encoding="utf-8")
    return folder / "page.html"


@pytest.mark.browser
@pytest.mark.parametrize("width, scheme", [(1400, "light"), (400, "dark")])
def test_the_page_in_a_browser(browser, page_file, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(120_000)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.on("request", lambda request: None if request.url[:5] in ("file:", "data:") else wrong.append(request.url))
    page.goto(page_file.as_uri())
    assert page.inner_text("#count") == "6 of 6 cards"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("article").count() == 6
    assert page.locator("article").first.locator("rect:not(.under)").count() == 2
    box = page.locator("article").first.locator("rect:not(.under)").first
    assert [box.get_attribute(name) for name in ("x", "y", "width", "height")] == ["8", "10", "32", "50.5"]

    page.keyboard.press("v")
    assert page.input_value("select[name=verdict]") == "right"
    assert page.inner_text("#count") == "3 of 6 cards"
    page.keyboard.press("t")
    assert page.inner_text("#count") == "1 of 6 cards"
    page.select_option("select[name=verdict]", "wrong")
    page.select_option("select[name=task]", "")
    assert page.inner_text("#count") == "2 of 6 cards"
    page.locator("#cards").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("article[aria-current]").get_attribute("data-index") == "1"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert "geneval/00000 #1" in page.inner_text("dialog")
    assert "is there </script>" in page.inner_text("dialog table")
    assert "expected 3 dogs, found 1" in page.inner_text("dialog")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.keyboard.press("ArrowRight")
    assert "geneval/00002 #0" in page.inner_text("dialog")
    page.keyboard.press("Escape")
    assert not page.evaluate("document.querySelector('dialog').open")
    page.keyboard.press("/")
    page.keyboard.type("00002")
    assert page.inner_text("#count") == "1 of 6 cards"
    context.close()
    assert wrong == []
