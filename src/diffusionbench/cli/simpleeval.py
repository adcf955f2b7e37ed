"""Commands around SimpleEval: write a prompt set, verify a seed, attack a metric."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffusionbench import bounds
from diffusionbench.errors import RequestError
from diffusionbench.limits import reads_extra
from diffusionbench.shown import lines
from diffusionbench.writing import check_gives_way, check_place, write_result, write_results

if TYPE_CHECKING:
    from diffusionbench.prompts import PromptChoice
    from diffusionbench.request import Evaluation
    from diffusionbench.source import ImageSource

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
    again: Path | None

    def given(self) -> list[str]:
        """The options that were used."""
        return [f"--{field.name}" for field in fields(self) if getattr(self, field.name) is not None]

    def choice(self, axis: str, metric: str) -> PromptChoice:
        """The prompts of a request; without a name, the set that `metric` judges.

        Raises:
            RequestError: if no set is named and no metric implies one, the weights are no file, the record on the
                public set does not fit, or the seed does not follow from the weights or the commitment.
        """
        from diffusionbench.benchmarks.simpleeval import seeds
        from diffusionbench.prompts import PROMPTS, PromptChoice

        name = self.prompts or (metric if metric in PROMPTS else None)
        if name is None:
            raise RequestError(
                f"axis '{axis}' needs to know which prompts the images were made for. Name them with --prompts; known: "
                f"{', '.join(sorted(PROMPTS))}."
            )
        weights_digest = None if self.weights is None else _digest(self.weights)
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
            public=None if self.public is None else _public(self.public, metric, weights_digest),
        )

    def completed(self, evaluation: Evaluation, images: ImageSource) -> Evaluation:
        """The evaluation with what sampling some images again showed.

        Raises:
            RequestError: if the folder holds no image of the set.
        """
        choice = evaluation.request.prompts
        if self.again is None or choice is None:
            return evaluation
        from diffusionbench.benchmarks.simpleeval.regeneration import differences
        from diffusionbench.source import PromptFolderSource

        samples = evaluation.samples(images)
        found = differences(samples, images, PromptFolderSource(self.again))
        if not found:
            raise RequestError(
                f"folder {self.again} holds no image of this set, such as {samples[0].file}.png. Sample those again "
                "that `diffusionbench prompts --again` draws."
            )
        return evaluation.updated(prompts=choice.model_copy(update={"again": found}))


@reads_extra
def _public(path: Path, key: str, weights_digest: str | None) -> tuple[float, float]:
    from diffusionbench.record import facts_of, load

    record = load(path)
    value = record.values.get(key)
    seed = facts_of(record).get(key, {}).get("seed")
    if value is None or value.stderr is None or seed != "public-0":
        raise RequestError(f"record {path} holds no score '{key}' on seed public-0. Score that set first.")
    theirs = ((record.extra.get("request") or {}).get("prompts") or {}).get("weights_digest")
    if weights_digest is not None and theirs != weights_digest:
        raise RequestError(
            f"record {path} names {'other weights' if theirs else 'no weights'} than those of --weights. Score the "
            "public set of the same weights, with --weights."
        )
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
    again: Annotated[
        bool, typer.Option("--again", help="Also draw 2 % of the images, to be sampled again, into again.jsonl.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a prompt set, one JSON object a line, and say what is in it.

    Examples:

      diffusionbench prompts --set simpleeval_v1 --seed public-0 --layout standard --out prompts/

      diffusionbench prompts --set simpleeval_shapes_v1 --layout quick --out prompts/

      diffusionbench prompts --set simpleeval_v1 --weights model.safetensors --out prompts/

      diffusionbench prompts --set simpleeval_v1 --seed bound-3fa9 --again --out prompts/

    Image k of a prompt belongs into `<prompt id>/<k>.png`, sampled from the k-th of the line's noise seeds.
    """
    from diffusionbench.benchmarks.simpleeval.regeneration import drawn
    from diffusionbench.benchmarks.simpleeval.seeds import bound_seed
    from diffusionbench.benchmarks.simpleeval.statistics import overlaps
    from diffusionbench.prompts import PROMPTS

    if out is not None:
        check_place(out, "folder")
        check_place(out / "prompts.jsonl")
    elif again:
        raise RequestError("--again writes a file. Say with --out into which folder.")
    source = PROMPTS.load(name)
    opened = source.open(bound_seed(_digest(weights), beacon) if weights else seed, layout)
    if out is not None:
        # The first key of the first line.
        files = {out / "prompts.jsonl": (opened.jsonl, opened.jsonl.partition(":")[0])}
        if again:
            files[out / "again.jsonl"] = drawn(opened), '{"file": "'
        write_results(files)
    known = {other: PROMPTS.load(other) for other in sorted(PROMPTS) if other != name}
    common = {other: overlaps(opened.texts, theirs.open("public-0").texts) for other, theirs in known.items()}
    if as_json:
        facts = {
            "name": opened.name,
            "sha256": opened.digest,
            "prompts": len(opened.items),
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


def _digest(weights: Path) -> str:
    """SHA-256 of a weights file.

    Raises:
        RequestError: if there is none.
    """
    from diffusionbench.schema import file_digest

    if not weights.is_file():
        raise RequestError(f"weights {weights}: no such file. Give the safetensors file that samples.")
    return file_digest(weights)


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
    from diffusionbench.benchmarks.simpleeval import seeds

    if record is not None:
        typer.echo(lines(verify_record(record)))
    elif name is not None and secret is not None and commitment is not None:
        typer.echo(f"sealed set '{name}' is the one committed to; seed {seeds.sealed_seed(name, secret, commitment)}")
        if commitment not in [row.commitment for row in seeds.published().sealed]:
            typer.echo("not ranked: that commitment is not in the repository's list (simpleeval/published.yaml)")
    elif seed is not None and (weights is not None or digest is not None):
        sha256 = digest or "" if weights is None else _digest(weights)
        found = seeds.bound_seed(sha256, beacon)
        if found != seed:
            raise RequestError(
                f"seed {seed} does not follow from these weights and beacon '{beacon}', which give {found}. "
                "The questions may be older than the weights; do not rank this score."
            )
        typer.echo(f"{seed} follows from these weights")
        for doubt in seeds.doubts(seed, sha256, beacon, seeds.published()):
            typer.echo(f"not ranked: {doubt}")
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
        reasons = _unranked(key, fact, choice, opened.count)
        if fact["status"] == "ranked" and reasons:
            raise RequestError(f"record {path} calls itself ranked, but {reasons[0]}. Do not rank it.")
        lines.append(f"{key}: set {opened.digest[:12]} is that of seed {fact['seed']}; status {fact['status']}")
        lines += [f"  not ranked: {reason}" for reason in reasons]
    return "\n".join(lines)


def _unranked(key: str, fact: dict[str, Any], choice: PromptChoice, images: int) -> list[str]:
    """What keeps a score from being ranked, by its record and by what was published."""
    from diffusionbench.benchmarks.simpleeval import guards, worlds
    from diffusionbench.benchmarks.simpleeval.report import SeedClaim, standing

    world = {world.key: world for world in (worlds.OPEN, worlds.SHAPES)}[key]
    raised = [
        guards.Guard(name, one["name"], one["value"], flagged=bool(one["flagged"]), note=one["note"])
        for name, one in fact["guards"].items()
        if name != "G9"
    ]
    # What was sampled again is counted here: its guard might say otherwise.
    found = (*raised, guards.regeneration(choice.again, guards.num_regenerated(images)))
    claim = SeedClaim(fact["seed"], choice.weights_digest, choice.beacon)
    return standing(world, 0.0 if fact["status"] == "incomplete" else 1.0, claim, choice.public is not None, found)[1]


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
    from diffusionbench.benchmarks.simpleeval import stress as harness

    if out is not None:
        check_place(out)
        check_gives_way(out, '"set_digest": "')
    names = [metric, *(name for name in against.split(",") if name)]
    chosen = list(harness.ATTACKS) if attacks == "all" else attacks.split(",")
    result = harness.run(names, chosen, layout=layout, seed=seed, accuracy=accuracy, progress=_progress)
    text = json.dumps(result.facts(), indent=2)
    try:
        if out is not None:
            write_result(out, text + "\n")
    finally:
        # A result that cannot be written is not lost.
        typer.echo(text if as_json else result.text())
    if result.missed:
        raise typer.Exit(3)


def _progress(line: str) -> None:
    typer.echo(line, err=True)
