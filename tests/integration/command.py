"""Our command line, as users start it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
WORDS = [sys.executable, "-m", "threadsurgeon"]
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [*WORDS, *arguments],
        cwd=ROOT,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
    )


def begin(*arguments: str) -> subprocess.Popen[str]:
    """Start it."""
    return subprocess.Popen(
        [*WORDS, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for its end, and return its exit status and what it wrote."""
    output, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    return process.returncode, output, errors


def operate(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it to its end, and return its exit status and its report."""
    result = run(*arguments, "--json")
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)
