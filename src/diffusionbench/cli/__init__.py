"""The command line of DiffusionBench: parse, call the library, print.

A verb imports what it needs when it runs, so that --help answers at once and without torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from diffusionbench.cli import benchmarks, pages, prepare, records, scoring
from diffusionbench.cli.options import Json
from diffusionbench.errors import RunError, UserError, run_program
from diffusionbench.provenance import examine
from diffusionbench.verbs import check_given

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Score image generators and keep every number as a reproducible record.

Examples:

  diffusionbench run images/ --reference digits --metrics fd_digits,accuracy_digits

  diffusionbench board

  diffusionbench correlate --x fid --y geneval
""",
)

scoring.register(app)


def main() -> None:
    """Run a command; wrong use ends with exit code 2 and one sentence, a failed run with 1."""
    run_program(_program, "interrupted; the same command continues, `run` where it has --store")


def _program() -> None:
    check_given(sys.argv)
    app()


@app.command("ls")
def list_names(
    what: Annotated[str, typer.Argument(help="metrics, judges, references, axes, prompts or sources")] = "",
    as_json: Json = False,
) -> None:
    """List what can be chosen, which judges are here, and what the others and their metrics need.

    Examples:

      diffusionbench ls

      diffusionbench ls metrics

      diffusionbench ls references --json
    """
    from diffusionbench.available import judge_facts, judge_words, metric_state, metric_words, prompt_facts
    from diffusionbench.axes import AXES
    from diffusionbench.judges import JUDGES
    from diffusionbench.metrics import METRICS
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.references import REFERENCES
    from diffusionbench.specs import SOURCES
    from diffusionbench.views.terminal import print_tables

    metrics: dict[str, dict[str, Any]] = {}
    directions = {True: "higher is better", False: "lower is better", None: "no better end"}
    for key in [*METRICS.with_code, *(key for key in METRICS if METRICS[key].load is None)]:
        spec = METRICS[key]
        number = f"from {spec.min_samples} images" if spec.min_samples > 1 else "from one image"
        computed = f"{number}; " if spec.load else ""
        text = f"{spec.title}: {spec.about}; {directions[spec.higher_is_better]}; {computed}{metric_words(key)}"
        metrics[key] = {"text": text, **metric_state(key)}
    judges = {key: judge_facts(row) for key, row in JUDGES.items()}
    tables: dict[str, Mapping[str, str | Mapping[str, Any]]] = {
        "metrics": metrics,
        "judges": {key: {"text": judge_words(facts), **facts} for key, facts in judges.items()},
        "references": {key: f"{row.title}; {row.licence}" for key, row in REFERENCES.items()},
        "axes": {key: f"{row.title}; asks for {row.asks}" for key, row in AXES.items()},
        "prompts": {key: prompt_facts(row) for key, row in PROMPTS.items()},
        "sources": {key: f"images of {key}:ARGUMENT, a {row.title}" for key, row in SOURCES.items()}
        | {"module": "images of module:function, any function of your own (docs/python.md)"},
    }
    print_tables(tables, what, as_json)


@app.command()
def selftest(as_json: Json = False) -> None:
    """Test every judge that is here: against the outputs it was shipped with, else against itself; `run` does so too.

    Examples:

      diffusionbench selftest

      diffusionbench selftest --json

      diffusionbench selftest --json > selftest.json
    """
    from diffusionbench.available import check_judge
    from diffusionbench.judges import JUDGES
    from diffusionbench.judges.selftest import test_now

    found: dict[str, dict[str, Any]] = {}
    failed = []
    for name in JUDGES:
        try:
            check_judge(name)
            outcome = test_now(JUDGES.load(name)("cpu"))
        except UserError as error:
            found[name] = {"state": "not here", "words": str(error)}
        except RunError as error:
            found[name] = {"state": "failed", "words": str(error)}
            failed.append(str(error))
        else:
            state = "not tested" if outcome.compared == "nothing" else "passed"
            found[name] = {"state": state, "words": str(outcome), **outcome._asdict()}
    lines = [f"{name}: {one['state']}: {one['words']}" for name, one in found.items()]
    print(json.dumps(found, indent=2) if as_json else "\n".join(lines))
    if failed:
        raise RunError(failed[0])


@app.command()
def doctor(as_json: Json = False) -> None:
    """Print what this installation has and lacks.

    Examples:

      diffusionbench doctor

      diffusionbench doctor --json

      diffusionbench doctor --json > installation.json
    """
    found: dict[str, Any] = examine()
    print(json.dumps(found, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in found.items()))


records.register(app)
pages.register(app)
prepare.register(app)
benchmarks.register(app)
