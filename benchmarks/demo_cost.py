"""What the demo study costs: wall time, share of it spent outside the model, and peak memory of its process.

Limits it is held against: 5 minutes on 2 cores, 10 % for the harness, 4 GB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

CHILD = """
import json, sys
from pathlib import Path
from steadyvlm.study.plan import Study
from steadyvlm.study.runner import run

result = run(Study.from_yaml("pocket-demo"), Path(sys.argv[1]))
times = result.times
print(json.dumps({
    "answers": len(result.original) + len(result.control) + sum(len(arm) for arm in result.arms.values()),
    "runs": 2 + len(result.arms), "wall_s": times.wall_s, "setup_s": times.setup_s, "model_s": times.model_s,
    "harness_s": times.harness_s,
}))
"""


def measure() -> dict[str, float]:
    """Run the demo study in a process of its own and return its figures."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out:
        child = subprocess.Popen([sys.executable, "-c", CHILD, f"{folder}/demo"], stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit("the demo study failed; run `steadyvlm demo` to see why.")
        out.seek(0)
        figures = json.loads(out.read().splitlines()[-1])
    # Linux counts the peak in KiB, macOS in bytes.
    figures["peak_gb"] = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return dict(figures)


def main() -> None:
    """Print the figures."""
    figures = measure()
    wall = figures["wall_s"]
    print(f"{figures['runs']} runs, {figures['answers']} answers in {wall:.0f} s (limit 300 s)")
    print(
        f"model {figures['model_s'] / wall:.1%}, loading and quantising {figures['setup_s'] / wall:.1%}, "
        f"harness {figures['harness_s'] / wall:.1%} (limit 10 %)"
    )
    print(f"peak memory {figures['peak_gb']:.2f} GB (limit 4 GB)")


if __name__ == "__main__":
    main()
