"""What a low-bit model occupies, on disk and in memory, beside the same model in bfloat16 and float32.

A random LLaVA (8 decoder layers of width 1024, 576 visual tokens) is written once as it is and once packed by
`rtn_w4a4`. Each is then loaded and asked one question in a process of its own, on the CPU. Counted are the files, the
tensors of the loaded model, the process's peaks while it loads and while it answers, and what it occupies afterwards,
these three above what Python with torch and this package occupied before. Files are mapped into memory: numbers that
are used as they lie there arrive with the first answer. The cache of keys and values is that of the whole prompt.

Run: `python -m benchmarks.low_bit_memory`
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers.utils import logging

from benchmarks.engine_vs_generate import random_llava
from steadyvlm.recipes import accelerate
from steadyvlm.recipes.saving import save

CHILD = """
import json, sys
from pathlib import Path
import torch
import transformers.models.llava.modeling_llava  # part of what is there before
from benchmarks.prefill_speedup import QUESTION, picture
from steadyvlm.engine import Request
from steadyvlm.engine.generate import generate
from steadyvlm.models.load import load
from steadyvlm.records import Generation
from steadyvlm.recipes import accelerate

def memory(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))

def reset_peak():
    Path("/proc/self/clear_refs").write_text("5")

torch.set_grad_enabled(False)
before = memory("VmRSS")
reset_peak()
model = load(sys.argv[1], device="cpu", dtype=sys.argv[2])
figures = {"loading": memory("VmHWM") - before}
tensors = {id(tensor): tensor for tensor in (*model.module.parameters(), *model.module.buffers())}
figures["tensors"] = sum(tensor.nbytes for tensor in tensors.values())
reset_peak()
(answer,) = generate(model, [Request((picture(side=336),), QUESTION, 1)], accelerate(model).reduction, max_new_tokens=8)
assert isinstance(answer, Generation), answer
figures["answering"], figures["after"] = memory("VmHWM") - before, memory("VmRSS") - before
figures["cache"] = answer.cost.cache_bytes
print(json.dumps(figures))
"""


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Load the model of a folder in a process of its own, ask it, and return the bytes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), dtype], stdout=subprocess.PIPE, text=True, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    return {"disk": sum(path.stat().st_size for path in folder.glob("*.safetensors")), **figures}


def main() -> dict[str, dict[str, float]]:
    """Measure, print and return the bytes of each form."""
    model = random_llava(width=1024, layers=8, heads=8, vision_width=256, vision_layers=4, side=336, patch=14)
    count = sum(parameter.numel() for parameter in model.module.parameters())
    print(f"low_bit_memory: a LLaVA of {count / 1e6:.0f} million parameters; MB")
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as place:
        plain, packed = Path(place) / "plain", Path(place) / "packed"
        model.module.to(torch.bfloat16)
        model.module.save_pretrained(plain)
        model.write_settings(plain)
        save(accelerate(model, "rtn_w4a4()"), packed)
        del model
        table = {
            "float32": measure(plain, "float32"),
            "bfloat16": measure(plain, "bfloat16"),
            "W4A4KV4": measure(packed, "bfloat16"),
        }
    columns = ("disk", "tensors", "loading", "answering", "after", "cache")
    print(f"  {'':<10}" + "".join(f"{column:>12}" for column in columns))
    for name, figures in table.items():
        print(f"  {name:<10}" + "".join(f"{figures[column] / 1e6:12.1f}" for column in columns))
    for name in ("float32", "bfloat16"):
        ratios = [table[name][column] / table["W4A4KV4"][column] for column in columns]
        print(f"  {name + ' / 4 bit':<10}" + "".join(f"{ratio:11.2f}x" for ratio in ratios))
    return table


if __name__ == "__main__":
    main()
