"""What the compiler makes of the kernels for NVIDIA's GPUs: no GPU is needed to compile, and the code can be read.

Timings belong on a GPU; here stands what they rest on: integer tensor cores, weights taken apart in registers, nothing
spilled to memory, and no product fused with a sum where every step is to be rounded by itself.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton")

SCRIPT = """
import json, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from steadyvlm.quantization import triton_kernels as kernels, triton_programs as programs

TYPES = {"codes": "*i8", "row_scales": "*fp32", "packed": "*u8", "weight_scales": "*fp16", "bias": "*fp16",
         "out": "*bf16", "x": "*bf16", "scales": "*fp32", "clip_high": "fp32", "clip_low": "fp32"}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

def compiled(program, constants, capability, types=TYPES, **options):
    names = program.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [name for name in names if signature[name][0] == "*" or name in ("outputs", "width", "half", "inputs")]
    source = ASTSource(
        program, signature=signature, constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned})
    options = {"enable_fp_fusion": False, **options}
    kernel = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass = read("-res-usage", file.name), read("-sass", file.name)
    return {"usage": usage, "sass": sass, "shared": kernel.metadata.shared}

def read(what, path):
    return subprocess.run([TOOLS / "cuobjdump", what, path], capture_output=True, text=True, check=True).stdout

capability = int(sys.argv[1])
flags = {"HAS_BIAS": True, "ASSEMBLY": True}
out = {}
for rows, tiles in kernels.TILES.items():
    for o, n, k, stages, warps in tiles:
        constants = {**flags, "WHOLE": True, "BLOCK_O": o, "BLOCK_N": n, "BLOCK_K": k}
        out[f"multiply {rows} {o} {n} {k} {stages} {warps}"] = compiled(
            programs.multiply, constants, capability, num_stages=stages, num_warps=warps)
for o, k, warps in kernels.ONE_ROW_TILES:
    constants = {**flags, "column_stride": 1, "QMAX": 7, "BLOCK_O": o, "BLOCK_K": k}
    out[f"one_row {o} {k} {warps}"] = compiled(
        programs.one_row, constants, capability, {**TYPES, "packed": "*i32"}, num_warps=warps)
out["quantize"] = compiled(
    programs.quantize, {"column_stride": 1, "QMAX": 7, "BLOCK": 4096}, capability, num_warps=4)
print(json.dumps(out))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "instruction"), [(80, "IMMA.16832.S8.S8"), (90, "IGMMA")])
def test_integer_tensor_cores_no_spills_no_fusion(capability: int, instruction: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(capability)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert made.returncode == 0, made.stderr[-3000:]
    kernels = json.loads(made.stdout)
    for name, kernel in kernels.items():
        assert re.search(r"STACK:0 .*LOCAL:0", kernel["usage"]), (name, kernel["usage"])
        # Hopper's wide instruction starts at 64 outputs; smaller tiles use the one of Ampere.
        if name.startswith("multiply"):
            wide = int(name.split()[2]) >= 64
            assert (instruction if wide else "IMMA.16832.S8.S8") in kernel["sass"], name
            assert "FFMA" not in kernel["sass"], name
            assert kernel["shared"] <= (163 if capability == 80 else 227) * 1024, name
        if name.startswith("one_row"):
            assert "IDP.4A.S8.S8" in kernel["sass"], name
