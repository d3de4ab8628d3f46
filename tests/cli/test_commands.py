"""Each command as it is typed: its text, its JSON, its exit code; a user's mistake never shows a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import ftcli
from ftcli.cli import COMMANDS, main
from ftcli.launch import worker_request
from ftcli.runs import rundir
from ftcli.settings.backends import ROLES
from ftcli.settings.groups import GROUPS


def finished_run(name: str = "old", *choices: str) -> Path:
    """A run directory that looks finished."""
    from ftcli.build.resolve import spec_of
    from ftcli.config.compose import Request

    run = Path("runs") / name / "1"
    run.mkdir(parents=True)
    spec = spec_of(Request(overrides=("peft=lora", *choices, f"run.dir={run}")))
    (run / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    result = {
        "method": "sft", "model": "builtin:tiny", "peft": "lora", "steps": 12, "seconds": 75.0, "tokens_trained": 1500,
        "loss_first": 2.0, "loss_last": 1.0, "eval_loss": {"before": 3.0, "after": 1.5},
        "score": {"name": "exact_match", "rows": 20, "before": 0.1, "after": 0.9},
    }  # fmt: skip
    rundir.write_json(run / rundir.RESULT, result)
    return run


# --- the program ------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_group(typed):
    code, out, _ = typed("--help")
    assert code == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert " ".join(GROUPS) in out
    assert typed("help")[1] == typed("-h")[1] == out


def test_nothing_at_all_shows_the_help_and_fails(typed):
    code, out, _ = typed()
    assert code == 2
    assert "usage: ftcli COMMAND" in out


def test_version(typed):
    assert typed("--version") == (0, f"ftcli {ftcli.__version__}\n", "")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(typed, command):
    code, out, _ = typed(command, "--help")
    assert code == 0
    assert "usage: ftcli" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trian"], "did you mean ftcli train?"),
        (["method=dpo", "model=llama"], "ftcli train method=dpo model=llama"),
        (["--jsonl"], "not a command"),
        (["train", "--resme", "x"], "unrecognized arguments: --resme"),
        (["train", "--resume"], "expected one argument"),
        (["train", "--config-name", "x"], "write a recipe"),
        (["train", "--config-path=x"], "--config-dir"),
        (["train", "--config-dir", "nowhere"], "is not a folder"),
        (["train", "--cfg", "hydra"], "there is no hydra node"),
        (["train", "--resume", "a", "--from", "b"], "exclude each other"),
        (["train", "--resume", ""], "is not a run"),
        (["train", "--from", "nothing"], "no runs under runs/ yet"),
        (["plan", "-m"], "is a flag of ftcli train alone"),
        (["show", "peft"], "peft=none has no options"),
        (["show", "nothing"], "neither group=choice nor key=value"),
        (["list", "modls"], "did you mean ftcli list model?"),
        (["list", "--all"], "is not a flag of list"),
        (["recipe", "show", "demmo"], "did you mean recipe=demo?"),
        (["recipe", "show"], "needs a name or file"),
        (["recipe", "burn"], "burn is not an action"),
        (["report", "nothing"], "is not a run"),
        (["eval", "nothing"], "is not a run"),
        (["eval", "nothing", "--rows", "0"], "out of range"),
        (["eval", "nothing", "--score-rows", "-1"], "out of range"),
        (["eval", "nothing", "--rows", "x"], "invalid int value"),
        (["generate", "/no/such", "hi"], "holds no model"),
        (["generate", "builtin:tiny", "hi", "--temperature", "-1"], "out of range"),
        (["generate", "builtin:tiny", "--file", "nowhere.txt"], "cannot be read"),
        (["chat", "/no/such"], "holds no model"),
        (["data", "check", "nowhere.json"], "does not exist"),
        (["data", "burn"], "invalid choice"),
        (["completion", "tcsh"], "bash, zsh or fish"),
    ],
)
def test_a_mistake_is_one_problem_with_a_remedy_and_exit_code_2(typed, words, reason):
    code, out, err = typed(*words)
    assert code == 2
    assert out == ""
    assert reason in err


def test_problems_are_json_where_json_was_asked_for(typed):
    code, out, err = typed("check", "--json", "peft.r=3", "seed=x")
    assert (code, err) == (2, "")
    problems = json.loads(out)["problems"]
    assert [problem["where"] for problem in problems] == ["seed=x", "peft.r=3"]
    assert all(set(problem) == {"where", "what", "fix"} for problem in problems)


def test_a_fault_inside_the_rows_is_exit_code_3_and_a_missing_column_2(typed):
    Path("broken.jsonl").write_text("{\n", encoding="utf-8")
    Path("columns.jsonl").write_text('{"foo": 1}\n', encoding="utf-8")
    assert typed("check", "data.path=broken.jsonl")[0] == 3
    assert typed("check", "data.path=broken.jsonl", "seed=x")[0] == 2
    assert typed("check", "data.path=columns.jsonl")[0] == 2
    assert typed("check", "data.path=gone.jsonl")[0] == 2


def test_a_bug_of_ours_is_exit_code_1_with_the_line_that_reproduces_it(capsys, monkeypatch, here):
    def broken(*_: object) -> None:
        raise RuntimeError("two and two")

    monkeypatch.setattr("ftcli.cli.jobs.run.build", broken)
    assert main(["check", "run.name=a b", "seed=1"]) == 1
    err = capsys.readouterr().err
    assert "RuntimeError: two and two" in err
    assert "Traceback" in err
    assert err.endswith("To reproduce it: ftcli check 'run.name=a b' seed=1\n")


def test_a_name_that_the_terminal_cannot_show_is_no_bug(ftcli, here):
    Path("x.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    words = [*ftcli, "check", "--json", "data.path=\udcff\u2192.jsonl"]
    done = subprocess.run(words, capture_output=True, env=_environment(PYTHONIOENCODING="ascii"), check=False)
    assert done.returncode == 2
    assert b"does not exist" in done.stdout
    assert b"Traceback" not in done.stderr


def _environment(**values: str) -> dict[str, str]:
    import os

    from tests.conftest import REPOSITORY

    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **values}


def test_python_m_ftcli_is_the_same_program(ftcli, typed):
    done = subprocess.run([*ftcli, "list", "peft"], capture_output=True, text=True, env=_environment(), check=False)
    assert (done.returncode, done.stdout) == typed("list", "peft")[:2]


# --- commands that answer with data -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*GROUPS, "recipe", "format"])
def test_list_says_in_one_line_when_to_choose_it(typed, kind):
    code, out, _ = typed("list", kind)
    assert code == 0
    entries = json.loads(typed("list", kind, "--json")[1])[kind]
    assert entries
    for name, line in entries.items():
        assert len(line) > 15, name
        assert f"{name} " in out
        assert line in out


def test_list_without_a_word_lists_everything(typed):
    assert set(json.loads(typed("list", "--json")[1])) == {*GROUPS, *ROLES, "recipe", "format", "reward", "tracker"}


def test_check_says_that_nothing_is_wrong(typed):
    code, out, _ = typed("check", "recipe=demo")
    assert (code, out[:13]) == (0, "no problems: ")
    answer = json.loads(typed("check", "recipe=demo", "--json")[1])
    assert answer["problems"] == []
    assert answer["choices"]["peft"] == "lora"


def test_show_prints_the_configuration_as_it_could_be_written(typed):
    import yaml

    code, out, _ = typed("show", "method=dpo", "peft=lora", "train.learning_rate=1e-3")
    assert code == 0
    plain = yaml.safe_load(out)
    assert plain["train"]["learning_rate"] == 1e-3
    assert plain["data"]["max_length_tokens"] == "auto"  # known once the rows have been counted: see ftcli plan
    assert "#   data.overflow: drop  (usual for dpo)" in out
    answer = json.loads(typed("show", "method=dpo", "--json")[1])
    assert answer["config"]["method"]["beta"] == 0.1
    assert {"key", "value", "why"} == set(answer["derived"][0])


def test_cfg_job_prints_what_show_prints(typed):
    words = ("method=dpo", "seed=3", "run.dir=out")
    assert typed("train", "--cfg", "job", *words)[:2] == typed("show", *words)[:2]
    assert typed("train", *words, "--cfg", "job", "--resolve")[1] == typed("show", *words)[1]


def test_show_of_a_group_explains_its_options(typed):
    code, out, _ = typed("show", "peft", "peft=lora", "peft.r=4")
    assert code == 0
    assert "peft.r: int = 4\n" in out
    assert "peft.task_type" not in out  # owned by another setting
    knobs = {knob["name"]: knob for knob in json.loads(typed("show", "method", "method=dpo", "--json")[1])["knobs"]}
    assert knobs["method.beta"]["value"] == 0.1
    assert knobs["method.beta"]["help"]
    assert "method.max_length" not in knobs
    assert "data.max_length_tokens: int | Literal['auto'] | None = auto" in typed("show", "data")[1]


def test_plan_and_dry_run_say_the_same(typed, monkeypatch):
    free = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)  # others write meanwhile
    words = ("peft=lora", "run.dir=out")
    code, out, _ = typed("plan", *words)
    assert code == 0
    for row in ("trainer", "device", "rows", "batch", "steps", "tokens", "parameters", "memory", "disk", "derived"):
        assert f"\n  {row} " in out or f"\n{row}\n" in out
    assert typed("train", "--dry-run", *words)[1] == out
    answer = json.loads(typed("plan", *words, "--json")[1])
    assert json.loads(typed("train", "--dry-run", "--json", *words)[1]) == answer
    assert answer["trainer"] == "SftTrainer"
    assert answer["steps"] == 321  # packed: 1928 rows in 856 blocks of 64, 8 a step, 3 epochs
    assert not Path("out").exists()


def test_info_says_where_the_configuration_comes_from(typed):
    Path("r.yaml").write_text("ftcli: 1\ndefaults:\n  - peft: lora\ntrain: {logging_steps: 3}\n", encoding="utf-8")
    code, out, _ = typed("train", "--info", "recipe=r.yaml", "method=dpo")
    assert code == 0
    assert "r.yaml:3" in out
    assert "train.logging_steps" in out
    assert "method=dpo" in out
    assert typed("train", "recipe=r.yaml", "method=dpo", "--info", "defaults")[1] == out


def test_recipe_lists_prints_and_checks(typed):
    assert "demo" in typed("recipe")[1]
    assert typed("recipe", "show", "demo")[1].startswith("# The first run")
    assert "is a plain recipe" in typed("recipe", "check", "demo")[1]
    assert json.loads(typed("recipe", "check", "demo", "--json")[1])["choices"]["method"] == "sft"
    Path("evil.yaml").write_text("ftcli: 1\nhydra: {}\n", encoding="utf-8")
    code, _, err = typed("recipe", "check", "evil.yaml")
    assert (code, err[:11]) == (2, "evil.yaml:2")


def test_doctor_names_machine_and_libraries(typed):
    code, out, _ = typed("doctor")
    assert code == 0
    assert "transformers" in out
    answer = json.loads(typed("doctor", "--json")[1])
    assert answer["cores"] >= 1
    assert answer["libraries"]["trl"]


def test_doctor_says_what_works_without_a_network(typed, tmp_path, monkeypatch):
    def cached(kind: str, name: str, *files: str) -> None:
        repository = tmp_path / "hub" / f"{kind}--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("abc")
        (repository / "snapshots" / "abc").mkdir(parents=True)
        for file in files:
            (repository / "snapshots" / "abc" / file).write_text("{}")

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    cached("models", "Qwen/Qwen3-0.6B", "config.json", "model.safetensors")
    cached("models", "someone/own", "config.json", "model.safetensors")
    cached("models", "meta-llama/Llama-3.1-8B-Instruct", "config.json")
    cached("datasets", "someone/rows", "README.md")
    code, out, _ = typed("doctor")
    assert code == 0
    assert "models of the hub in the cache: model=qwen-0.6b, model.name_or_path=someone/own\n" in out
    assert "data sets of the hub in the cache: data.path=hub:someone/rows\n" in out
    assert "so not without a network: meta-llama/Llama-3.1-8B-Instruct\n" in out
    here = json.loads(typed("doctor", "--json")[1])["without_network"]
    assert here["model"] == ["qwen-0.6b"]


def test_data_check_says_what_a_file_holds(typed):
    Path("rows.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": 1}\n', encoding="utf-8")
    code, out, err = typed("data", "check", "rows.jsonl", "--rows-only")
    assert code == 3
    assert "alpaca" in out
    assert "2 read: 1 kept, 1 dropped: unusable" in out
    assert "rows.jsonl:2  has no column output" in err
    code, out, _ = typed("data", "check", "data.path=rows.jsonl", "--rows-only", "--json", "data.max_bad_share=0.5")
    [answer] = json.loads(out)["sets"]
    assert (code, answer["rows_read"], answer["rows_kept"], answer["dropped"]) == (0, 2, 1, {"unusable": 1})


@pytest.mark.parametrize(
    ("choices", "flags", "found"),
    [
        ((), (), 256),  # left open
        (("run.score_rows=0",), (), 0),
        (("run.score_rows=9",), ("--rows", "20"), 9),
        ((), ("--rows", "20"), 20),
        (("run.score_rows=9",), ("--score-rows", "0"), 0),
        (("run.score_rows=9",), ("--rows", "5", "--score-rows", "3"), 3),
        (("method=grpo",), (), 256),
        (("method=grpo",), ("--score-rows", "0"), "leaves nothing to measure"),
        (("method=grpo", "run.score_rows=0"), (), "score some rows: --score-rows 256"),
        (("method=pretrain",), ("--score-rows", "5"), "has no score, only its held-out loss"),
        (("method=pretrain",), (), 256),
    ],
)
def test_eval_scores_what_the_command_or_the_run_says(typed, monkeypatch, choices, flags, found):
    asked = []

    def answers(command, request):
        asked.append(request["score_rows"])
        return [{"method": "sft", "data": "x", "rows": 1, "before": {"eval_loss": 2.0}, "after": {"eval_loss": 1.0}}]

    monkeypatch.setattr(worker_request, "answers", answers)
    code, _, err = typed("eval", str(finished_run("old", *choices)), *flags)
    if isinstance(found, str):
        assert (code, asked) == (2, [])
        assert found in err
    else:
        assert (code, asked) == (0, [found])
        # who wrote 0 into the run is reminded of it; who writes it on the command line knows
        assert ("not scored" in err) == (found == 0 and "--score-rows" not in flags)


def test_report_tells_what_a_run_did(typed):
    run = finished_run()
    code, out, _ = typed("report", "old")
    assert code == 0
    assert "12 in 1 min 15 s, 1.50k tokens" in out
    assert "2.0000 → 1.0000" in out
    assert "10.0% → 90.0%  exact_match over 20 rows" in out
    assert json.loads(typed("report", str(run), "--json")[1])["steps"] == 12
    (run / rundir.RESULT).write_text("{", encoding="utf-8")
    assert "is damaged" in typed("report", "old")[2]
    (run / rundir.RESULT).unlink()
    code, out, _ = typed("report", "old")
    assert code == 0
    assert "ftcli train --resume" in out


def test_resume_of_a_finished_run_says_how_to_train_further(typed):
    finished_run()
    code, out, err = typed("train", "--resume", "old")
    assert code == 0
    assert "train.max_steps" in err
    assert "ftcli chat" in out


def test_after_a_reward_run_score_is_suggested_and_not_chat(typed):
    run = finished_run("judge", "method=reward")
    _, out, _ = typed("train", "--resume", "judge")
    assert out.endswith(f"next\n  ftcli eval {run}\n  ftcli score {run} FILE\n")


# --- training that does not start -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["run.dir=taken"], "the directory is not empty"),
        (["run.dir=file"], "the directory cannot be created"),
        (["run.dir=/proc/nowhere/x"], "the directory cannot be created"),
        (["hardware=gpu"], "this machine has no GPU"),
        (["hardware=multi_gpu"], "this machine has no GPU"),
        (["model=llama"], "HF_HUB_OFFLINE"),
    ],
)
def test_what_only_training_needs_is_told_before_anything_is_written(typed, monkeypatch, words, reason):
    monkeypatch.setattr("ftcli.core.hardware.gpus", lambda: ())
    Path("taken").mkdir()
    Path("taken/file").touch()
    Path("file").touch()
    code, _, err = typed("train", *words)
    assert code == 2
    assert reason in err
    assert not Path("runs").exists()


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_sweep_runs_each_job_and_one_that_fails_ends_no_other(capfd, here):
    Path("x,y.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    # The jobs are processes of their own, so their output is read from the file descriptors.
    words = ["train", "-m", "--dry-run", "train.per_device_train_batch_size=0,2", "data.path='x,y.jsonl'"]
    capfd.readouterr()
    code = main(words)
    out, err = capfd.readouterr()
    assert code == 2  # that of the first job that failed
    assert "job 1 of 2: per_device_train_batch_size-0" in err
    assert "out of range" in err
    assert "2 blocks per step" in out
    assert "1 of 2 jobs done\n  job 1: exit 2" in err


# --- shell completion -------------------------------------------------------------------------------------------------


def test_completion_scripts_are_printed_also_in_hydras_spelling(typed):
    for shell in ("bash", "zsh", "fish"):
        code, out, _ = typed("completion", shell)
        assert code == 0
        assert "ftcli completion words" in out
        assert typed("-sc", f"install={shell}")[1] == out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ftcli tr", "train"),
        ("ftcli train method=dp", "method=dpo"),
        ("ftcli train recipe=dem", "recipe=demo"),
        ("ftcli train meth", "method="),
        ("ftcli train train.learning_r", "train.learning_rate="),
        ("ftcli train method=dpo method.be", "method.beta="),
        ("ftcli train peft=lora peft.lora_al", "peft.lora_alpha="),
        ("ftcli train run.na", "run.name="),
    ],
)
def test_completion_finds_commands_choices_and_settings(typed, line, expected):
    assert typed("completion", "words", line)[1] == f"{expected}\n"


def test_completion_works_in_bash(ftcli, here):
    import shutil
    import sys

    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    script = (
        f'ftcli() {{ "{sys.executable}" -m ftcli "$@"; }}; compopt() {{ :; }}; eval "$(ftcli completion bash)"; '
        'COMP_LINE="ftcli train method=dp"; COMP_POINT=${#COMP_LINE}; _ftcli; echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=_environment(), check=False)
    assert done.stdout == "dpo\n", done.stderr


# --- --from -----------------------------------------------------------------------------------------------------------


def test_plan_check_and_show_start_from_a_run_as_train_does(typed):
    finished_run("old", "peft.r=4")
    assert json.loads(typed("show", "--from", "old", "--json")[1])["config"]["peft"]["r"] == 4
    assert json.loads(typed("show", "--from", "old", "peft.r=8", "--json")[1])["config"]["peft"]["r"] == 8
    assert "peft.r: int = 4" in typed("show", "peft", "--from", "old")[1]
    assert "no problems" in typed("check", "--from", "old", "seed=3")[1]
    code, _, err = typed("check", "--from", "old", "peft.rr=8")
    assert (code, "did you mean" in err) == (2, True)
    code, out, _ = typed("plan", "--from", "old", "train.max_steps=5", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 5)
    assert json.loads(typed("train", "--from", "old", "--cfg", "job", "--json")[1])["config"]["peft"]["r"] == 4
    for command in ("plan", "check", "show"):
        code, _, err = typed(command, "--from", "none")
        assert (code, "none is not a run" in err) == (2, True)
