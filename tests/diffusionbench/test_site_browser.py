"""The website in a real Chromium: every control, the numbers of `correlate`, no console error, no network."""

import re
import shlex

import numpy as np
import pytest
from declaring import laptop_protocol
from making import invoke
from site_records import HOSTILE, hostile, measured, pair
from test_costs import digits
from test_seeds import scenes as drawn

from diffusionbench.record import Value
from diffusionbench.study import published
from diffusionbench.study.correlate import fit_line, pearson
from diffusionbench.study.points import select_points
from diffusionbench.views.site.build import build
from diffusionbench.views.terminal import number, span

pytestmark = pytest.mark.browser

PANELS = ("geneval_overall", "dpgbench", "genaibench_overall", "simpleeval_published_2026_06")
LATENT = sorted(point.name for point in select_points(published.records(), family=("latent",)).points)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Published records, a hostile method, and few measured ones: two with both axes, ties, a missing metric."""
    folder = tmp_path_factory.mktemp("site") / "out"
    scores = {"geneval_overall": 0.5, "simpleeval_v1": 0.2}
    few = [
        *pair("one", 4.0, scores, family="pixel"),
        *pair("two", 4.0, {"geneval_overall": 0.6}),
        *pair("a, b", 4.0, {"geneval_overall": 0.7}),
        measured("lonely", "class_conditional", {"fid": 9.0}),
        *pair("nobody's", 5.0, {"geneval_overall": 0.4}, family=None),
        *pair("two words", 5.5, {"geneval_overall": 0.3}, family="diffusion, latent"),
    ]
    build([*published.records(), *few, *hostile()], folder)
    return folder


def new_context(browser, **options):
    """A window of its own; patient, as a busy machine may take its time."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)
    return context


@pytest.fixture(scope="module")
def context(browser):
    context = new_context(browser, viewport={"width": 1240, "height": 1400})
    yield context
    context.close()


@pytest.fixture
def page(context):
    """A page that fails the test on any console error, script error or request beyond the file system."""
    page = context.new_page()
    wrong = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    yield page
    page.close()
    assert wrong == []


@pytest.fixture
def figure(page, site):
    """The first page, as it opens."""
    page.goto((site / "index.html").as_uri())
    return page


def shown(page, key):
    """What a panel prints: r, its interval, n, the line, the note."""
    names = ("r", "fisher", "n", "line", "note")
    return {name: page.inner_text(f'[data-panel="{key}"] [data-stat="{name}"]') for name in names}


def marks(page, key=PANELS[0], only=""):
    return page.eval_on_selector_all(
        f'[data-panel="{key}"] [role=option]{only}', "marks => marks.map((mark) => mark.dataset.name)"
    )


def picked(page, key=PANELS[0]):
    return marks(page, key, '[aria-selected="true"]')


def correlate(key, names, guidance="none", score_set=published.PAPER):
    """The words of `diffusionbench correlate` for the same methods."""
    words = ["correlate", "--set", score_set, "--guidance", guidance, "--x", "fid", "--y", key, "--draws", "0"]
    done = invoke(*words, *(word for name in names for word in ("--select", name)))
    assert done.exit_code == 0, done.output
    row = next(line for line in done.output.splitlines() if "Pearson r" in line)
    _, _, r, fisher, _, _, n, _ = (cell.strip() for cell in row.split("│"))
    line = re.search(r"^line: \w+ = (\S+) (\S+) \* fid$", done.output, re.MULTILINE)
    fitted = f"{line[1]} {line[2]} x" if line else "not defined"
    return {"r": r, "fisher": fisher, "n": n, "line": fitted}


def same_numbers(page, names, guidance="none", score_set=published.PAPER, panels=PANELS):
    for key in panels:
        printed = shown(page, key)
        printed.pop("note")
        assert printed == correlate(key, names, guidance, score_set), key


def drag(page, key, start, end):
    """From one corner to the other, as shares of the panel's drawing."""
    page.locator(f'[data-panel="{key}"] svg').scroll_into_view_if_needed()
    edge = page.locator(f'[data-panel="{key}"] svg').bounding_box()
    at = [(edge["x"] + x * edge["width"], edge["y"] + y * edge["height"]) for x, y in (start, end)]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move((at[0][0] + at[1][0]) / 2, (at[0][1] + at[1][1]) / 2)
    page.mouse.move(*at[1])
    page.mouse.up()


def test_it_opens_on_the_latent_methods_of_the_paper(figure):
    assert sorted(marks(figure)) == LATENT
    assert [shown(figure, key)["r"] for key in PANELS[:3]] == ["-0.2671", "-0.3687", "-0.6201"]
    same_numbers(figure, LATENT)
    assert figure.inner_text('[data-panel="simpleeval_published_2026_06"] h3') == "SimpleEval (published, June 2026)"
    assert figure.is_disabled("#reset")


def test_a_click_on_the_legend_shows_and_hides_a_family(figure):
    pixel = figure.locator('#legend [data-family="pixel"]')
    assert pixel.get_attribute("aria-pressed") == "false"
    pixel.click()
    assert pixel.get_attribute("aria-pressed") == "true"
    assert set(marks(figure)) - set(LATENT) == {"jit", "pixelgen", "pixnerd"}
    assert [shown(figure, key)["r"] for key in PANELS[:3]] == ["-0.6458", "-0.6629", "-0.8122"]
    figure.locator('#legend [data-family="rae"]').click()
    assert shown(figure, PANELS[0])["n"] == "16"
    pixel.click()
    figure.locator('#legend [data-family="rae"]').click()
    assert sorted(marks(figure)) == LATENT
    for family in ("rae", "vae", "e2e-vae"):
        figure.click(f'#legend [data-family="{family}"]')
    assert marks(figure) == []
    assert "hidden family" in shown(figure, PANELS[0])["note"]


def test_the_guidance_switch(figure):
    figure.check('input[value="cfg"]', force=True)
    assert [shown(figure, key)["r"] for key in PANELS[:3]] == ["-0.5553", "-0.5803", "-0.3766"]
    same_numbers(figure, LATENT, "cfg")
    assert "tuned guidance" in figure.text_content(f'[data-panel="{PANELS[0]}"] svg')


def test_the_switch_of_score_sets(figure):
    figure.check(f'input[value="{published.BLOG}"]', force=True)
    keys = (*PANELS[:3], "simpleeval_published_2026_05")
    assert [shown(figure, key)["r"] for key in keys[:2]] == ["-0.3017", "-0.3622"]
    same_numbers(figure, LATENT, score_set=published.BLOG, panels=keys)
    assert figure.inner_text(f'[data-panel="{keys[3]}"] h3') == "SimpleEval (published, May 2026)"


def test_a_rectangle_recomputes_every_panel_and_double_click_resets(figure):
    drag(figure, PANELS[1], (0.12, 0.02), (0.42, 0.6))
    names = picked(figure, PANELS[1])
    assert 4 <= len(names) < 21
    for key in PANELS:
        assert sorted(picked(figure, key)) == sorted(names)
    same_numbers(figure, names)
    assert figure.is_visible(f'[data-panel="{PANELS[1]}"] .box')
    assert not figure.is_visible(f'[data-panel="{PANELS[0]}"] .box')
    checked = figure.eval_on_selector_all("#table-body input:checked", "boxes => boxes.length")
    assert checked == len(names)
    figure.locator(f'[data-panel="{PANELS[2]}"] svg').scroll_into_view_if_needed()
    edge = figure.locator(f'[data-panel="{PANELS[2]}"] svg').bounding_box()
    figure.mouse.dblclick(edge["x"] + edge["width"] * 0.9, edge["y"] + 15)
    assert picked(figure) == []
    assert shown(figure, PANELS[0])["n"] == "21"
    assert not figure.is_visible(f'[data-panel="{PANELS[1]}"] .box')


def test_a_family_that_appears_inside_the_rectangle_joins_the_selection(figure):
    drag(figure, PANELS[0], (0.12, 0.01), (0.99, 0.9))
    before = set(picked(figure))
    figure.click('#legend [data-family="pixel"]')
    assert set(picked(figure)) == before | {"pixelgen"}
    same_numbers(figure, picked(figure))


def test_an_empty_rectangle_is_not_defined(figure):
    drag(figure, PANELS[0], (0.9, 0.05), (0.97, 0.15))
    for key in PANELS:
        printed = shown(figure, key)
        assert (printed["r"], printed["fisher"], printed["n"]) == ("not defined", "not defined", "0")
        assert printed["line"] == "not defined"
        assert "fewer than 3 points" in printed["note"]
    figure.click("#reset")
    assert shown(figure, PANELS[0])["n"] == "21"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_selection_prints_the_digits_of_correlate(page, site, count):
    rng = np.random.default_rng(count)
    guidance = ("none", "cfg")[count % 2]
    names = [str(name) for name in rng.choice(LATENT, count, replace=False)]
    chosen = "".join(f"&select={name}" for name in names)
    page.goto(f"{(site / 'index.html').as_uri()}#set=paper-2026-06&guidance={guidance}{chosen}")
    same_numbers(page, names, guidance)
    commands = page.text_content("#commands").splitlines()
    assert len(commands) == 4
    for key, command in zip(PANELS, commands, strict=True):
        assert command.startswith(
            f"diffusionbench correlate --set paper-2026-06 --guidance {guidance} --x fid --y {key}"
        )
        assert sorted(command.partition("--select ")[2].split(",")) == sorted(names)


def test_statistics_are_those_of_the_library(figure):
    rng = np.random.default_rng(0)
    cases = []
    for n in (0, 1, 2, 3, 4, 5, 12, 200):
        for scale in (1e-6, 1.0, 1e6):
            x = rng.normal(size=n) * scale + 5 * scale
            cases += [(x, rng.normal(size=n)), (np.round(x / scale) * scale, np.round(rng.normal(size=n), 1))]
        cases += [(np.full(n, 0.1), rng.normal(size=n)), (rng.normal(size=n), np.full(n, 0.1))]
        cases.append((np.arange(n) * 0.1, np.arange(n) * -0.3 + 1))
    printed = figure.evaluate(
        "cases => cases.map(([x, y]) => stats.summary(x, y).text)", [[x.tolist(), y.tolist()] for x, y in cases]
    )
    for (x, y), text in zip(cases, printed, strict=True):
        one, line = pearson(x, y, draws=0), fit_line(x, y)
        fitted = "not defined" if line is None else f"{line.intercept:.4f} {line.slope:+.5f} x"
        assert text == {"r": number(one.value), "interval": span(one.fisher), "line": fitted}


def test_decimals_are_rounded_as_python_rounds_them(figure):
    rng = np.random.default_rng(1)
    values = [0.0, -0.0, 0.03125, -0.03125, 0.09375, 0.5, 1.0, -1.0, 0.00005, 2.5, 1234.56785, 1e-9, -1e-9]
    values += [*rng.normal(size=200), *(rng.integers(-(2**12), 2**12, 200) / 2**9)]
    printed = figure.evaluate("values => values.map((v) => [3, 4, 5].map((d) => stats.fixed(v, d, true)))", values[2:])
    assert printed == [[f"{value:+.{digits}f}" for digits in (3, 4, 5)] for value in values[2:]]
    assert figure.evaluate("[stats.fixed(0, 4, true), stats.fixed(-0, 4, true)]") == ["+0.0000", "-0.0000"]


def test_the_address_keeps_a_finding(figure, context):
    figure.click('#legend [data-family="pixel"]')
    figure.check('input[value="cfg"]', force=True)
    drag(figure, PANELS[2], (0.15, 0.05), (0.5, 0.7))
    names, numbers, address = picked(figure), [shown(figure, key) for key in PANELS], figure.url
    assert names
    assert "guidance=cfg" in address
    assert figure.get_attribute("#link", "href") == address[address.index("#") :]
    other = context.new_page()
    other.goto(address)
    assert picked(other) == names
    assert [shown(other, key) for key in PANELS] == numbers
    assert other.is_visible(f'[data-panel="{PANELS[2]}"] .box')
    assert other.is_checked('input[value="cfg"]')
    assert other.get_attribute('#legend [data-family="pixel"]', "aria-pressed") == "true"
    # A link followed on the open page, and nonsense in it.
    other.evaluate("location.hash = 'set=nothing&guidance=x&hide=rae,zzz&select=jit&select=&box=a,b'")
    other.wait_for_function("document.querySelector('[data-stat=n]').textContent === '1'")
    other.evaluate("location.hash = 'hide='")
    other.wait_for_function("document.querySelector('[data-stat=n]').textContent === '26'")
    other.close()


def test_hovering_names_the_method_and_its_values(figure):
    place = figure.locator(f'[data-panel="{PANELS[0]}"] [data-name="flux1-vae"]').bounding_box()
    figure.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    tip = figure.inner_text("#tip")
    for words in ("FLUX.1-VAE", "VAE", "15.75", "0.559", "0.796", "0.684", "GenEval", "DPG-Bench"):
        assert words in tip
    assert figure.locator(".ring:visible").count() == 4
    figure.mouse.move(2, 2)
    assert not figure.is_visible("#tip")


def test_a_click_on_a_point_picks_it(figure):
    for name in ("flux1-vae", "sdxl-vae"):
        place = figure.locator(f'[data-panel="{PANELS[0]}"] [data-name="{name}"]').bounding_box()
        figure.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    assert sorted(picked(figure)) == ["flux1-vae", "sdxl-vae"]
    assert shown(figure, PANELS[3])["r"] == "not defined"


def test_the_keyboard_alone_is_enough(figure):
    svg = figure.locator(f'[data-panel="{PANELS[0]}"] svg')
    svg.focus()
    for key in ("ArrowRight", "Space", "End", "Enter", "ArrowLeft", "Space", "ArrowLeft", "Space"):
        figure.keyboard.press(key)
    active = svg.get_attribute("aria-activedescendant")
    label = figure.get_attribute(f"id={active}", "aria-label")
    assert re.fullmatch(r".+: ImageNet FID, without guidance [\d.]+, GenEval 0\.\d+", label)
    names = picked(figure)
    assert len(names) == 4
    same_numbers(figure, names)
    assert "4 points" in figure.text_content("#live")
    figure.keyboard.press("Escape")
    assert picked(figure) == []
    # The table picks the same points, and the legend and switches are buttons and inputs.
    figure.click("#table summary")
    figure.locator("#table-body input").nth(2).focus()
    figure.keyboard.press("Space")
    assert len(picked(figure)) == 1
    assert figure.inner_text("#table-head").split("\t")[:3] == ["Use", "Method", "Family"]
    assert figure.locator("#table-body tr").count() == 21


def test_a_page_that_cannot_run_scripts_of_records(page, site):
    for name in (
        "index.html#set=measured",
        "leaderboard.html#set=measured-full",
        "record.html#hostile.t2i",
        "methods.html",
    ):
        page.goto(f"{site.as_uri()}/{name}")
        assert page.evaluate("window.broken") is None
        assert HOSTILE.split("'")[0] in page.inner_text("main").replace("\n", "")
    (target,) = {path.name for path in (site / "methods").iterdir() if path.name.startswith("script")}
    page.goto(f"{site.as_uri()}/methods/{target}")
    assert page.inner_text("h1") == HOSTILE
    page.goto(f"{site.as_uri()}/index.html#set=measured")
    place = page.locator('[data-panel="geneval_overall"] [role=option]').first.bounding_box()
    page.mouse.move(place["x"] + 4, place["y"] + 4)
    assert HOSTILE in page.inner_text("#tip")
    # Even markup that slipped in could load and run nothing.
    assert page.evaluate("document.querySelectorAll('main img, main script').length") == 0


def test_few_points_ties_and_missing_metrics(page, site):
    page.goto(f"{(site / 'index.html').as_uri()}#set=measured&hide=")
    assert shown(page, "geneval_overall")["n"] == "6"
    assert page.locator(".panel:visible").count() == 2
    assert page.inner_text("#undrawn").startswith("Left out: no record of set 'measured' holds DPG-Bench; no record of")
    assert shown(page, "simpleeval_v1")["r"] == "not defined"
    assert page.inner_text('[data-panel="simpleeval_v1"] h3') == "SimpleEval (ours, v1)"
    # Families without a name, and with a comma in it, can be hidden and linked too.
    for family in ("not stated", "diffusion, latent"):
        page.click(f'#legend [data-family="{family}"]')
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert shown(page, "geneval_overall")["n"] == "4"
    command = page.text_content("#commands").splitlines()[0]
    words = shlex.split(command)
    rest = words[words.index("--select") + 1]
    assert {"one", "two"} <= set(rest.split(","))
    assert {record.id for record in pair("a, b", 4.0, {})} <= set(rest.split(","))
    page.evaluate("location.hash = 'set=measured&hide=&select=one&select=two&select=a%2C%20b'")
    page.wait_for_function("document.querySelector('[data-stat=n]').textContent === '3'")
    tied = shown(page, "geneval_overall")
    assert (tied["r"], tied["line"], tied["note"]) == (
        "not defined",
        "not defined",
        "not defined: x is the same for every point",
    )
    assert "one" in page.text_content("#commands")
    assert "lonely" in page.text_content("#left-out")
    # A family of one member.
    page.evaluate("location.hash = 'set=measured&hide=rae,vae,e2e-vae,not+stated&hide=diffusion%2C+latent'")
    page.wait_for_function("document.querySelector('[data-stat=n]').textContent !== '3'")
    assert shown(page, "geneval_overall")["r"] == "not defined"


def test_the_leaderboard_sorts_filters_and_keeps_its_address(page, site, context):
    page.goto((site / "leaderboard.html").as_uri())

    def column(index):
        return page.eval_on_selector_all(f"#body tr > :nth-child({index})", "cells => cells.map((c) => c.innerText)")

    heads = page.eval_on_selector_all("#head th", "heads => heads.map((head) => head.dataset.column)")
    assert len(column(1)) == 35
    assert column(2)[0].strip() == "FLUX.2-VAE + REG"
    place = heads.index("geneval_overall") + 1
    page.click('#head [data-column="geneval_overall"] button')
    values = [float(text) for text in column(place) if text != "–"]
    assert values == sorted(values, reverse=True)
    assert values[0] == 0.854
    assert page.get_attribute('#head [data-column="geneval_overall"]', "aria-sort") == "descending"
    page.click('#head [data-column="fid"] button')
    fids = column(heads.index("fid") + 1)
    numbers = [float(text) for text in fids if text != "–"]
    assert numbers == sorted(numbers)
    assert fids[-1] == "–"
    page.click('#head [data-column="fid"] button')
    fids = column(heads.index("fid") + 1)
    assert float(fids[0]) == max(numbers)
    assert fids[-1] == "–"
    page.select_option("#family", "Pixel")
    assert sorted(text.strip() for text in column(2)) == ["JiT", "PixNerd", "PixelGen"]
    page.fill("#query", "nerd")
    assert page.inner_text("#count") == "1 of 35 rows."
    other = context.new_page()
    other.goto(page.url)
    assert other.inner_text("#count") == "1 of 35 rows."
    other.close()
    link = page.locator("#body td a").first
    link.click()
    assert page.inner_text("h1") == "PixNerd"
    assert "paper-2026-06" in page.inner_text("main")


def test_one_page_shows_the_record_that_the_address_names(page, site):
    page.goto(f"{site.as_uri()}/record.html#paper-2026-06.imagenet.dinov2-b.cfg")
    page.wait_for_selector("#record table")
    assert page.inner_text("h1") == "DINOv2-B"
    assert page.title() == "DINOv2-B - DiffusionBench"
    text = page.inner_text("#record")
    for words in ("nanogen train --task imagenet256 --method dinov2-b", "11 of", "How to reproduce it", "guidance"):
        assert words in text
    assert page.locator("#record h2").all_inner_texts()[0] == "Values"
    # Records of every file, by a link to the open page; the skip link leaves the record where it is.
    for record in (*published.records()[::40], *published.records()[-1:]):
        page.evaluate("id => location.hash = id", record.id)
        page.wait_for_function("title => document.querySelector('h1')?.textContent === title", arg=record.title)
        assert record.id in page.inner_text(".crumbs")
    page.focus(".skip")
    page.keyboard.press("Enter")
    assert record.id in page.inner_text(".crumbs")
    assert page.evaluate("document.activeElement.id") == "main"
    for name, said in (("", "The address names no record."), ("0", "no record 0 here"), ("zzz", "no record zzz here")):
        page.evaluate("id => location.hash = id", name)
        page.wait_for_function("document.querySelector('#status').textContent.includes('record')")
        page.wait_for_function("!document.querySelector('#status').textContent.includes('Loading')")
        assert said in page.inner_text("#status")
        assert page.locator("#record table").count() == 0
    page.go_back()
    page.click("#status a")
    assert page.inner_text("h1") == "Methods"


def test_pages_say_that_they_need_their_script(browser, site):
    context = new_context(browser, java_script_enabled=False)
    page = context.new_page()
    for name in ("index.html", "leaderboard.html", "record.html#paper-2026-06.t2i.jit"):
        page.goto(f"{site.as_uri()}/{name}")
        assert "data.html" in page.inner_html("noscript"), name
        assert "which this page carries inside itself" in page.inner_text("main"), name
    context.close()


def test_every_board_and_all_columns_open(page, site):
    page.goto((site / "leaderboard.html").as_uri())
    few = page.locator("#head th").count()
    page.click(".chooser summary")
    page.click("#columns-all")
    assert page.locator("#head th").count() > few + 20
    for name in page.eval_on_selector_all('input[name="set"]', "inputs => inputs.map((input) => input.value)"):
        page.check(f'input[value="{name}"]', force=True)
        assert page.locator("#body tr").count() + page.locator("#listed li").count() > 0
        assert page.locator("#notes li").count() > 0


def test_doubtful_values_and_records_that_fit_no_column_are_shown_with_their_reasons(browser, tmp_path):
    value = Value(value=2.0, stderr=0.1, status="flagged", reason="trained on the metric")
    doubtful = measured("doubtful", "class_conditional", {}, protocol=laptop_protocol())
    doubtful = doubtful.model_copy(update={"values": {"fd_digits": value}})
    good = measured("good", "class_conditional", {"fd_digits": 3.0}, protocol=laptop_protocol())
    stranger = measured("stranger", "class_conditional", {"fd_digits": 0.1}, protocol=laptop_protocol(count=99))
    build([doubtful, good, stranger], tmp_path / "out")
    context = new_context(browser)
    page = context.new_page()
    page.goto((tmp_path / "out" / "leaderboard.html").as_uri() + "#sort=fd_digits")
    # The better value is flagged: sorted by it, it comes behind.
    assert page.locator("#body th").all_inner_texts() == ["good", "doubtful"]
    mark = page.locator("#body a.doubt")
    assert mark.inner_text() == "2 ± 0.1 (flagged)"
    assert mark.get_attribute("title") == "flagged: trained on the metric"
    assert "flagged, takes no place: doubtful" in page.inner_text("#notes")
    assert page.inner_text("#listed") == "stranger: fd_digits 0.100: count is 99 (the column insists on 359)"
    page.click("#listed a")
    assert page.inner_text("h1") == "stranger"
    context.close()


def test_a_finger_taps_and_drags(browser, site):
    context = new_context(browser, viewport={"width": 390, "height": 800}, has_touch=True)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    point = page.locator(f'[data-panel="{PANELS[0]}"] [data-name="flux1-vae"]')
    point.scroll_into_view_if_needed()
    place = point.bounding_box()
    page.touchscreen.tap(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    assert picked(page) == ["flux1-vae"]
    assert "FLUX.1-VAE" in page.inner_text("#tip")
    # The page scrolls up and down under a finger; only a drag to the side draws.
    assert (
        page.eval_on_selector(f'[data-panel="{PANELS[0]}"] svg', "svg => getComputedStyle(svg).touchAction") == "pan-y"
    )
    context.close()


# What is drawn beside the points


def test_names_band_front_and_baselines_are_drawn_on_demand(figure, context):
    panel = f'[data-panel="{PANELS[0]}"]'
    assert figure.locator(f"{panel} .label").count() == 0
    for layer in (".band", ".front"):
        assert figure.is_visible(f"{panel} {layer}")
    assert figure.locator(f"{panel} .lines text").all_text_contents() == ["SD-3.5-Large", "FLUX-1"]
    beyond = figure.inner_text(f"{panel} .beyond")
    assert beyond.startswith("Baselines beyond this panel: FLUX-2 0.854, Qwen-Image 0.848")
    figure.check('input[value="labels"]')
    names = figure.locator(f"{panel} .label").all_text_contents()
    assert len(names) > 12
    assert {"PE-L", "FLUX.1-VAE"} <= set(names)
    for layer in ("band", "front", "lines"):
        figure.uncheck(f'input[value="{layer}"]')
    assert not figure.is_visible(f"{panel} .band")
    assert not figure.is_visible(f"{panel} .front")
    assert figure.locator(f"{panel} .lines").count() == 0
    assert figure.inner_text(f"{panel} .beyond") == ""
    other = context.new_page()
    other.goto(figure.url)
    assert other.locator(f"{panel} .label").all_text_contents() == names
    assert not other.is_checked('input[value="band"]')
    other.close()


def test_names_do_not_cover_points_or_each_other(figure):
    figure.check('input[value="labels"]')
    wrong = figure.evaluate(
        """() => [...document.querySelectorAll(".panel svg")].map((svg) => {
          const boxes = [...svg.querySelectorAll(".label")].map((one) => one.getBoundingClientRect());
          const apart = (a, b) => a.right - 2 <= b.left || a.bottom - 3 <= b.top;
          const over = (a, b) => !apart(a, b) && !apart(b, a);
          return boxes.filter((one, i) => boxes.some((other, j) => i < j && over(one, other))).length;
        })"""
    )
    assert wrong == [0, 0, 0, 0]


def test_band_and_front_are_those_of_the_textbook(figure):
    rng = np.random.default_rng(2)
    quantiles = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 8: 2.3060, 19: 2.0930, 60: 2.0003}
    for freedom, value in quantiles.items():
        assert figure.evaluate(f"stats.student({freedom})") == pytest.approx(value, rel=2e-3)
    x, y = rng.normal(size=(2, 10))
    line = fit_line(x, y)
    rest = y - line.intercept - line.slope * x
    for place in (-1.0, 0.3):
        half = 2.3060 * np.sqrt(rest @ rest / 8 * (0.1 + (place - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()))
        shown = figure.evaluate("([x, y, place]) => stats.band(x, y)(place)", [x.tolist(), y.tolist(), place])
        assert shown == pytest.approx(half, rel=2e-3)
    assert figure.evaluate("stats.band([1, 2, 3], [1, 2, 4])") is None
    x, y = np.round(rng.normal(size=(2, 60)), 1)
    for better in ([False, True], [True, True], [False, False]):
        signs = [1 if high else -1 for high in better]
        points = list(zip(signs[0] * x, signs[1] * y, strict=True))
        wanted = {
            i for i, p in enumerate(points) if not any(a >= p[0] and b >= p[1] and (a, b) != p for a, b in points)
        }
        found = figure.evaluate("(args) => stats.front(...args)", [x.tolist(), y.tolist(), better])
        assert set(found) == wanted
        assert [x[i] for i in found] == sorted(x[i] for i in found)


@pytest.mark.parametrize("width", [1240, 360])
@pytest.mark.parametrize("task", [digits, drawn])
def test_records_of_one_task_are_a_sentence_and_no_empty_panel(browser, tmp_path, width, task):
    values = [(4.0, 1.0), (3.0, 2.0)] if task is digits else [(0, 0.2), (1, 0.3)]
    build([task(name, *one) for name, one in zip("ab", values, strict=True)], tmp_path / "out")
    context = new_context(browser, viewport={"width": width, "height": 800})
    page = context.new_page()
    for guidance in ("none", "cfg"):
        page.goto(f"{(tmp_path / 'out' / 'index.html').as_uri()}#guidance={guidance}")
        assert page.locator(".panel:visible").count() == 0
        # Without a distance of digits the horizontal axis is the FID, which none holds.
        missing = "GenEval" if task is digits else "FID"
        told = page.inner_text("#undrawn")
        assert told.startswith(f"There is nothing to draw: no record of set 'measured' holds {missing}")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


@pytest.fixture(scope="module")
def own_study(tmp_path_factory):
    """A study of six methods with three seeds, costs, methods at the floor, and baselines."""
    folder = tmp_path_factory.mktemp("own") / "out"
    made = []
    for n in range(6):
        for run in range(3):
            made.append(digits(f"m{n}", 6.0 - n + 0.1 * run, 2.0**n, weights="abc"[run]))
            record = drawn(f"m{n}", run, max(0.0, 0.1 * n - 0.2) + 0.01 * run)
            made.append(record.model_copy(update={"cost": made[-1].cost}))
    made.append(drawn("drawn", 0, 0.9).model_copy(update={"family": "reference", "title": "drawn"}))
    build(made, folder)
    return folder


def test_seeds_floors_costs_and_baselines_of_a_measured_study(page, own_study):
    page.goto(f"{(own_study / 'index.html').as_uri()}#hide=")
    key = "simpleeval_shapes_v1"
    assert page.locator(".panel .spread").count() > 10
    assert page.locator(f'[data-panel="{key}"] .low').count() == 3
    assert "3 of these methods are at the floor" in shown(page, key)["note"]
    assert "All 6 methods, 6 with several seeds: r -0.9" in page.inner_text(f'[data-panel="{key}"] .seeds')
    assert "drawn 0.900" in page.inner_text(f'[data-panel="{key}"] .beyond')
    page.locator(f'[data-panel="{key}"] [data-name="m0"]').hover()
    assert "mean of 3, sd 0.1" in page.inner_text("#tip")
    assert "at the floor" in page.inner_text("#tip")
    page.select_option("#axis", "device_hours")
    assert "Device hours ↓" in page.text_content(f'[data-panel="{key}"] svg')
    assert "x=device_hours" in page.url
    assert "--x device_hours --y simpleeval_shapes_v1" in page.text_content("#commands")
    labels = page.eval_on_selector_all(f'[data-panel="{key}"] [role=option]', "all => all.map((one) => one.ariaLabel)")
    assert any("Device hours 32" in one for one in labels)
    page.goto(f"{own_study.as_uri()}/leaderboard.html#columns=fd_digits+device_hours%23class")
    assert page.locator("#head th[data-column='device_hours#class']").count() == 1
    page.click("#body td a")
    page.wait_for_selector("#record h1")
    assert "Cost of training" in page.inner_text("main")


def test_the_first_page_says_what_this_is_and_the_answer(figure, page, own_study):
    text = figure.inner_text("main")
    assert "Only in part. Over 21 latent methods the correlation r is -0.62 to -0.27 (95 % from -0.83 to +0.19)" in text
    assert "scores image generators by class and by text" in text
    hrefs = figure.eval_on_selector_all(".actions a", "links => links.map((link) => link.getAttribute('href'))")
    assert hrefs == ["leaderboard.html", "contribute.html", "data.html"]
    page.goto((own_study / "index.html").as_uri())
    assert "Over 6 methods the correlation r is -0.9" in page.inner_text(".answer")


# Leaderboard


def test_best_values_are_marked_and_the_reader_chooses_columns(page, site):
    page.goto((site / "leaderboard.html").as_uri())
    best = page.eval_on_selector_all("#body .best > :first-child", "cells => cells.map((cell) => cell.innerText)")
    assert {"2.08", "1.37", "0.854", "0.888", "0.841", "0.309"} == set(best)
    # Every row is in sight without a scroll bar of its own.
    assert (
        page.evaluate(
            "(({ scrollHeight, clientHeight }) => scrollHeight - clientHeight)(document.querySelector('.board'))"
        )
        <= 1
    )
    page.click(".chooser summary")
    page.uncheck('#columns input[value="fid"]')
    page.check('#columns input[value="fdr_dinov2@cfg"]')
    heads = page.eval_on_selector_all("#head th", "heads => heads.map((head) => head.dataset.column)")
    assert "fid" not in heads
    assert "fdr_dinov2@cfg" in heads
    address = page.url
    page.click("#columns-usual")
    assert "columns=" not in page.url
    page.goto("about:blank")
    page.goto(address)
    assert page.eval_on_selector_all("#head th", "heads => heads.map((head) => head.dataset.column)") == heads
    page.click(".chooser summary")
    page.click("#columns-all")
    assert page.locator("#head th").count() > 25


def test_on_a_phone_the_method_stays_in_sight_and_controls_answer_taps(browser, site):
    context = new_context(browser, viewport={"width": 400, "height": 860}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto((site / "leaderboard.html").as_uri())
    page.eval_on_selector(".board", "board => board.scrollLeft = 300")
    name = page.locator("#body th").first.bounding_box()
    board = page.locator(".board").bounding_box()
    assert abs(name["x"] - board["x"]) < 3
    page.goto((site / "index.html").as_uri())
    for selector, wanted in (
        ('label:has(input[value="cfg"])', "-0.5553"),
        ('label:has(input[value="none"])', "-0.2671"),
    ):
        page.locator(selector).tap()
        assert shown(page, PANELS[0])["r"] == wanted
    page.locator('label:has(input[value="labels"])').tap()
    assert page.locator(".panel .label").count() > 8
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()
