"""A W4A4 linear against the same linear in other formats, at the shapes of 7B models and of the pocket model.

Prefill is 636 rows (576 visual tokens and a prompt), decoding 1 row. All peers take bfloat16 activations and give
bfloat16 outputs:

    bf16      `torch.nn.functional.linear`
    fp32      the same in float32: what a CPU without bfloat16 instructions would run
    w8a8      int8 weights held as they are, activations rounded per token, `torch._int_mm`, scaled
    w4a4      `LowBitLinear`, weights packed two to a byte; the back-end "auto" takes on this device
    held      (CPU) the same 4-bit codes unpacked once to int8 and prepacked by oneDNN: twice the memory of w4a4

W4A4 rounds activations in every call, and that is part of its time. Measured in turn, round after round; a ratio is the
median over rounds of peer / w4a4, so above 1 means that w4a4 is faster. Bytes are those of the weight and its scales.
On a CUDA device calls are replayed from a graph, so that no launch waits for Python, over as many copies of the weights
as no cache holds.

Run: `python -m benchmarks.w4a4_linear`
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from steadyvlm.quantization.integer import quantize_rows
from steadyvlm.quantization.low_bit import LowBitLinear

SHAPES = {
    "LLaVA-1.5-7B q, k, v, o": (4096, 4096),
    "LLaVA-1.5-7B gate, up": (11008, 4096),
    "LLaVA-1.5-7B down": (4096, 11008),
    "Qwen2.5-VL-7B gate, up": (18944, 3584),
    "Qwen2.5-VL-7B down": (3584, 18944),
    "pocket q, k, v, o": (128, 128),
}
"""(O, I)."""
ROWS = (636, 1)
ROUNDS = 7
CACHE_BYTES = 256 * 2**20
"""More than any cache: on a GPU the weights of one round together are at least as large."""

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Row:
    """Times of one shape, in milliseconds, and what each format holds."""

    name: str
    rows: int
    milliseconds: dict[str, float]
    ratios: dict[str, float]
    megabytes: dict[str, float]

    def __str__(self) -> str:
        """One line of the table."""
        others = "   ".join(
            f"{name} {self.milliseconds[name]:8.3f} ms ({ratio:5.2f}x)" for name, ratio in self.ratios.items()
        )
        return f"{self.name:<24} {self.rows:4} rows   w4a4 {self.milliseconds['w4a4']:8.3f} ms   {others}"


def main() -> list[Row]:
    """Measure, print and return the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"w4a4_linear on {name}; time of each peer, and in brackets how many times as fast w4a4 is")
    table = []
    for shape, (outputs, inputs) in SHAPES.items():
        for rows in ROWS:
            row = measure(shape, rows, outputs, inputs, device)
            print(f"  {row}", flush=True)
            table.append(row)
        print("  " + " " * 26 + "weights, MB: " + ", ".join(f"{k} {v:.1f}" for k, v in row.megabytes.items()))
    return table


@torch.no_grad()
def measure(name: str, rows: int, outputs: int, inputs: int, device: torch.device) -> Row:
    """Time one shape in all formats."""
    copies = max(1, CACHE_BYTES // (outputs * inputs)) if device.type == "cuda" else 1
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(rows, inputs, device=device, generator=generator).to(torch.bfloat16)
    calls: dict[str, list[Call]] = {}
    held: dict[str, float] = {}
    for _ in range(copies):
        for kind, (call, size) in formats(x, outputs, inputs, generator).items():
            calls.setdefault(kind, []).append(call)
            held[kind] = size / 1e6
    timed = {kind: timer(all_of, device) for kind, all_of in calls.items()}
    times: dict[str, list[float]] = {kind: [] for kind in timed}
    for round_number in range(ROUNDS + 1):
        for kind, once in timed.items():
            seconds = once()
            if round_number:  # the first round warms up
                times[kind].append(seconds / copies)
    ratios = {
        kind: statistics.median(peer / own for peer, own in zip(times[kind], times["w4a4"], strict=True))
        for kind in times
        if kind != "w4a4"
    }
    return Row(name, rows, {kind: statistics.median(own) * 1000 for kind, own in times.items()}, ratios, held)


def formats(x: Tensor, outputs: int, inputs: int, generator: torch.Generator) -> dict[str, tuple[Call, int]]:
    """Return for each format a call and the bytes it holds for its weight."""
    device = x.device
    codes = torch.randint(-8, 8, (outputs, inputs), device=device, generator=generator, dtype=torch.int8)
    scale = torch.rand(outputs, device=device, generator=generator).to(torch.float16) / inputs
    weight = (codes * scale[:, None]).to(torch.bfloat16)
    low = LowBitLinear.from_codes(codes, scale, None)
    steps = scale.to(torch.float32)
    several = x.expand(32, -1) if device.type == "cuda" and len(x) == 1 else x  # `_int_mm` wants more than 16 rows

    def w8a8() -> Tensor:
        rounded, row_scale = quantize_rows(several, 8)
        return torch._int_mm(rounded, codes.t()).to(torch.float32).mul_(row_scale).mul_(steps).to(x.dtype)

    count = outputs * inputs
    made: dict[str, tuple[Call, int]] = {
        "w4a4": (lambda: low(x), low.packed.nbytes + scale.nbytes),
        "bf16": (lambda: linear(x, weight), 2 * count),
        "w8a8": (w8a8, count + scale.nbytes),
    }
    if device.type == "cpu":
        wide, wide_x = weight.to(torch.float32), x.to(torch.float32)
        made["fp32"] = (lambda: linear(wide_x, wide), 4 * count)
        made["held"] = (prepacked(x, codes, steps), count + scale.nbytes)
    assert torch.allclose(low(x).float(), w4a4_in_float(x, codes, steps), rtol=0.02, atol=1e-3)
    return made


def prepacked(x: Tensor, codes: Tensor, steps: Tensor) -> Call:
    """Return the product through oneDNN, its weight laid out for this processor beforehand."""
    operators, outputs = torch.ops.onednn, len(codes)
    laid_out = operators.qlinear_prepack(codes, list(x.shape))
    ones, zeros = torch.ones(outputs), torch.zeros(outputs, dtype=torch.int64)

    def call() -> Tensor:
        rounded, row_scale = quantize_rows(x, 4)
        total: Tensor = operators.qlinear_pointwise(
            *(rounded, 1.0, 0, laid_out, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        )
        return total.mul_(row_scale).mul_(steps).to(x.dtype)

    return call


def w4a4_in_float(x: Tensor, codes: Tensor, steps: Tensor) -> Tensor:
    """Return the same product in float32, to see that what is timed is right."""
    rounded, row_scale = quantize_rows(x, 4)
    return (rounded.float() @ codes.float().t()) * row_scale * steps


def timer(calls: list[Call], device: torch.device) -> Callable[[], float]:
    """Return a function that makes all calls and returns the seconds."""
    for call in calls:
        call()  # compiles and chooses tiles, where that is done
    if device.type == "cpu":

        def on_cpu() -> float:
            start = time.perf_counter()
            for call in calls:
                call()
            return time.perf_counter() - start

        return on_cpu
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def on_cuda() -> float:
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    return on_cuda


if __name__ == "__main__":
    main()
