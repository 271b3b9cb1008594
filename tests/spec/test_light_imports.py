"""Everything on the way to a plan imports quickly, and without torch."""

from __future__ import annotations

import subprocess
import sys


def test_specifications_import_neither_torch_nor_numpy() -> None:
    program = (
        "import sys\n"
        "import antiphon.spec.read_job, antiphon.spec.plan, antiphon.registry\n"
        "heavy = {'torch', 'numpy', 'scipy', 'transformers', 'rich', 'typer'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "[]\n"
