"""`steadyvlm quantize`: apply a quantiser once and keep the result as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Quantise a model and save it.")
@click.option("--model", default="pocket", show_default=True, help="A registered name, a folder or a hub id.")
@click.option(
    "--quantizer",
    default="flatquant",
    show_default=True,
    help="As in a recipe: rtn_w4a4, hadamard_w4a4, flatquant, gptq or awq, with options.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The checkpoint's folder; it must not exist yet.",
)
@click.option(
    "--save-dtype",
    type=click.Choice(["model", "float16", "bfloat16", "float32"]),
    default="model",
    show_default=True,
    help="Precision of what is not packed; `model` answers bit for bit as in memory.",
)
@click.option("--stream", is_flag=True, help="Pack block by block from file to file; for rtn_w4a4 and hadamard_w4a4.")
@click.option("--device", default="auto", show_default=True, help="Where the quantiser works.")
@click.option("--dtype", default="auto", show_default=True, help="Precision the model is loaded in.")
def quantize(model: str, quantizer: str, out: Path, save_dtype: str, stream: bool, device: str, dtype: str) -> None:
    """Quantise a model and write it as a folder that loads in one call.

    Low-bit models (rtn_w4a4, hadamard_w4a4, flatquant) are written with packed weights in the format of this package;
    gptq and awq as compressed-tensors, for serving engines too. Nothing is overwritten.

    \b
    Examples:
      steadyvlm quantize --quantizer "flatquant(samples=32)" --out runs/pocket-int4
      steadyvlm quantize --model path/to/llava --quantizer "gptq(group=128)" --out llava-gptq
      steadyvlm quantize --model llava-hf/llava-1.5-7b-hf --quantizer hadamard_w4a4 --stream --out llava-int4
    """
    from steadyvlm.cli.quantize_data import quantize_lines
    from steadyvlm.cli.run import keep_loading_quiet

    keep_loading_quiet(model)
    lines = quantize_lines(
        model,
        quantizer,
        out,
        save_dtype=save_dtype,
        stream=stream,
        device=device,
        dtype=dtype,
        say=lambda text: click.echo(text, err=True),
    )
    for line in lines:
        click.echo(line)
