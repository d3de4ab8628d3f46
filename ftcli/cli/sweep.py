"""`ftcli train -m`: one job per combination of comma-separated values."""

from __future__ import annotations

import argparse
import subprocess
import sys

from ftcli.cli import arguments, output
from ftcli.config.overrides import expand, parse
from ftcli.core.errors import EXIT_DONE, EXIT_INTERRUPTED


def sweep(options: argparse.Namespace) -> int:
    """Run each job in its own process, so that a failing job does not end the others."""
    jobs, flags = expand(arguments.overrides(options)), []
    for folder in options.config_dir:
        flags += ["--config-dir", str(folder)]
    flags += [flag for flag in arguments.GRANTS if getattr(options, flag.strip("-").replace("-", "_"))]
    flags += [flag for flag, given in (("--dry-run", options.dry_run), ("--json", options.json)) if given]
    codes = []
    for number, job in enumerate(jobs):
        words = [f"run.dir={parse(word).value}/{number}" if word.startswith("run.dir=") else word for word in job]
        output.note(f"job {number + 1} of {len(jobs)}: {' '.join(words)}")
        codes.append(subprocess.run([sys.executable, "-m", "ftcli", "train", *words, *flags], check=False).returncode)
        if codes[-1] in (EXIT_INTERRUPTED, 130):
            break
    output.note(
        f"{codes.count(0)} of {len(jobs)} jobs done"
        + "".join(f"\n  job {i + 1}: exit {c}" for i, c in enumerate(codes) if c)
    )
    return next((code for code in codes if code), EXIT_DONE)
