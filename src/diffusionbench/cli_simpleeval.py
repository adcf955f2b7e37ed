"""Commands around SimpleEval: write a prompt set, verify a seed, attack a metric."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffusionbench import bounds
from diffusionbench.errors import RequestError
from diffusionbench.limits import reads_extra
from diffusionbench.shown import lines

if TYPE_CHECKING:
    from diffusionbench.prompts import PromptChoice

simpleeval = typer.Typer(
    no_args_is_help=True,
    help="""Seeds and sealed sets of SimpleEval.

Examples:

  diffusionbench simpleeval verify --record record.json

  diffusionbench simpleeval verify --seed bound-3fa9 --weights model.safetensors

  diffusionbench simpleeval verify --name autumn --secret 5f0c --commitment 91ab
""",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    app.command()(prompts)
    app.command()(stress)
    app.add_typer(simpleeval, name="simpleeval")


@dataclass(frozen=True)
class PromptOptions:
    """What the command line says about the prompts that images were made for; None where it says nothing."""

    prompts: str | None
    seed: str | None
    layout: str | None
    weights: Path | None
    beacon: str | None
    commitment: str | None
    networks: str | None
    public: Path | None

    def given(self) -> list[str]:
        """The options that were used."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]

    def choice(self, axis: str, metrics: str) -> PromptChoice:
        """The prompts of a request; without a name, the set that the first metric judges.

        Raises:
            RequestError: if no set is named and no metric implies one, the weights are no file, the record on the
                public set does not fit, or the seed does not follow from the weights or the commitment.
        """
        from diffusionbench.prompts import PROMPTS, PromptChoice
        from diffusionbench.schema import file_digest
        from diffusionbench.simpleeval import seeds

        first = metrics.split(",")[0].strip()
        name = self.prompts or (first if first in PROMPTS else None)
        if name is None:
            raise RequestError(
                f"axis '{axis}' needs to know which prompts the images were made for. Name them with --prompts; known: "
                f"{', '.join(sorted(PROMPTS))}."
            )
        if self.weights is not None:
            _check_weights(self.weights)
        weights_digest = None if self.weights is None else file_digest(self.weights)
        seed, beacon = self.seed or "public-0", self.beacon or "none"
        seeds.check(seed, weights_digest, beacon, self.commitment)
        words = None if self.networks is None else self.networks.split(",")
        return PromptChoice(
            name=name,
            seed=seed,
            layout=self.layout,
            weights_digest=weights_digest,
            beacon=beacon,
            commitment=self.commitment,
            networks=None if words is None else tuple(word.strip() for word in words if word.strip()),
            public=None if self.public is None else _public(self.public, first),
        )


@reads_extra
def _public(path: Path, key: str) -> tuple[float, float]:
    from diffusionbench.record import facts_of, load

    record = load(path)
    value = record.values.get(key)
    seed = facts_of(record).get(key, {}).get("seed")
    if value is None or value.stderr is None or seed != "public-0":
        raise RequestError(f"record {path} holds no score '{key}' on seed public-0. Score that set first.")
    return value.value, value.stderr


def prompts(
    name: Annotated[str, typer.Option("--set", help="Prompt set; see `diffusionbench ls prompts`.")],
    seed: Annotated[
        str, typer.Option(help="Seed of the set: public-0 .. public-4, a bound or a sealed one.")
    ] = "public-0",
    layout: Annotated[str | None, typer.Option(help="Size of the set; without it the smallest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for prompts.jsonl.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Bind the seed to this weights file.")] = None,
    beacon: Annotated[str, typer.Option(help="Public random value published after the weights' hash.")] = "none",
    as_json: Json = False,
) -> None:
    """Write a prompt set, one JSON object a line, and say what is in it.

    Examples:

      diffusionbench prompts --set simpleeval_v1 --seed public-0 --layout standard --out prompts/

      diffusionbench prompts --set simpleeval_shapes_v1 --layout quick --out prompts/

      diffusionbench prompts --set simpleeval_v1 --weights model.safetensors --out prompts/

    Image k of a prompt belongs into `<prompt id>/<k>.png`, sampled from the k-th of the line's noise seeds.
    """
    from diffusionbench.prompts import PROMPTS
    from diffusionbench.schema import write_result
    from diffusionbench.simpleeval.statistics import overlaps

    source = PROMPTS.load(name)
    opened = source.open(_bound(weights, beacon) if weights else seed, layout)
    if out is not None:
        write_result(out / "prompts.jsonl", opened.jsonl)
    known = {other: PROMPTS.load(other) for other in sorted(PROMPTS) if other != name}
    common = {other: overlaps(opened.texts, row.open("public-0", None).texts) for other, row in known.items()}
    if as_json:
        facts = {
            "name": opened.name,
            "sha256": opened.digest,
            "prompts": len(opened.texts),
            "images_per_prompt": opened.images_per_prompt,
            "overlaps": {other: {"exact": exact, "near": near} for other, (exact, near) in common.items()},
            "file": str(out / "prompts.jsonl") if out else None,
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(source.summary(opened))
    for other, (exact, near) in common.items():
        typer.echo(f"overlap with {other}: {exact} exact, {near} near")
    if out is not None:
        typer.echo(str(out / "prompts.jsonl"))


def _bound(weights: Path, beacon: str) -> str:
    from diffusionbench.schema import file_digest
    from diffusionbench.simpleeval.seeds import bound_seed

    _check_weights(weights)
    return bound_seed(file_digest(weights), beacon)


def _check_weights(weights: Path) -> None:
    if not weights.is_file():
        raise RequestError(f"weights {weights}: no such file. Give the safetensors file that samples.")


@simpleeval.command()
def verify(
    seed: Annotated[str | None, typer.Option(help="Bound or sealed seed to verify.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file a bound seed must follow from.")] = None,
    digest: Annotated[str | None, typer.Option(help="SHA-256 of those weights, in place of the file.")] = None,
    beacon: Annotated[str, typer.Option(help="Public random value, if one was used.")] = "none",
    name: Annotated[str | None, typer.Option(help="Name of a sealed set.")] = None,
    secret: Annotated[str | None, typer.Option(help="Its revealed secret, 64 hex digits.")] = None,
    commitment: Annotated[str | None, typer.Option(help="What its operator published.")] = None,
    record: Annotated[Path | None, typer.Option(help="A record: its set must be the one of its seed.")] = None,
) -> None:
    """Check that a bound seed follows from the weights, that a sealed set is the one committed to, or a record's set.

    Examples:

      diffusionbench simpleeval verify --seed bound-3fa9 --weights model.safetensors

      diffusionbench simpleeval verify --name autumn --secret 5f0c --commitment 91ab

      diffusionbench simpleeval verify --record records/mine.json
    """
    from diffusionbench.simpleeval import seeds

    if record is not None:
        typer.echo(lines(verify_record(record)))
    elif name is not None and secret is not None and commitment is not None:
        typer.echo(f"sealed set '{name}' is the one committed to; seed {seeds.sealed_seed(name, secret, commitment)}")
    elif seed is not None and (weights is not None or digest is not None):
        found = _bound(weights, beacon) if weights is not None else seeds.bound_seed(digest or "", beacon)
        if found != seed:
            raise RequestError(
                f"seed {seed} does not follow from these weights and beacon '{beacon}', which give {found}. "
                "The questions may be older than the weights; do not rank this score."
            )
        typer.echo(f"{seed} follows from these weights")
    else:
        raise RequestError(
            "nothing to verify. Give --record FILE, or --seed with --weights or --digest, "
            "or --name, --secret and --commitment."
        )


@reads_extra
def verify_record(path: Path) -> str:
    """Check a record of SimpleEval: its set digest must be that of its seed and layout, and its status must hold.

    Raises:
        RequestError: if the record has no SimpleEval score, or does not hold.
    """
    from diffusionbench import record as records
    from diffusionbench.prompts import PROMPTS, PromptChoice
    from diffusionbench.simpleeval.report import SeedClaim

    found = records.load(path)
    facts = {key: value for key, value in records.facts_of(found).items() if key in PROMPTS}
    if not facts:
        raise RequestError(f"record {path} has no SimpleEval score. Score images with --metrics simpleeval_v1 first.")
    lines = []
    for key, fact in facts.items():
        choice = PromptChoice.model_validate(found.extra["request"]["prompts"])
        opened = PROMPTS.load(key).open(fact["seed"], fact["layout"])
        if opened.digest != fact["set_digest"]:
            raise RequestError(
                f"record {path}: seed {fact['seed']} gives the set {opened.digest[:12]}, and the record names "
                f"{fact['set_digest'][:12]}. It was made by another version or changed; score the images again."
            )
        claim = SeedClaim(fact["seed"], choice.weights_digest, choice.beacon, choice.commitment)
        if fact["status"] == "ranked" and not claim.verified:
            raise RequestError(
                f"record {path} calls itself ranked, but its seed does not follow from the weights or the commitment "
                "it names. Do not rank it."
            )
        lines.append(f"{key}: set {opened.digest[:12]} is that of seed {fact['seed']}; status {fact['status']}")
    return "\n".join(lines)


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
    """Attack a metric and print what a hacker would gain; exit code 3 where a requirement is missed.

    Examples:

      diffusionbench stress simpleeval_shapes_v1 --against toy_clipscore,toy_vqascore

      diffusionbench stress simpleeval_shapes_v1 --attacks A5,A7

      diffusionbench stress simpleeval_shapes_v1 --layout standard --out stress.json
    """
    from diffusionbench.schema import write_result
    from diffusionbench.simpleeval import stress as harness

    names = [metric, *(name for name in against.split(",") if name)]
    chosen = list(harness.ATTACKS) if attacks == "all" else attacks.split(",")
    result = harness.run(names, chosen, layout=layout, seed=seed, accuracy=accuracy, progress=_progress)
    text = json.dumps(result.facts(), indent=2)
    if out is not None:
        write_result(out, text + "\n")
    typer.echo(text if as_json else result.text())
    if result.missed:
        raise typer.Exit(3)


def _progress(line: str) -> None:
    typer.echo(line, err=True)
