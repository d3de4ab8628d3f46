"""What a run read when it began: recorded, compared on resume, and refused by name where it differs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.inputs import run_inputs
from ftcli.build.resolve import spec_of
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.runs import rundir

ROWS = "".join(json.dumps({"prompt": f"Add {index}", "completion": str(index)}) + "\n" for index in range(6))


def begun(*overrides, grants=()):
    """A run that has just begun: its spec and its folder."""
    spec = spec_of(Request(overrides=("run.dir=out", *overrides), grants=frozenset(grants)))
    run = Path("out")
    run.mkdir()
    run_inputs.record(spec, run)
    return spec, run


def refusals(spec, run):
    """The problems of a resume."""
    try:
        assert run_inputs.require_unchanged(spec, run) == ""
    except ConfigError as error:
        return list(error.problems)
    return []


def copied_model(folder):
    """A copy of the built-in model."""
    folder.mkdir()
    for file in tiny.MODEL_DIR.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edited(path):
    """Change one byte of a file, and put its time back by nothing."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))


@pytest.fixture
def rows(here):
    Path("rows.jsonl").write_text(ROWS, encoding="utf-8")
    return Path("rows.jsonl")


def test_a_changed_file_of_rows_is_named_with_the_remedy(rows):
    spec, run = begun(f"data.path={rows}")
    assert refusals(spec, run) == []
    rows.write_text(ROWS.replace("Add", "Sub"), encoding="utf-8")  # as long as before
    [problem] = refusals(spec, run)
    assert problem.where == str(rows.resolve())
    assert "has changed since the run began (data.path)" in problem.what
    assert "ftcli train --from out" in problem.fix


def test_a_file_that_was_only_touched_or_replaced_by_its_copy_passes(rows):
    spec, run = begun(f"data.path={rows}")
    os.utime(rows, ns=(1, 1))
    assert refusals(spec, run) == []
    rows.rename("aside.jsonl")
    rows.write_text(ROWS, encoding="utf-8")
    assert refusals(spec, run) == []


def test_a_small_file_is_read_again_even_where_size_and_time_are_the_same(rows):
    spec, run = begun(f"data.path={rows}")
    state = rows.stat()
    rows.write_text(ROWS.replace("Add", "Sub"), encoding="utf-8")
    os.utime(rows, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert len(refusals(spec, run)) == 1


def test_in_a_folder_a_file_that_is_gone_or_new_is_named(here):
    Path("set").mkdir()
    for name in ("a", "b"):
        Path("set", f"{name}.jsonl").write_text(ROWS, encoding="utf-8")
    spec, run = begun("data.path=set")
    Path("set/b.jsonl").rename("set/c.jsonl")
    assert sorted((Path(p.where).name, p.what.partition(" (")[0]) for p in refusals(spec, run)) == [
        ("b.jsonl", "is not there any more"),
        ("c.jsonl", "was not there when the run began"),
    ]


def test_held_out_rows_and_every_set_of_a_mix_are_compared(rows):
    for name in ("a", "b", "held"):
        Path(f"{name}.jsonl").write_text(ROWS.replace("Add", name), encoding="utf-8")
    spec, run = begun("data.mix={a: {path: a.jsonl}, b: {path: b.jsonl}}", "data.eval_path=held.jsonl")
    for name in ("b", "held"):
        edited(Path(f"{name}.jsonl"))
    assert [p.what.partition("(")[2].partition(")")[0] for p in refusals(spec, run)] == [
        "data.mix.b.path", "data.eval_path"]  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"])
def test_each_file_of_a_model_is_compared(name, rows, tmp_path):
    model = copied_model(tmp_path / "model")
    spec, run = begun(f"data.path={rows}", f"model.name_or_path={model}")
    (model / "README.md").write_text("changes nothing", encoding="utf-8")
    assert refusals(spec, run) == []
    edited(model / name)
    [problem] = refusals(spec, run)
    assert (Path(problem.where).name, "(model.name_or_path)" in problem.what) == (name, True)


def test_the_base_below_an_adapter_is_compared(rows, tmp_path):
    base, adapter = copied_model(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    about = {"base_model_name_or_path": str(base), "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2,
             "target_modules": ["q_proj"]}  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    spec, run = begun(f"data.path={rows}", f"model.name_or_path={adapter}", "peft=lora")
    edited(base / "model.safetensors")
    edited(adapter / "adapter_model.safetensors")
    found = {p.what.partition("(")[2].partition(")")[0] for p in refusals(spec, run)}
    assert found == {"model.name_or_path", "model.name_or_path.base"}


def test_further_models_reward_code_principles_and_configs_of_sharding_are_compared(rows, tmp_path, monkeypatch):
    teacher = copied_model(tmp_path / "teacher")
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    (tmp_path / "code" / "mine").mkdir(parents=True)
    for file in (
        "code/mine/__init__.py",
        "code/mine/score.py",
        "polite.py",
        "principles.yaml",
        "zero.json",
        "template.jinja",
    ):
        (tmp_path / file).write_text("{}", encoding="utf-8")
    spec, run = begun(f"data.path={rows}")
    method = {
        **spec.method,
        "teacher_model": str(teacher),
        "judge": {"type": "local", "model": str(teacher)},
        "reward_functions": {"mine.score:helpful": 1.0, f"{tmp_path}/polite.py:polite": 1.0},
        "judge_constitution": "principles.yaml",
        "chat_template_path": str(tmp_path / "template.jinja"),
    }
    spec = replace(spec, method=method, train={**spec.train, "deepspeed": "zero.json"})
    run_inputs.record(spec, run)
    assert refusals(spec, run) == []
    changed = (
        "code/mine/score.py",
        "polite.py",
        "principles.yaml",
        "zero.json",
        "template.jinja",
        "teacher/model.safetensors",
    )
    for file in changed:
        edited(tmp_path / file)
    assert {(Path(p.where).name, p.what.partition("(")[2].partition(")")[0]) for p in refusals(spec, run)} == {
        ("score.py", "method.reward_functions"),
        ("polite.py", "method.reward_functions"),
        ("principles.yaml", "method.judge_constitution"),
        ("zero.json", "train.deepspeed"),
        ("template.jinja", "method.chat_template_path"),
        ("model.safetensors", "method.teacher_model"),
        ("model.safetensors", "method.judge.model"),
    }


def test_a_word_that_is_also_a_files_name_is_no_file(rows):
    Path("cosine").write_text("a note", encoding="utf-8")
    spec, run = begun(f"data.path={rows}", "train.lr_scheduler_type=cosine")
    edited(Path("cosine"))
    assert refusals(spec, run) == []


def test_another_commit_of_a_hub_model_is_refused(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--some--model"
    for commit in ("1111", "2222"):
        copied_model_at = repository / "snapshots" / commit
        copied_model_at.parent.mkdir(parents=True, exist_ok=True)
        copied_model(copied_model_at)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1111", encoding="utf-8")
    spec, run = begun(f"data.path={rows}", "model.name_or_path=some/model")
    assert refusals(spec, run) == []
    (repository / "refs" / "main").write_text("2222", encoding="utf-8")
    [problem] = refusals(spec, run)
    assert (problem.where, "another version" in problem.what) == ("some/model", True)


def test_what_is_downloaded_later_is_added_and_what_was_known_stays(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    spec, run = begun(f"data.path={rows}", "model.name_or_path=some/model")
    repository = tmp_path / "hub" / "models--some--model"
    (repository / "snapshots").mkdir(parents=True)
    copied_model(repository / "snapshots" / "1111")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("1111", encoding="utf-8")
    edited(rows)
    run_inputs.complete(spec, run)
    files = json.loads((run / rundir.INPUTS).read_text(encoding="utf-8"))["files"]
    assert files["model.name_or_path:some/model"] == {"path": "some/model", "version": "1111"}
    assert [Path(problem.where).name for problem in refusals(spec, run)] == ["rows.jsonl"]


def test_a_run_without_a_record_says_so_and_a_damaged_record_is_refused(rows):
    spec, run = begun(f"data.path={rows}")
    (run / rundir.INPUTS).write_text("{", encoding="utf-8")
    [problem] = refusals(spec, run)
    assert "is damaged" in problem.what
    (run / rundir.INPUTS).unlink()
    assert "began before ftcli recorded" in run_inputs.require_unchanged(spec, run)


def test_a_file_above_the_bound_is_digested_by_its_size_and_blocks(tmp_path, monkeypatch):
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(5000))
    whole = run_inputs.digest(str(file))
    monkeypatch.setattr(run_inputs, "WHOLE_BYTES", 4096)
    monkeypatch.setattr(run_inputs, "BLOCK_BYTES", 10)
    sampled = run_inputs.digest(str(file))
    assert sampled != whole
    for changed in (bytes([1, *bytes(4999)]), bytes([*bytes(4999), 1]), bytes(5001), bytes([7]) * 5000):
        file.write_bytes(changed)  # the first byte, the last, the size, all
        assert run_inputs.digest(str(file)) != sampled


def test_a_resume_with_other_rows_is_refused_before_anything_is_touched(rows, capsys):
    from ftcli.cli import main

    spec = spec_of(Request(overrides=("run.dir=out", f"data.path={rows}")))
    Path("out").mkdir()
    Path("out", rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    run_inputs.record(spec, Path("out"))
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    edited(rows)
    for words in (["--dry-run"], []):
        assert main(["train", "--resume", "out", "train.max_steps=4", *words]) == 2
        assert "rows.jsonl  has changed since the run began" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before
