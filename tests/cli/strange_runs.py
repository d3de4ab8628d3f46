"""Run directories as a command may meet them: at work, killed in each phase, damaged file by file, and strangers'.

Each is made out of a finished run that nobody trained. `print_of` is what must not change while a command looks at it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftcli import tiny
from ftcli.core.exit_codes import EXIT_INTERRUPTED, EXIT_MEMORY
from ftcli.evaluations import record
from ftcli.runs import run_end, rundir
from ftcli.runs.profiles.profile_file import PROFILE, PartTime, ProcessProfile, write_profile
from ftcli.runs.run_end import RunEnd
from tests.reports.folders import HOSTILE, run_folder

HUGE = 300 << 20
"""Bytes of a file that is nothing but a hole."""
BEFORE, RETENTION, EVALUATION = "before.json", "retention.json", f"{record.FOLDER}/20261201-000000-000000-measures.json"
STRANGE = "\x1b[31m\u202e\rFORGED\nFORGED" + HOSTILE
_SEALED = 1 << 20
"""Files up to this size are compared by their bytes, larger ones by size and time."""

Change = Callable[[Path], object]


def sound(run: Path) -> Path:
    """A finished run with a model, a checkpoint and all files beside them."""
    run_folder(run, "train.max_steps=40", "data.eval_share=0.1")
    model = run / rundir.MODEL
    shutil.copytree(tiny.MODEL_DIR, model, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    kind = {"peft_type": "LORA", "base_model_name_or_path": str(tiny.MODEL_DIR), "task_type": "CAUSAL_LM"}
    rundir.write_json(model / "adapter_config.json", kind)
    (model / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    checkpoint = run / rundir.CHECKPOINTS / "checkpoint-40"
    checkpoint.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.safetensors"):
        (checkpoint / name).write_bytes(b"\0" * 64)
    rundir.write_json(checkpoint / "trainer_state.json", {"global_step": 40})
    rundir.write_json(run / rundir.INPUTS, {"schema": 1, "files": []})
    rundir.write_json(run / rundir.ENVIRONMENT, {"schema": 2, "python": "3.11"})
    (run / rundir.LOG).write_text("step 40/40  loss 2.0\n", encoding="utf-8")
    row = {"where": "rows.jsonl:1", "set": "train", "reason": "too long"}
    (run / rundir.DROPPED).write_text(json.dumps(row) + "\n", encoding="utf-8")
    (run / rundir.LOCK).touch()
    (run / rundir.WORKER_LOCK).touch()
    beside_the_result(run)
    pushed = {"repository": "anna/model", "commit": "0" * 40, "private": True, "folder": rundir.MODEL}
    rundir.write_json(run / rundir.PUSHES, {"schema": 1, "pushes": [pushed]})
    run_end.write(run, RunEnd(code=0))
    return run


def beside_the_result(run: Path) -> None:
    """What only some runs keep."""
    phase = {"name": "training", "within": False, "times": 1, "seconds": 75.0}
    rundir.write_json(run / rundir.PHASES, {"schema": 1, "over": [phase], "now": "", "since": 0.0})
    rundir.write_json(run / rundir.PLAN, {"schema": 1, "memory_gib": 1.0, "seconds": 60.0})
    rundir.write_json(run / BEFORE, {"eval_loss": 3.0, "score": {"name": "exact_match", "value": 0.0, "rows": 2}})
    rundir.write_json(run / RETENTION, {"set": "builtin:general", "digest": "0" * 64, "before": {"facts": [-1.0]}})
    write_profile(
        run,
        ProcessProfile(rank=0, processes=1, from_step=0, steps=40, seconds=75.0, parts={
            "import": PartTime(seconds=5.0, times=1), "forward": PartTime(seconds=70.0, times=40)}),
    )  # fmt: skip
    line = {"name": "perplexity", "higher_is_better": False, "measured": {
        "value": 8.0, "low": 7.0, "high": 9.0, "rows": 4, "interval": "bootstrap"}}  # fmt: skip
    kept = record.keep(run, "measures", {"title": "perplexity on 4 rows", "lines": [line]})
    kept.rename(run / EVALUATION)


FILES = (
    rundir.SPEC, rundir.RESULT, rundir.METRICS, rundir.END, rundir.LEDGER, rundir.ENVIRONMENT, rundir.INPUTS,
    rundir.COMMAND, rundir.LOG, rundir.DROPPED, rundir.SHOWN, rundir.ANSWERS, rundir.LOCK, rundir.WORKER_LOCK,
    rundir.PUSHES, rundir.PHASES, rundir.PLAN, BEFORE, RETENTION, PROFILE, EVALUATION, "model/adapter_config.json",
    "model/adapter_model.safetensors", "model/tokenizer.json", "model/tokenizer_config.json",
    "checkpoints/checkpoint-40/trainer_state.json",
)  # fmt: skip


def _replaced(file: Path, make: Callable[[Path], object]) -> None:
    file.unlink(missing_ok=True)
    make(file)


def _hole(file: Path) -> None:
    with open(file, "wb") as stream:
        stream.truncate(HUGE)


DAMAGE: dict[str, Change] = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if file.is_file() else b"{"),
    "empty": lambda file: file.write_bytes(b""),
    "list": lambda file: file.write_text("[[1, null], {}]\n", encoding="utf-8"),
    "number": lambda file: file.write_text("7\n", encoding="utf-8"),
    "nulls": lambda file: file.write_bytes(b"\0" * 5000),
    "no-text": lambda file: file.write_bytes(b"\xff\xfe{\x80"),
    "deep": lambda file: file.write_bytes(b"[" * 200_000),
    "later": lambda file: file.write_text('{"schema": 99}\n', encoding="utf-8"),
    "gone": lambda file: file.unlink(missing_ok=True),
    "folder": lambda file: _replaced(file, Path.mkdir),
    "dangling": lambda file: _replaced(file, lambda at: at.symlink_to("nowhere")),
    "circle": lambda file: _replaced(file, lambda at: at.symlink_to(at.name)),
    "pipe": lambda file: _replaced(file, os.mkfifo),
    "huge": lambda file: _replaced(file, _hole),
}
"""By name, what may have happened to a file."""


def _without(*names: str) -> Change:
    def change(run: Path) -> None:
        for name in names:
            place = run / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)

    return change


_LATE = (rundir.RESULT, rundir.END)
_FIRST = (
    rundir.METRICS, rundir.SHOWN, rundir.ANSWERS, rundir.CHECKPOINTS, rundir.MODEL, rundir.PHASES, rundir.PLAN, BEFORE,
    RETENTION, PROFILE, record.FOLDER, rundir.PUSHES, *_LATE,
)  # fmt: skip


def _stopped(code: int) -> Change:
    def change(run: Path) -> None:
        _without(rundir.MODEL, rundir.RESULT)(run)
        run_end.write(run, RunEnd(code=code, message="told", rank=0, host="here", step=3))

    return change


def _while_saving(run: Path) -> None:
    _without(rundir.MODEL, *_LATE)(run)
    (run / rundir.CHECKPOINTS / "checkpoint-40").rename(run / rundir.CHECKPOINTS / ".checkpoint-40.1234")


_ALL_BUT_A_SPEC = (rundir.COMMAND, rundir.INPUTS, rundir.LEDGER, rundir.ENVIRONMENT, rundir.LOG, *_FIRST)


def _while_writing_the_spec(run: Path) -> None:
    _without(rundir.SPEC, *_ALL_BUT_A_SPEC)(run)
    (run / f".{rundir.SPEC}.1234").write_text("{")


HALF: dict[str, Change] = {
    "while-writing-the-spec": _while_writing_the_spec,
    "with-a-spec": _without(*_ALL_BUT_A_SPEC),
    "preparing-rows": _without(rundir.LEDGER, rundir.ENVIRONMENT, *_FIRST),
    "before-a-step": _without(*_FIRST),
    "between-saves": _without(rundir.CHECKPOINTS, rundir.MODEL, *_LATE),
    "in-a-save": _while_saving,
    "after-a-save": _without(rundir.MODEL, *_LATE),
    "in-the-last-save": lambda run: (_without(*_LATE)(run), _without("model/adapter_config.json")(run)),
    "before-the-result": _without(*_LATE),
    "before-the-end": _without(rundir.END),
    "stopped": _stopped(EXIT_INTERRUPTED),
    "failed": _stopped(EXIT_MEMORY),
}  # fmt: skip
"""By phase, what is there of a run that was killed in it."""


def _written(name: str, change: Callable[[dict], object]) -> Change:  # type: ignore[type-arg]
    def write(run: Path) -> None:
        content = json.loads((run / name).read_text(encoding="utf-8"))
        change(content)
        rundir.write_json(run / name, content)

    return write


def _strange_texts(run: Path) -> None:
    """Each text in each file steers a terminal and a page."""
    texts = (rundir.RESULT, rundir.END, rundir.ENVIRONMENT, rundir.SHOWN, rundir.ANSWERS, rundir.PUSHES, rundir.PHASES)
    for name in (*texts, EVALUATION, PROFILE, RETENTION, BEFORE):
        rundir.write_json(run / name, _strange(json.loads((run / name).read_text(encoding="utf-8"))))
    lines = (run / rundir.METRICS).read_text(encoding="utf-8").splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), STRANGE: 1.0, f"eval_{STRANGE}": 2.0})
    (run / rundir.METRICS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in (rundir.COMMAND, rundir.LOG):
        (run / name).write_text(STRANGE, encoding="utf-8")
    row = {"where": STRANGE, "set": STRANGE, "reason": STRANGE, "row": {STRANGE: STRANGE}}
    (run / rundir.DROPPED).write_text(json.dumps(row) + "\n", encoding="utf-8")


def _strange(value: object) -> object:
    if isinstance(value, dict):
        return {key: _strange(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_strange(each) for each in value]
    return STRANGE if isinstance(value, str) else value


def _outside(run: Path) -> Path:
    """What is nobody's business, beside the folder of all runs."""
    return run.parents[2] / "outside"


def _rows_elsewhere(run: Path) -> None:
    rows = str(_outside(run) / "rows.jsonl")
    _written(rundir.SPEC, lambda spec: spec["data"].update(path=rows, eval_path=rows))(run)


def _model_elsewhere(run: Path) -> None:
    _written(rundir.SPEC, lambda spec: spec["model"].update(name_or_path=str(_outside(run))))(run)


def _linked_out(name: str) -> Change:
    def change(run: Path) -> None:
        place, outside = run / name, _outside(run)
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
        place.symlink_to(outside / "private.txt" if place.suffix else outside)

    return change


def _pickled(run: Path) -> None:
    code = b"cos\nsystem\n(S'touch PWNED'\ntR."
    for name in ("checkpoints/checkpoint-40/optimizer.pt", "model/adapter_model.bin", "model/pytorch_model.bin"):
        (run / name).write_bytes(code)
    (run / "model/adapter_model.safetensors").unlink()


STRANGERS: dict[str, Change] = {
    "texts": _strange_texts,
    "rows-elsewhere": _rows_elsewhere,
    "model-elsewhere": _model_elsewhere,
    "names": _written(rundir.SPEC, lambda spec: spec["run"].update(name=STRANGE, dir="/etc")),
    "choices": _written(rundir.SPEC, lambda spec: spec["choices"].update(method=STRANGE, peft="../../x")),
    "own-grants": _written(
        rundir.SPEC,
        lambda spec: (
            spec.update(grants=["--trust-remote-code", "--allow-write"]),
            spec["model"].update(trust_remote_code=True),
        ),
    ),
    "card": _written(
        rundir.RESULT, lambda result: result.update(machine={"peak_reserved_gib": 1.0, "peak_allocated_gib": 1.0})
    ),
    "card-and-rows": lambda run: (STRANGERS["card"](run), STRANGERS["rows-elsewhere"](run)),
    "card-and-model": lambda run: (STRANGERS["card"](run), STRANGERS["model-elsewhere"](run)),
    "result": _written(rundir.RESULT, lambda result: result.update(steps={}, seconds="x", warnings=[1], score=[])),
    "base-elsewhere": _written(
        "model/adapter_config.json",
        lambda config: config.update(base_model_name_or_path="/etc", auto_mapping={"parent_library": "os"}),
    ),
    "pickles": _pickled,
    **{f"link-{name}": _linked_out(name) for name in (
        rundir.SPEC, rundir.RESULT, rundir.METRICS, rundir.LOG, rundir.LOCK, rundir.COMMAND, rundir.MODEL,
        rundir.CHECKPOINTS, rundir.SHOWN, rundir.END, rundir.REPORT,
    )},
}  # fmt: skip
"""By name, what a stranger may have put into a run."""


NO_RUNS: dict[str, Change] = {
    "nothing": lambda place: None,
    "an-empty-folder": Path.mkdir,
    "a-folder-of-notes": lambda place: (Path.mkdir(place), (place / "notes.txt").write_text(STRANGE)),
    "a-folder-named-as-a-spec": lambda place: (place / rundir.SPEC).mkdir(parents=True),
    "a-file": lambda place: place.write_text(STRANGE),
    "an-empty-file": Path.touch,
    "a-pipe": os.mkfifo,
    "a-dangling-link": lambda place: place.symlink_to("nowhere"),
    "a-circle": lambda place: place.symlink_to(place.name),
    "a-hole": lambda place: _hole(place),
}
"""By name, what may stand where a run is looked for, and is none."""


@contextmanager
def at_work(run: Path) -> Iterator[None]:
    """Another process holds both locks of a run, as a command and its worker do."""
    held = (
        "import fcntl, os, sys\n"
        "files = [os.open(name, os.O_RDWR | os.O_CREAT) for name in sys.argv[1:]]\n"
        "[fcntl.flock(file, fcntl.LOCK_EX) for file in files]\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-S", "-c", held, str(run / rundir.LOCK), str(run / rundir.WORKER_LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()


def print_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """Everything in a folder: what it is, when it was written, and its bytes or where it leads."""
    found = {}
    for here, folders, files in os.walk(folder):
        for name in (".", *folders, *files):
            path = Path(here, name)
            about = path.lstat()
            content: object = None
            if stat.S_ISLNK(about.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(about.st_mode) and about.st_size <= _SEALED:
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (about.st_mode, about.st_size, about.st_mtime_ns, content)
    return found
