"""What must work without torch does not load it: each check runs in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LOGS = Path(__file__).parents[1] / "cli" / "logs"
HEAVY = ("torch", "transformers", "bitsandbytes", "sklearn")

LIGHT = {
    "the package": "import steadyvlm",
    "its public names": "import steadyvlm; dir(steadyvlm); steadyvlm.Sample, steadyvlm.Prediction, steadyvlm.compare",
    "records, tasks, stability": "import steadyvlm.records, steadyvlm.tasks.logs, steadyvlm.stability",
    "the report and the store": "import steadyvlm.report, steadyvlm.study.store, steadyvlm.study.result",
    "the tables of names": "from steadyvlm.cli.catalogue import registries; [list(t) for t in registries().values()]",
    "--help": "from steadyvlm.cli.main import main; main(['--help'])",
    "list": "from steadyvlm.cli.main import main; assert main(['list']) == 0",
    "compare": (
        "from steadyvlm.cli.main import main; "
        f"assert main(['compare', r'{LOGS / 'original.jsonl'}', r'{LOGS / 'accelerated.jsonl'}']) == 0"
    ),
}


@pytest.mark.parametrize("what", LIGHT)
def test_no_heavy_library_is_loaded(what: str) -> None:
    code = f"{LIGHT[what]}\nimport sys\nsys.exit(', '.join(n for n in {HEAVY!r} if n in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{what} loads or breaks on: {done.stderr}"


def test_importing_the_package_loads_only_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import steadyvlm; "
        "new = {n.split('.')[0] for n in set(sys.modules) - before} - {'steadyvlm'}; "
        "sys.exit(', '.join(sorted(new - set(sys.stdlib_module_names))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
