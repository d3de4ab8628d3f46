"""Every command that takes a run, on runs at work, half-finished, damaged and strangers': it says so clearly, changes
nothing in them or beside them, waits for nothing, and runs nothing of theirs.

Workers are not started here: what the front half would hand to one is noted in its place. tests/chaos/hostile.py says
what the front half opens; tests/chaos/damage.py and tests/whole/test_verify.py have workers that meet damage.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.cli import COMMANDS, chat, export, generate, main, merge, sample, score
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_CHECKPOINT, EXIT_CONFIG, EXIT_DATA, EXIT_DONE
from ftcli.core.untrusted.printable import printable
from ftcli.launch import worker_request
from ftcli.runs import rundir
from ftcli.serving import replaying
from ftcli.serving import running as server
from tests.cli.strange_folders import FOLDERS
from tests.cli.strange_runs import DAMAGE, FILES, HALF, NO_RUNS, STRANGERS, at_work, print_of, sound

RUN = "runs/sft/1"
TAKE: dict[str, list[str]] = {
    "train": ["train --resume RUN --dry-run", "train --from RUN --dry-run", "train model.name_or_path=RUN --dry-run"],
    "check": ["check --from RUN", "check model.name_or_path=RUN"],
    "plan": ["plan --from RUN"],
    "show": ["show --from RUN"],
    "report": ["report RUN --to OUT/page.html", "report RUN --to OUT/points.csv", "report RUN --json --to OUT/x.svg"],
    "watch": ["watch --once", "watch RUN --once", "watch RUN --json"],
    "runs": ["runs list", "runs list runs --json", "runs compare RUN SOUND", "runs compare RUN"],
    "eval": [
        "eval RUN",
        "eval RUN --tasks mine.yaml",
        "eval SOUND --model RUN",
        "eval RUN --measure perplexity",
        "eval RUN/model --measure perplexity,preferences --data rows.jsonl --json",
        "eval SOUND --measure reward --reward-model RUN --data rows.jsonl",
        "eval RUN --against SOUND --judge SOUND",
        "eval SOUND --against RUN --judge RUN --data rows.jsonl",
    ],
    "merge": ["merge RUN --to OUT/merged"],
    # --to gguf has its converter read a copy of the tokenizer, in a process of its own: its own tests are about that.
    "export": ["export RUN --out OUT/model", "export RUN --to vllm --out OUT/model"],
    "push": ["push RUN anna/model", "push RUN anna/model --dry-run", "push RUN anna/model --dry-run --public --json"],
    "serve": ["serve RUN --with transformers", "serve RUN --with vllm"],
    "chat": ["chat RUN"],
    "generate": ["generate RUN hello", "generate RUN/model hello --json"],
    "score": ["score RUN rows.jsonl"],
    "sample": ["sample RUN rows.jsonl --to OUT/samples.jsonl"],
    # --at URL reaches whom the line names, which is what is asked for: tests/serving is about that.
    "verify": [
        "verify RUN",
        "verify RUN/model --json",
        "verify RUN --at RUN/model",
        "verify RUN --at SOUND/model --json",
        "verify SOUND --at RUN/model",
        "verify SOUND --at RUN/model/tokenizer_config.json",
        "verify RUN --at RUN/model/Modelfile",
    ],
    "data": ["data dropped RUN", "data dropped RUN --json", "data check --rows-only --from RUN"],
    "recipe": ["recipe inspect RUN", "recipe diff RUN SOUND", "recipe save RUN --to OUT/recipe.yaml"],
    "sweep": ["sweep --resume RUN --dry-run", "sweep --resume RUN --dry-run --json"],
}
"""Commands that take a run; OUT and SOUND are beside it."""
NO_RUN = {
    "list": "names alone", "doctor": "this machine", "init": "a new recipe", "advise": "rows",
    "plugins": "folders of code", "schema": "the settings", "completion": "a shell", "help": "the commands",
    "reproduce": "a lock, whose run only a whole one can be",
}  # fmt: skip
ACT = {"train", "check", "plan", "show", "eval"}
"""Those that act on the rows and the model that a run names, and so read them; all others keep to its folder."""
LINES = [line for lines in TAKE.values() for line in lines]
CODES = {EXIT_DONE, EXIT_CONFIG, EXIT_DATA, EXIT_CHECKPOINT}
WAITS_SECONDS = 120
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{completion}}"
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CONTENT = "nobody-may-see-this"
_WATCHED: list[list[str]] = []
"""Of the command that is at work: what it opens elsewhere and starts."""
_ACTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class")


def _noted(event: str, arguments: tuple[Any, ...]) -> None:
    if not _WATCHED:
        return
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith("/etc/") or "/outside/" in path:
            _WATCHED[-1].append(f"opens {path}")
    elif event.startswith(_ACTS):
        _WATCHED[-1].append(f"{event} {arguments[:2]}")


sys.addaudithook(_noted)


def test_every_command_is_listed_here():
    assert {*TAKE, *NO_RUN} >= {*COMMANDS}
    assert not {*TAKE} & {*NO_RUN}


Typed = Callable[..., list[str]]


@pytest.fixture
def look(here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """Types a line at a run; returns its faults, of which there may be none."""
    shutil.copy(tiny.set_path("sft", "train"), here / "rows.jsonl")
    (here / "mine.yaml").write_text(TASK, encoding="utf-8")
    (here / "outside").mkdir()
    (here / "outside" / "private.txt").write_text(CONTENT)
    (here / "outside" / "config.json").write_text('{"model_type": "llama"}')
    shutil.copy(tiny.set_path("sft", "train"), here / "outside" / "rows.jsonl")
    sound(here / "base")
    shutil.copytree(here / "base", here / "sound" / "1")
    handed: list[str] = []

    def answers(command: str, _: Any) -> Iterator[dict[str, Any]]:
        handed.append(command)
        raise worker_request.WorkerFailed(2)

    def started(command: str, *_: Any, **__: Any) -> None:
        handed.append(command)
        raise ConfigError(Problem("the worker", "is not started here"))

    for module in (export, merge, generate, sample, score, worker_request):
        monkeypatch.setattr(module, "answers", answers)
    monkeypatch.setattr(chat, "started", started)
    monkeypatch.setattr(replaying, "started", started)
    monkeypatch.setattr(server, "running", started)

    def typed(line: str, *, refused: bool = False) -> list[str]:
        words = line.replace("RUN", RUN).replace("OUT", "out").replace("SOUND", "sound/1").split()
        shutil.rmtree(here / "out", ignore_errors=True)
        (here / "out").mkdir()
        handed.clear()
        capfd.readouterr()
        watched = [here / name for name in ("runs", "sound", "outside")]
        before = {name: each for folder in watched for name, each in print_of(folder).items()}
        code, acts = _run(words)
        after = {name: each for folder in watched for name, each in print_of(folder).items()}
        out, err = capfd.readouterr()
        faults = [*(f"changes {name}" for name in {*before, *after} if before.get(name) != after.get(name))]
        faults += [act for act in sorted({*acts}) if words[0] not in ACT or not act.startswith("opens")]
        faults += _told(code, out, err, handed)
        if refused and (code != EXIT_CONFIG or handed):
            faults.append(f"is not refused: {code} {handed}")
        return [f"{line}: {fault}" for fault in faults]

    return typed


def _run(words: Sequence[str]) -> tuple[int, list[str]]:
    """The exit code of a command, and what it opened elsewhere or started."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(WAITS_SECONDS)
    _WATCHED.append([])
    try:
        return main(words), _WATCHED[-1]
    finally:
        signal.alarm(0)
        _WATCHED.pop()


def _too_long(*_: object) -> None:
    raise TimeoutError("the command waits for something")


def _told(code: int, out: str, err: str, handed: Sequence[str]) -> Iterator[str]:
    """What is wrong with a command's exit code and with what it printed."""
    shown = out + err
    if "Traceback" in err or code not in CODES:
        yield f"ends with {code}: {shown[-900:]}"
    if code and not handed and not shown.strip():
        yield f"ends with {code} without a word"
    if printable(shown) != shown:
        yield "prints what acts on a terminal"
    if any(line.startswith("FORGED") for line in shown.splitlines()):
        yield "prints a forged line"
    if CONTENT in shown:
        yield "shows a file elsewhere"
    if Path("PWNED").exists():
        yield "runs code of a stranger"


def make(here: Path, change: Callable[[Path], object]) -> Path:
    """The run that the commands are typed at: a sound one, changed."""
    shutil.rmtree(here / "runs", ignore_errors=True)
    shutil.copytree(here / "base", here / RUN)
    change(here / RUN)
    return here / RUN


def lines(place: int, share: int) -> list[str]:
    """One of so many shares of the lines, each state another one; all of them with FTCLI_PROOF."""
    return LINES if os.environ.get("FTCLI_PROOF") else LINES[place % share :: share]


def test_a_sound_run_is_taken_by_every_command(look: Typed, here: Path):
    make(here, lambda _: None)
    assert [fault for line in LINES for fault in look(line)] == []


def test_a_run_at_work_is_shown_and_neither_resumed_nor_changed(look: Typed, here: Path):
    run = make(here, HALF["after-a-save"])
    (run / rundir.LOG).unlink()
    os.mkfifo(run / rundir.LOG)  # which no look at it may wait for
    with at_work(run):
        for line in ("train --resume RUN", "train --resume RUN --dry-run"):
            assert look(line, refused=True) == []
        assert [fault for line in LINES if "--resume" not in line for fault in look(line)] == []


@pytest.mark.parametrize("phase", HALF)
def test_a_run_that_was_killed(phase: str, look: Typed, here: Path):
    make(here, HALF[phase])
    assert [fault for line in lines([*HALF].index(phase), 2) for fault in look(line)] == []


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_run(file: str, look: Typed, here: Path):
    faults = []
    for place, (name, damage) in enumerate(DAMAGE.items()):
        make(here, lambda run, damage=damage: damage(run / file))
        own = lines(FILES.index(file) * len(DAMAGE) + place, 12)
        faults += [f"{file} {name}: {fault}" for line in own for fault in look(line)]
    assert faults == []


@pytest.mark.parametrize("damage", [name for name in DAMAGE if name not in ("later", "dangling", "circle", "gone")])
def test_a_run_whose_spec_is_damaged_is_not_resumed(damage: str, look: Typed, here: Path):
    make(here, lambda run: DAMAGE[damage](run / rundir.SPEC))
    assert look("train --resume RUN", refused=True) == []


@pytest.mark.parametrize("what", STRANGERS)
def test_a_run_of_a_stranger(what: str, look: Typed, here: Path):
    make(here, STRANGERS[what])
    assert [fault for line in lines([*STRANGERS].index(what), 2) for fault in look(line)] == []


@pytest.mark.parametrize("what", [name for name in STRANGERS if name.startswith("link-")] + ["own-grants", "choices"])
def test_a_run_of_a_stranger_is_not_resumed(what: str, look: Typed, here: Path):
    make(here, STRANGERS[what])
    assert look("train --resume RUN", refused=True) == []


@pytest.mark.parametrize("what", NO_RUNS)
def test_what_is_no_run(what: str, look: Typed, here: Path):
    def change(run: Path) -> None:
        shutil.rmtree(run)
        NO_RUNS[what](run)

    make(here, change)
    # `watch` and `runs list` look for runs below it, of which there may be none.
    faults = [fault for line in LINES if line.startswith(("watch", "runs list")) for fault in look(line)]
    for line in LINES:
        if not line.startswith(("watch", "runs list")) and "RUN" in line:
            faults += look(line, refused=True)
    assert faults == []


@pytest.mark.parametrize(("kind", "file"), [(kind, file) for kind, (_, files) in FOLDERS.items() for file in files])
def test_a_damaged_pipeline_stage_or_sweep(kind: str, file: str, look: Typed, here: Path):
    faults = []
    for place, (name, damage) in enumerate({"sound": lambda _: None, **DAMAGE}.items()):
        shutil.rmtree(here / "runs", ignore_errors=True)
        damage(FOLDERS[kind][0](here / RUN) / file)
        own = lines(FOLDERS[kind][1].index(file) * len(DAMAGE) + place, 12)
        faults += [f"{kind} {file} {name}: {fault}" for line in own for fault in look(line)]
    assert faults == []


def test_a_dry_run_of_a_resumed_sweep_shows_where_it_stands_and_starts_nothing(look: Typed, here: Path, capfd: Any):
    FOLDERS["sweep"][0](here / RUN)
    assert look("sweep --resume RUN --dry-run") == []
    assert main(["sweep", "--resume", RUN, "--dry-run"]) == EXIT_DONE
    assert [line.split()[0] for line in capfd.readouterr().out.splitlines()] == ["run", "lr-1", "lr-2"]
    assert not (here / RUN / "lr-2").exists()


def test_a_damaged_file_is_named(look: Typed, here: Path, capfd: pytest.CaptureFixture[str]):
    for line, file in {
        "report RUN": rundir.RESULT,
        "data dropped RUN": rundir.DROPPED,
        "plan --from RUN": rundir.SPEC,
    }.items():
        run = make(here, lambda run, file=file: DAMAGE["cut"](run / file))
        (run / file).write_text("{\n")
        assert main(line.replace("RUN", RUN).split()) == EXIT_CONFIG
        told = capfd.readouterr().err
        assert str(run / file) in told
        assert "fix: " in told
