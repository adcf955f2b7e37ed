"""Commands around benchmarks: write a prompt set, verify SimpleEval's seeds and records, attack a metric."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Annotated, Final

import typer

from diffusionbench import bounds
from diffusionbench.cli.options import Json
from diffusionbench.errors import RequestError
from diffusionbench.shown import lines
from diffusionbench.writing import check_gives_way, check_place, write_result, write_results

# In place of a public random value, where none was used.
_NO_BEACON: Final = "none"

simpleeval = typer.Typer(
    no_args_is_help=True,
    help="""Seeds and sealed sets of SimpleEval.

Examples:

  diffusionbench simpleeval verify --record record.json

  diffusionbench simpleeval verify --seed bound-3fa9 --weights model.safetensors

  diffusionbench simpleeval verify --name autumn --secret 5f0c --commitment 91ab
""",
)


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    app.command()(prompts)
    app.command()(stress)
    app.add_typer(simpleeval, name="simpleeval")


def prompts(
    name: Annotated[str, typer.Option("--set", help="Prompt set; see `diffusionbench ls prompts`.")],
    seed: Annotated[
        str | None, typer.Option(help="Seed of the set: public-0 (the default) .. public-4, a bound or a sealed one.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Size of the set; without it the smallest.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for prompts.jsonl, or a file: .jsonl, or .txt with one text a line.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Bind the seed to this weights file.")] = None,
    beacon: Annotated[
        str | None, typer.Option(help="With --weights: public random value published after their hash.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also draw 2 % of the images, to be sampled again, into again.jsonl.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a prompt set, one JSON object a line, and print its statistics.

    Examples:

      diffusionbench prompts --set simpleeval_v1 --seed public-0 --layout standard --out prompts/

      diffusionbench prompts --set simpleeval_shapes_v1 --layout quick --out prompts/

      diffusionbench prompts --set simpleeval_v1 --weights model.safetensors --out prompts/

      diffusionbench prompts --set simpleeval_v1 --seed bound-3fa9 --again --out prompts/

      diffusionbench prompts --set geneval --out geneval.txt

    Image k of a prompt belongs into `<prompt id>/<k>.png`, sampled from the k-th of the line's noise claims.
    """
    from diffusionbench.available import prompt_facts
    from diffusionbench.benchmarks.simpleeval.claims import bound_seed, weights_digest
    from diffusionbench.benchmarks.simpleeval.prompts import overlaps
    from diffusionbench.benchmarks.simpleeval.verification import draw_again
    from diffusionbench.prompts import PROMPTS, plain_texts

    file = _set_file(out, again)
    if weights is not None and seed is not None:
        raise RequestError("--weights binds a seed of its own, and --seed names another. Leave one of them out.")
    if weights is None and beacon is not None:
        raise RequestError("--beacon belongs to a seed that is bound to weights. Give --weights too, or leave it out.")
    source = PROMPTS.load(name)
    bound = None if weights is None else bound_seed(weights_digest(weights), _NO_BEACON if beacon is None else beacon)
    opened = source.open(seed or "public-0" if bound is None else bound, layout)
    if file is not None:
        # Marked by the first key of the first line.
        text, mark = opened.jsonl, opened.jsonl.partition(":")[0]
        if file.suffix == ".txt":
            text, mark = plain_texts(opened), opened.texts[0]
        drawn = {file.with_name("again.jsonl"): (draw_again(opened), '{"file": "')} if again else {}
        write_results({file: (text, mark), **drawn})
    common = {
        other: overlaps(opened.texts, PROMPTS.load(other).open("public-0").texts)
        for other in sorted(PROMPTS)
        if other != name and prompt_facts(PROMPTS[other])["present"]
    }
    if as_json:
        facts = {
            "name": opened.name,
            "sha256": opened.digest,
            "prompts": len(opened.items),
            "images_per_prompt": opened.images_per_prompt,
            "overlaps": {other: {"exact": exact, "near": near} for other, (exact, near) in common.items()},
            "file": None if file is None else str(file),
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(source.summary(opened))
    for other, (exact, near) in common.items():
        typer.echo(f"overlap with {other}: {exact} exact, {near} near")
    if file is not None:
        typer.echo(str(file))


def _set_file(out: Path | None, again: bool) -> Path | None:
    """Return the file of a prompt set, None where none is written."""
    if again and (out is None or out.suffix in (".jsonl", ".txt")):
        raise RequestError("--again writes a file of its own. Say with --out into which folder.")
    if out is not None and out.suffix not in (".jsonl", ".txt"):
        check_place(out, "folder")
        out /= "prompts.jsonl"
    if out is not None:
        check_place(out)
    return out


@simpleeval.command()
def verify(
    seed: Annotated[str | None, typer.Option(help="Bound or sealed seed to verify.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file a bound seed must follow from.")] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 of those weights, in place of the file.")] = None,
    beacon: Annotated[str | None, typer.Option(help="Public random value of a bound seed, if one was used.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of a sealed set.")] = None,
    secret: Annotated[str | None, typer.Option(help="Its revealed secret, 64 hex digits.")] = None,
    commitment: Annotated[str | None, typer.Option(help="Commitment that its operator published.")] = None,
    record: Annotated[Path | None, typer.Option(help="A record: its set must be the one of its seed.")] = None,
) -> None:
    """Check that a bound seed follows from the weights, that a sealed set is the one committed to, or a record's set.

    Examples:

      diffusionbench simpleeval verify --seed bound-3fa9 --weights model.safetensors

      diffusionbench simpleeval verify --name autumn --secret 5f0c --commitment 91ab

      diffusionbench simpleeval verify --record records/mine.json
    """
    from diffusionbench.benchmarks.simpleeval import claims
    from diffusionbench.benchmarks.simpleeval.verification import verify_record

    options = {"record": record, "name": name, "secret": secret, "commitment": commitment}
    options |= {"seed": seed, "weights": weights, "digest": digest, "beacon": beacon}
    given = {f"--{option}" for option, value in options.items() if value is not None}
    if record is not None and given == {"--record"}:
        typer.echo(lines(verify_record(record)))
    elif name is not None and secret is not None and commitment is not None and len(given) == 3:
        typer.echo(f"sealed set '{name}' is the one committed to; seed {claims.sealed_seed(name, secret, commitment)}")
        if commitment not in [row.commitment for row in claims.published().sealed]:
            typer.echo("not ranked: that commitment is not in the repository's list (simpleeval/published.yaml)")
    elif seed is not None and given - {"--beacon"} in ({"--seed", "--weights"}, {"--seed", "--digest"}):
        beacon = _NO_BEACON if beacon is None else beacon
        sha256 = digest or "" if weights is None else claims.weights_digest(weights)
        found = claims.bound_seed(sha256, beacon)
        if found != seed:
            raise RequestError(
                f"seed {seed} does not follow from these weights and beacon '{beacon}', which give {found}. "
                "The questions may be older than the weights; do not rank this score."
            )
        typer.echo(f"{seed} follows from these weights")
        for doubt in claims.doubts(seed, sha256, beacon, claims.published()):
            typer.echo(f"not ranked: {doubt}")
    else:
        raise RequestError(
            f"one thing is verified at a time, and {', '.join(sorted(given)) or 'nothing'} was given. Give --record "
            "FILE alone; or --seed with --weights or --digest, and --beacon where one was used; or --name, --secret "
            "and --commitment."
        )


def stress(
    metric: Annotated[str, typer.Argument(help="Metric to attack.")] = "simpleeval_shapes_v1",
    against: Annotated[
        str, typer.Option(help="Metrics to stand beside it, separated by commas.")
    ] = "toy_clipscore,toy_vqascore",
    attacks: Annotated[str, typer.Option(help="Attacks, separated by commas, such as A1,A4; or all.")] = "all",
    layout: Annotated[str, typer.Option(help="quick or standard.")] = "quick",
    seed: Annotated[str, typer.Option(help="Prompt set that is attacked.")] = "public-0",
    accuracy: Annotated[
        float, typer.Option(min=0, max=1, callback=bounds.number, help="Share of facts right in the base images.")
    ] = 0.6,
    out: Annotated[Path | None, typer.Option(help="JSON file for the result.")] = None,
    as_json: Json = False,
) -> None:
    """Attack a metric and print the gain of a hacker; exit code 3 where a requirement is missed.

    Examples:

      diffusionbench stress simpleeval_shapes_v1 --against toy_clipscore,toy_vqascore

      diffusionbench stress simpleeval_shapes_v1 --attacks A5,A7

      diffusionbench stress simpleeval_shapes_v1 --layout standard --out stress.json
    """
    from diffusionbench.benchmarks.simpleeval.stress import harness

    if out is not None:
        check_place(out)
        check_gives_way(out, '"set_digest": "')
    names = [metric, *(name for name in against.split(",") if name)]
    chosen = list(harness.ATTACKS) if attacks == "all" else attacks.split(",")
    progress = functools.partial(typer.echo, err=True)
    result = harness.run(names, chosen, layout=layout, seed=seed, accuracy=accuracy, progress=progress)
    text = json.dumps(result.facts(), indent=2)
    try:
        if out is not None:
            write_result(out, text + "\n")
    finally:
        # A result that cannot be written is not lost.
        typer.echo(text if as_json else result.text())
    if result.missed:
        raise typer.Exit(3)
