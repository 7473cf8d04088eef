"""`steadyvlm calibration-set`: freeze examples in a file, and see whether a set can still be used."""

from __future__ import annotations

from pathlib import Path

import click


@click.group("calibration-set", short_help="Freeze calibration examples in a file, with hashes.")
def calibration_set() -> None:
    """Make and check the frozen lists of examples that quantisers and schedules are calibrated on.

    \b
    Examples:
      steadyvlm calibration-set build coco.json --source "llava(path='llava_v1_5_mix665k.json', images='data')"
      steadyvlm calibration-set check coco.json
    """


@calibration_set.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--source",
    "sources",
    multiple=True,
    required=True,
    help="Where samples come from; repeat it to mix, with share=… for other than equal shares.",
)
@click.option("--name", help="How the set is called in messages; the file's name unless given.")
@click.option("--samples", type=click.IntRange(min=1), default=384, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the samples.")
def build(out: Path, sources: tuple[str, ...], name: str | None, samples: int, seed: int) -> None:
    """Draw samples from data you have and write the set's file; pictures stay where they are.

    \b
    Sources:
      llava(path='llava_v1_5_mix665k.json', images='data', only='coco/')   LLaVA's instruction data
      jsonl(path='questions.jsonl', images='pictures')                     rows with "prompt" and maybe "image"
      lines(path='wikitext.txt', words=200)                                text alone
    \b
    The mixture for Qwen2.5-VL, a fifth each:
      steadyvlm calibration-set build qwen.json \\
        --source "llava(path='llava_v1_5_mix665k.json', images='data', group='general')" \\
        --source "lines(path='wikitext.txt', group='text')" \\
        --source "jsonl(path='textvqa.jsonl', images='textvqa', group='reading')" \\
        --source "jsonl(path='docvqa.jsonl', images='docvqa', group='documents')" \\
        --source "jsonl(path='chartqa.jsonl', images='chartqa', group='charts')"
    """
    from steadyvlm.calibration.build_set import SOURCES, build_set

    content = build_set(name or out.stem, [SOURCES.create(text) for text in sources], out, samples=samples, seed=seed)
    _describe(content.name, [sample.group for sample in content.samples])
    click.echo(f"Written to {out}. Use it: calibration='{out}'.")


@calibration_set.command()
@click.argument("name")
def check(name: str) -> None:
    """Read a set, by name or file, and compare every picture with its hash."""
    from steadyvlm.calibration.sets import find_set

    found = find_set(name)
    found.requests()
    _describe(found.name, [sample.group for sample in found.samples])
    click.echo(f"All pictures are there and unchanged. Content {found.sha256[:12]}.")


def _describe(name: str, groups: list[str]) -> None:
    counts = ", ".join(f"{groups.count(group)} {group}" for group in dict.fromkeys(groups))
    click.echo(f"Calibration set '{name}': {len(groups)} samples ({counts}).")
