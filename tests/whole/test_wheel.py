"""The wheel, installed outside the checkout, carries all that a first training needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.whole.conftest import TIMEOUT_SECONDS, environment


def test_the_wheel_trains_outside_the_checkout(tmp_path):
    wheels = tmp_path / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, cwd=tmp_path)
    [wheel] = wheels.glob("ftcli-*.whl")
    home = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)], check=True)
    # The libraries come from this environment's folder; its own ftcli hangs on a .pth file, which is not read.
    site = next((home / "lib").glob("python*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    clean = {key: value for key, value in environment().items() if key != "PYTHONPATH"}
    command = [str(home / "bin" / "ftcli")]

    def run(*words: str) -> str:
        done = subprocess.run(
            [*command, *words],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = subprocess.run(
        [str(python), "-c", "import ftcli; print(ftcli.__file__)"],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(home)
    assert "demo" in run("list", "recipe")
    assert "llama" in run("list", "model")
    assert "sft of builtin:tiny" in run(
        "train", "recipe=demo", "train.max_steps=2", "run.score_rows=8", "run.dir=run", "hardware.num_threads=1",
        "data.max_rows=64", "data.max_eval_rows=16",
    )  # fmt: skip
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
    assert (Path(where.stdout.strip()).parent / "py.typed").is_file()
    assert os.path.getsize(wheel) < 8_000_000
