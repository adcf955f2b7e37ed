"""The tables of documents stand there as records/ gives them; a typed or stale number is noticed."""

import json
import re
import shutil
from pathlib import Path

import pytest

import docs_tables
from diffusionbench.record import Record, Value, load

ROOT = Path(__file__).parents[2]


def test_the_tables_of_the_documents_are_those_of_the_records(capsys):
    assert docs_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_every_table_stands_in_a_document():
    texts = "".join(path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    assert {found[2] for found in docs_tables.PLACE.finditer(texts)} == docs_tables.TABLES.keys()
    assert texts.count("<!-- table") == len(docs_tables.PLACE.findall(texts))


@pytest.mark.parametrize("document", ["README.md", "docs/text-to-image.md", "docs/quickstart.md", "docs/reproduce.md"])
def test_no_score_is_typed(document):
    text = docs_tables.PLACE.sub("", (ROOT / document).read_text("utf-8"))
    assert not re.findall(r"\d\.\d{2,}", re.sub(r"`[^`]*`|arXiv [\d.]+", "", text))


def test_another_record_changes_the_tables(tmp_path, capsys):
    shutil.copytree(ROOT / "records", tmp_path / "records")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "README.md", tmp_path)
    assert docs_tables.main(["--check"], tmp_path) == 0
    records = [load(path) for path in (tmp_path / "records").glob("*-*.json")]
    changed = docs_tables.of_recipe(records, "digits", 1.5)[0]
    path = tmp_path / "records" / f"{changed.id}.json"
    content = json.loads(path.read_text())
    content["values"]["fd_digits"]["value"] = 7.654
    path.write_text(json.dumps(content))
    before = (tmp_path / "README.md").read_text()
    assert docs_tables.main(["--check"], tmp_path) == 1
    assert "README.md: its tables differ" in capsys.readouterr().out
    assert (tmp_path / "README.md").read_text() == before
    assert docs_tables.main([], tmp_path) == 0
    assert "7.654" in (tmp_path / "README.md").read_text()
    assert docs_tables.main(["--check"], tmp_path) == 0


def test_a_cell_is_a_value_with_its_interval_or_a_mean_over_trainings():
    one = Value(value=0.5, interval=(0.4, 0.6))
    assert docs_tables.cell([one]) == "0.500 ± 0.100"
    assert docs_tables.cell([Value(value=0.5)], 2) == "0.50"
    assert docs_tables.cell([one, Value(value=0.7, interval=(0.6, 0.8))]) == "0.600 ± 0.141"


def test_a_recipe_without_a_record_says_how_to_measure_it():
    with pytest.raises(LookupError, match=r"at guidance 2. Run: python tools/measure_recipes.py digits"):
        docs_tables.of_recipe([], "digits", 2.0)


def test_records_of_other_sources_are_no_recipe():
    fields = {"kind": "measured", "id": "a", "method": "m", "title": "t", "values": {}}
    other = Record(protocol={"name": "n", "axis": "t2i"}, provenance={"source": "s"}, **fields)
    with pytest.raises(LookupError):
        docs_tables.of_recipe([other], "digits")


def test_the_demos_limits_follow_from_seeds_and_images():
    """Two trainings 0.02 apart: deviation 0.0141; intervals 0.0392 wide: error 0.01; three times both together."""
    records = [load(path) for path in sorted((ROOT / "records").glob("*-*.json"))]
    (first, *_) = docs_tables.of_recipe(records, "digits-pixels")
    (scenes, *_) = docs_tables.of_recipe(records, "shapes")

    def at(score, seed):
        value = Value(value=score, interval=(score - 0.0196, score + 0.0196))
        return first.model_copy(
            update={"values": dict.fromkeys(first.values, value), "extra": {**first.extra, "seed": seed}}
        )

    rows = docs_tables.demo([at(0.91, 1), at(0.93, 2), scenes], "")
    assert rows[2].endswith("| `accuracy_digits` | 0.920 ± 0.014 | 2 | below 0.87 |")
    assert rows[3].endswith("| `fd_digits` | 0.920 ± 0.014 | 2 | above 0.97 |")
    assert rows[4].endswith("| 1 | – |")
