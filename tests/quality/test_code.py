"""The tools that keep the code in order find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ruff", "check", "."],
        ["-m", "ruff", "format", "--check", "."],
        # its module does nothing when it is run
        ["-c", "from importlinter.cli import lint_imports_command as run; run()"],
        ["-m", "basedpyright"],
    ],
    ids=["ruff check", "ruff format", "import layers", "types"],
)
def test_tool_finds_nothing(command):
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
