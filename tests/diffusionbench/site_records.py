"""Records for the tests of the website: made up, hostile, or enough of them to measure its speed."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from types import ModuleType

from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value

HOSTILE = '<script>window.broken=1</script><img src=x onerror="window.broken=2">\'`${1}'


def measured(name: str, axis: str, values: dict[str, float], *, family: str | None = "vae", **changes) -> Record:
    """A record of an unguided class-conditional or a text-to-image result."""
    given = {
        "kind": "measured",
        "id": f"{hashlib.sha256(name.encode()).hexdigest()[:12]}.{axis}",
        "method": name,
        "title": name,
        "family": family,
        "protocol": Protocol(name=axis, axis=axis, count=100, guidance=Guidance(scale=1.0)),
        "values": {key: Value(value=value) for key, value in values.items()},
        "provenance": Provenance(source="made up"),
    }
    return Record(**given | changes)


def pair(name: str, fid: float, scores: dict[str, float], **changes) -> list[Record]:
    """One method on both axes."""
    return [
        measured(name, "class_conditional", {"fid": fid}, **changes),
        measured(name, "t2i", scores, **changes),
    ]


def hostile() -> list[Record]:
    """A method whose every free text tries to become markup, a script, a path or a link."""
    return [
        measured(
            HOSTILE,
            axis,
            values,
            id=f"hostile.{axis}",
            family=HOSTILE,
            breakdown={HOSTILE: {HOSTILE: Value(value=1.0, note=HOSTILE)}},
            anchors={HOSTILE: {"fid": Value(value=1.0)}},
            unscored=(HOSTILE,),
            provenance=Provenance(source=HOSTILE, url="javascript:window.broken=3", command=f"echo {HOSTILE}"),
            extra={HOSTILE: {HOSTILE: [HOSTILE]}, "printed": {"fid": HOSTILE, "geneval_overall": HOSTILE}},
        )
        for axis, values in (
            ("class_conditional", {"fid": 3.0, "</script><b>": 1.0}),
            ("t2i", {"geneval_overall": 0.5, "simpleeval_v1": 0.1}),
        )
    ]


def benchmark() -> ModuleType:
    """The script that measures the site, for its synthetic records."""
    path = Path(__file__).parents[2] / "benchmarks" / "site.py"
    spec = importlib.util.spec_from_file_location("site_benchmark", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
