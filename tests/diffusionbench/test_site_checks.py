"""What a reader without a pointer, with weak eyes, on a telephone or behind a slow line meets on each kind of page."""

import re
from pathlib import Path

import pytest
from site_records import hostile, measured, pair
from viewed import TEXTS, boxed_record, pictures

from diffusionbench.study import published
from diffusionbench.views.site.build import build
from diffusionbench.views.viewer import record_page

PAGES = (
    "index.html",
    "index.html#set=measured&hide=",
    "leaderboard.html",
    "leaderboard.html#columns=all",
    "record.html#paper-2026-06.t2i.jit",
    "record.html#hostile.t2i",
    "record.html#nothing",
    "methods.html",
    "methods/flux1-vae.html",
    "metrics.html",
    "metrics/fid.html",
    "contribute.html",
    "data.html",
)
CHECKS = Path(__file__).with_name("page_checks.js").read_text(encoding="utf-8")
CONTRAST, FAULTS = f"({CHECKS}).contrast()", f"({CHECKS}).faults()"
#: Bytes of the first page without scripts and data.
FIRST = 500_000


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site") / "out"
    scores = {"geneval_overall": 0.5, "simpleeval_v1": 0.2}
    lonely = measured("lonely", "class_conditional", {"fid": 9.0})
    build([*published.records(), *pair("one", 4.0, scores), lonely, *hostile()], folder)
    return folder


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400, 360])
def test_every_kind_of_page_passes_the_checks(browser, site, tmp_path, width, scheme):
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(120_000)
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    evidence = tmp_path / "evidence.html"
    evidence.write_text(record_page(tmp_path / "r.json", boxed_record(), pictures, TEXTS), encoding="utf-8")
    for address in (*(f"{site.as_uri()}/{name}" for name in PAGES), evidence.as_uri()):
        page.goto("about:blank")
        page.goto(address)
        if "record.html" in address:
            page.wait_for_selector("h1")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        assert page.evaluate(CONTRAST) == [], address
        assert page.evaluate(FAULTS) == [], address
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "about"}
    assert said == []
    context.close()


@pytest.mark.browser
@pytest.mark.parametrize(
    "markup, fault",
    [
        ("<button></button>", "no name"),
        ("<input>", "no label"),
        ("<img src='data:,'>", "no alt"),
        ("<p id='main'></p>", "id main twice"),
        ("<h4>deep</h4>", "heading after level"),
        ("<table><tr><th>x</th></tr></table>", "no scope"),
        ("<a href='#x'> </a>", "no name"),
    ],
)
def test_the_checks_find_what_they_are_for(browser, site, markup, fault):
    page = browser.new_page()
    page.goto(f"{site.as_uri()}/data.html")
    assert page.evaluate(FAULTS) == []
    page.evaluate("markup => document.querySelector('main').insertAdjacentHTML('beforeend', markup)", markup)
    assert any(fault in one for one in page.evaluate(FAULTS))
    page.evaluate("document.querySelector('main').insertAdjacentHTML('beforeend', '<p class=pale>pale</p>')")
    page.evaluate("document.querySelector('.pale').style.color = '#999'")
    assert any("pale" in one for one in page.evaluate(CONTRAST))
    page.close()


def test_the_first_page_is_small(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert len(bare) < len(text)
    assert len(bare.encode()) + (site / "site.css").stat().st_size < FIRST
