"""Tables: rows of other packages, derived rows, and what a look-up says where it fails."""

from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint

import pytest

from diffusionbench import registry
from diffusionbench.axes import AXES
from diffusionbench.errors import UserError
from diffusionbench.judges import DIGITS, JUDGES
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS
from diffusionbench.references import REFERENCES
from diffusionbench.registry import Table
from diffusionbench.request import EvalRequest, Evaluation, judge_order


@dataclass(frozen=True)
class Line:
    load: str | None = "json:loads"
    name: str | None = None


OTHER, NAMED, CLASS = Line("json:dumps"), Line(name="second"), int
NO_MODULE, NO_NAME = Line("json.nothing:dumps"), Line("json:nothing")


@pytest.fixture
def installed(monkeypatch):
    """A function: pretend that another package gives entry points of this module, by name."""

    def install(**values):
        points = [EntryPoint(name, f"{__name__}:{value}", "group") for name, value in values.items()]
        monkeypatch.setattr(registry, "entry_points", lambda group: points)

    return install


def table(**more) -> Table[Line]:
    return Table("line", {"one": Line(), "printed": Line(None)}, "group", **more)


def test_rows_of_other_packages_join_the_own_ones(installed):
    installed(two="OTHER")
    found = table(derived=lambda: {"three": Line(), "one": OTHER})
    assert list(found) == ["three", "one", "printed", "two"]
    assert found["one"] == Line()
    assert found.own.keys() == {"one", "printed"}
    assert found.with_code == ["three", "one", "two"]
    assert found.load("two")([1]) == "[1]"


@pytest.mark.parametrize("value, fault", [("NO_MODULE", "No module named 'json.nothing'"), ("NO_NAME", "no attribute")])
def test_a_row_whose_code_is_not_there_is_named(installed, value, fault):
    installed(two=value)
    with pytest.raises(UserError, match=rf"line 'two' cannot be loaded: its row names 'json.*{fault}.*uninstall"):
        table().load("two")


def test_judges_that_use_each_other_are_refused(monkeypatch):
    rows = {"a": replace(DIGITS, name="a", uses=("b",)), "b": replace(DIGITS, name="b", uses=("a",))}
    monkeypatch.setattr("diffusionbench.request.JUDGES", rows)
    with pytest.raises(UserError, match="in a circle: a, b, a"):
        judge_order([replace(METRICS["fd_digits"], judges=("a",))])


@pytest.mark.parametrize(
    "values, message",
    [
        ({"one": "OTHER"}, r"line 'one' is registered twice, once by .*:OTHER .* Rename one"),
        ({"two": "CLASS"}, r"line 'two' is no row of this version: .*:CLASS .* must name one"),
        ({"two": "DIGITS"}, r"line 'two' is no row of this version: .*:DIGITS .* must name one"),
        ({"two": "NAMED"}, r"line 'two' is a row of another name: .*:NAMED .* names 'second'\. Write"),
        ({"two": "ABSENT"}, r"line 'two' cannot be imported from .*:ABSENT .*: AttributeError: .* uninstall"),
    ],
)
def test_entry_points_that_do_not_fit_are_named(installed, values, message):
    installed(**values)
    with pytest.raises(UserError, match=message):
        list(table())


@pytest.mark.parametrize("table", [JUDGES, METRICS, PROMPTS, AXES, REFERENCES], ids=lambda table: table.kind)
def test_rows_bear_the_name_of_their_place(table):
    assert [getattr(row, "name", None) or row.key for row in table.values()] == list(table)


def test_a_failed_look_up_suggests_what_can_be_computed():
    with pytest.raises(UserError, match=r"unknown line 'ones'\. Did you mean 'one'\?"):
        table()["ones"]
    with pytest.raises(UserError, match=r"unknown line 'printe'\. Known: one"):
        table()["printe"]
    with pytest.raises(UserError, match="line 'printed' is known by its published figures only"):
        table().load("printed")


def test_a_metric_that_nothing_computes_is_refused_with_the_request():
    request = EvalRequest(metrics=("dpgbench",), reference="digits", count=20, method="m", title="T")
    with pytest.raises(UserError, match="metric 'dpgbench' is known by its published figures only"):
        Evaluation(request)


def test_a_judge_of_another_package_brings_its_metrics(monkeypatch):
    monkeypatch.setitem(JUDGES._rows, "strokes", replace(DIGITS, name="strokes", title="a judge of strokes"))
    monkeypatch.delitem(METRICS.__dict__, "_rows", raising=False)
    added = set(METRICS) - set(METRICS.own)
    assert {"fd_strokes", "kd_strokes", "is_strokes", "precision_strokes", "accuracy_strokes"} <= added
    assert METRICS["accuracy_strokes"].about == "share of samples that a judge of strokes takes for the class asked for"
    assert METRICS.load("fd_strokes") is METRICS.load("fid")
    monkeypatch.undo()
    METRICS.__dict__.pop("_rows", None)
