"""A pipeline's recipe with its proof: a pipeline → save → lock → another folder → made again bit for bit, also where an
endpoint answered; a flipped byte of whatever its stages read is refused by the name of its file."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli import tiny
from ftcli.cli import main
from ftcli.pipelines import stage_loop
from ftcli.recipes import recipe_lock
from ftcli.runs import rundir
from tests.conftest import MakeOnce
from tests.loopback import serving
from tests.whole.conftest import Train

BRIEF = (
    "train", "method=rlaif", "run.dir=first", "run.score_rows=0", "train.eval_strategy=no", "train.save_strategy=no",
    "hardware=cpu", "hardware.num_threads=1", "model.name_or_path=model", "method.measure=false", "train.max_steps=2",
    "stages.assistant.data.path=rows.jsonl", "stages.sft.data.path=rows.jsonl", "stages.sample.data.path=prompts.jsonl",
    "stages.sample.make.max_new_tokens=8", "generator=openai", "generator.model=m", "generator.api_key_env=NO_KEY",
    "judge=rules", "judge.patterns=[rude]",
)  # fmt: skip
GRANT = "--allow-endpoint"
CARRIED = ("short.yaml", "short.lock", "rows.jsonl", "prompts.jsonl")
ANSWERS = "short.answers/sample-items.jsonl"


class Endpoint(BaseHTTPRequestHandler):
    """Answers in OpenAI's form, and no two requests alike: to each prompt one answer is rude and one is kind, in
    whatever order the requests of several prompts come."""

    server: Any

    def do_POST(self) -> None:
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        prompt = json.dumps(messages)
        with self.server.one_at_a_time:
            self.server.asked.append(prompt)
            number, of_prompt = len(self.server.asked), self.server.asked.count(prompt)
        said = {"role": "assistant", "content": f"{'rude' if of_prompt % 2 else 'kind'} {number}"}
        choice = {"index": 0, "finish_reason": "stop", "message": said}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def proof(once: MakeOnce, ftcli_run: Train) -> Path:
    """A folder with rows, a model, a pipeline of them, and its recipe, its lock and the endpoint's answers."""

    def make(folder: Path) -> None:
        rows = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(24)]
        prompts = [{"prompt": f"Say {n}."} for n in range(8)]
        for name, every in (("rows", rows), ("prompts", prompts)):
            text = "".join(json.dumps(row) + "\n" for row in every)
            (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
        shutil.copytree(tiny.MODEL_DIR, folder / "model")
        with serving(Endpoint, asked=[], one_at_a_time=threading.Lock()) as server:
            address = f"generator.base_url=http://127.0.0.1:{server.server_address[1]}/v1"
            ftcli_run(*BRIEF, address, GRANT, cwd=folder, NO_KEY="x")
            assert len(server.asked) == 16
        ftcli_run("recipe", "save", "first", "--to", "short.yaml", cwd=folder)
        said = ftcli_run("recipe", "lock", "short.yaml", "first", GRANT, cwd=folder)
        assert "short.answers holds what the endpoint answered (1 files)" in said.stdout

    return once("pipeline-proof", make)


def carried(proof: Path, folder: Path) -> Path:
    """What somebody else gets: recipe, lock, answers, rows and model, and nothing of the pipeline."""
    folder.mkdir()
    for name in CARRIED:
        shutil.copy(proof / name, folder / name)
    for name in ("model", "short.answers"):
        shutil.copytree(proof / name, folder / name)
    return folder


@pytest.fixture
def elsewhere(proof: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the working directory."""
    monkeypatch.chdir(carried(proof, tmp_path / "elsewhere"))
    monkeypatch.setenv("NO_KEY", "x")
    return tmp_path / "elsewhere"


def test_a_pipeline_is_made_again_bit_for_bit_by_somebody_else(proof: Path, tmp_path: Path, ftcli_run: Train) -> None:
    theirs = carried(proof, tmp_path / "theirs")
    words = ("reproduce", "short.yaml", "run.dir=again", GRANT, "--json")
    done = ftcli_run(*words, cwd=theirs, NO_KEY="x")  # nobody listens at the address any more
    found = json.loads(done.stdout)
    assert found["exact"] is True
    assert found["reproduced"] is True
    assert {each["state"] for each in found["compared"]} == {"same"}
    compared = {each["what"] for each in found["compared"]}
    stages = ("assistant", "sft", "dpo")
    wanted = {f"{stage}.{what}" for stage in stages for what in ("tokens", "ledger", "metrics", "weights")}
    assert {*wanted, "sample.sha256", "judge.sha256"} <= compared
    assert "stage sample takes its answers from short.answers, and asks nobody" in done.stderr
    weights = "dpo/model/model.safetensors"
    assert (theirs / "again" / weights).read_bytes() == (proof / "first" / weights).read_bytes()
    text = (theirs / "short.yaml").read_text(encoding="utf-8") + (theirs / "short.lock").read_text(encoding="utf-8")
    assert str(proof) not in text


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(bytes(raw))


@pytest.mark.parametrize("name", [*CARRIED, ANSWERS, "model/model.safetensors", "model/tokenizer.json"])
@pytest.mark.parametrize("command", [["train", "recipe=short.yaml", "--locked"], ["reproduce", "short.yaml"]])
def test_a_flipped_byte_is_refused_by_name(name: str, command: list[str], elsewhere: Path, capsys) -> None:
    flip(elsewhere / name)
    assert main([*command, GRANT]) in (2, 3)
    told = capsys.readouterr().err
    assert Path(name).name in told
    assert "fix: " in told
    assert not (elsewhere / "runs").exists()


def test_a_locked_pipeline_is_planned_as_it_is_and_takes_nothing_beside_it(elsewhere: Path, capsys) -> None:
    assert main(["train", "recipe=short.yaml", "--locked", "--dry-run", GRANT]) == 0
    capsys.readouterr()
    assert main(["train", "recipe=short.yaml", "--locked", "stages.dpo.seed=3", GRANT]) == 2
    assert "stages.dpo.seed=3  is set beside a locked recipe" in capsys.readouterr().err
    assert main(["train", "recipe=short.yaml", "--locked"]) == 2
    assert "was granted --allow-endpoint, which counts on each command line anew" in capsys.readouterr().err


def test_without_the_answers_what_follows_from_them_may_differ(proof: Path, elsewhere: Path, capsys) -> None:
    shutil.rmtree(elsewhere / "short.answers")
    assert main(["train", "recipe=short.yaml", "--locked", "--dry-run", GRANT]) == 0
    assert "stage sample asks an endpoint, which answers as it likes" in capsys.readouterr().err
    other = elsewhere / "other"
    shutil.copytree(proof / "first", other)
    result = json.loads((other / "dpo" / rundir.RESULT).read_text(encoding="utf-8"))
    rundir.write_json(other / "dpo" / rundir.RESULT, {**result, "loss_last": 9.0})
    assert main(["reproduce", "short.yaml", "--run", "other", GRANT, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    states = {each["what"]: each["state"] for each in found["compared"]}
    assert (found["exact"], states["dpo.loss_last"], states["sft.loss_last"]) == (False, "sampled", "same")
    result = json.loads((other / "sft" / rundir.RESULT).read_text(encoding="utf-8"))
    rundir.write_json(other / "sft" / rundir.RESULT, {**result, "loss_last": 9.0})
    assert main(["reproduce", "short.yaml", "--run", "other", GRANT]) == 9
    assert "not reproduced: sft.loss_last" in capsys.readouterr().out


def test_a_pipeline_that_is_not_the_locked_one_ends_with_its_own_code(proof: Path, elsewhere: Path, capsys) -> None:
    assert main(["reproduce", "short.yaml", "--run", str(proof / "first"), GRANT]) == 0
    assert capsys.readouterr().out.endswith("reproduced\n")
    other = elsewhere / "other"
    shutil.copytree(proof / "first", other)
    flip(other / "dpo/model/model.safetensors")
    assert main(["reproduce", "short.yaml", "--run", "other", GRANT]) == 9
    assert "not reproduced: dpo.weights" in capsys.readouterr().out
    assert main(["reproduce", "short.yaml", "--run", str(other / "dpo"), GRANT]) == 2
    assert "is not a pipeline, and the lock is of one" in capsys.readouterr().err


def other_pipeline(proof: Path, elsewhere: Path) -> Path:
    """A copy of the pipeline, and no lock."""
    shutil.copytree(proof / "first", elsewhere / "first")
    (elsewhere / "short.lock").unlink()
    return elsewhere / "first"


LOCK = ["recipe", "lock", "short.yaml", "first", GRANT]


def test_a_copy_of_the_pipeline_is_locked_as_the_pipeline_itself(proof: Path, elsewhere: Path) -> None:
    other_pipeline(proof, elsewhere)
    assert main(LOCK) == 0
    assert (elsewhere / "short.lock").read_bytes() == (proof / "short.lock").read_bytes()
    assert recipe_lock.read(elsewhere / "short.lock").of_pipeline


def test_only_a_finished_pipeline_of_the_same_recipe_is_locked(proof: Path, elsewhere: Path, capsys) -> None:
    first = other_pipeline(proof, elsewhere)
    recipe = elsewhere / "short.yaml"
    text = recipe.read_text(encoding="utf-8")
    for old, new, told in (
        ("max_new_tokens: 8", "max_new_tokens: 9", "make.max_new_tokens is 9 in the recipe, and was 8 in the run"),
        ("max_steps: 2", "max_steps: 3", "train.max_steps is 3 in the recipe, and was 2 in the run"),
        ("- method: rlaif", "- method: online_dpo", "the recipe is one of online_dpo, and this is rlaif"),
    ):
        assert old in text
        recipe.write_text(text.replace(old, new), encoding="utf-8")
        assert main(LOCK) == 2
        assert told in capsys.readouterr().err
    recipe.write_text(text, encoding="utf-8")
    for name in ("rows.jsonl", "prompts.jsonl", "first/sft/model/model.safetensors"):
        kept = (elsewhere / name).read_bytes()
        flip(elsewhere / name)
        assert main(LOCK) in (2, 3)
        assert Path(name).name in capsys.readouterr().err
        (elsewhere / name).write_bytes(kept)
    rows = (first / "judge/data.jsonl").read_text(encoding="utf-8")
    (first / "judge/data.jsonl").write_text(rows.replace("kind", "mild"), encoding="utf-8")
    assert main(LOCK) == 2
    assert "edited by hand, so no command makes them again" in capsys.readouterr().err
    (first / "judge/data.jsonl").write_text(rows, encoding="utf-8")
    (first / rundir.RESULT).unlink()
    assert main(LOCK) == 2
    assert "is not finished" in capsys.readouterr().err
    assert main(["recipe", "lock", "short.yaml", "first/dpo", GRANT]) == 2
    assert "is not a pipeline, and the recipe is of rlaif" in capsys.readouterr().err
    assert not (elsewhere / "short.lock").exists()


def test_what_is_sampled_on_a_cpu_has_the_threads_of_the_first_run(proof: Path) -> None:
    from ftcli.config.compose import Request
    from ftcli.pipelines import pipeline_dir

    wanted, _ = pipeline_dir.load_request(proof / "first", Request())
    assert stage_loop.synthesis_threads(wanted, proof / "first") == 1
    for kept in (wanted.earlier or {}).values():
        if "tree" in kept:
            kept["tree"]["hardware"]["num_threads"] = None  # as derived from the machine
    assert stage_loop.synthesis_threads(wanted, proof / "first") == 1


NOWHERE = "/nowhere/author"


@pytest.fixture
def copied(proof: Path, elsewhere: Path) -> Path:
    """The pipeline as a colleague got it, rows and model beside it, of whose author's folder nothing is here."""
    shutil.copytree(proof / "first", elsewhere / "first")
    for file in (elsewhere / "first").rglob("*.json"):
        if "model" not in file.parent.parts[-2:]:
            text = file.read_text(encoding="utf-8")
            file.write_text(text.replace(str(proof), NOWHERE), encoding="utf-8")
    assert NOWHERE in (elsewhere / "first/dpo/spec.json").read_text(encoding="utf-8")
    return elsewhere / "first"


def undone(pipeline: Path) -> None:
    """Take the last stage from a finished pipeline."""
    shutil.rmtree(pipeline / "dpo")
    (pipeline / rundir.RESULT).unlink()


def test_a_copied_pipeline_goes_on_with_what_lies_beside_it(copied: Path, proof: Path, ftcli_run: Train) -> None:
    undone(copied)
    (copied.parent / "given").mkdir()
    shutil.move(copied.parent / "rows.jsonl", copied.parent / "given/mine.jsonl")
    resume = ("train", "--resume", "first", GRANT)
    told = ftcli_run(*resume, cwd=copied.parent, expect=2, NO_KEY="x").stderr
    assert "stages.assistant.data.path of the run is not here" in told
    assert "or say where it is: stages.assistant.data.path=PATH" in told
    before = (copied / rundir.PIPELINE).read_bytes()
    named = "stages.assistant.data.path=given/mine.jsonl"
    ftcli_run(*resume, named, "--dry-run", cwd=copied.parent, NO_KEY="x")
    assert (copied / rundir.PIPELINE).read_bytes() == before
    said = ftcli_run(*resume, named, cwd=copied.parent, NO_KEY="x").stderr
    assert "stages.assistant.data.path is given/mine.jsonl here (what the run read, byte for byte)" in said
    weights = "dpo/model/model.safetensors"
    assert (copied / weights).read_bytes() == (proof / "first" / weights).read_bytes()
    # It is asked for once: sft reads the same rows, and each has the new place for good.
    for name in ("assistant/spec.json", "sft/spec.json", "sft/inputs.json", "sample/make.json", "inputs.json"):
        assert NOWHERE not in (copied / name).read_text(encoding="utf-8")
    stages = rundir.read_pipeline(copied)["stages"].values()
    assert NOWHERE not in json.dumps([{name: kept.get(name) for name in ("tree", "make")} for kept in stages])
    assert "have changed since" not in said


def test_a_new_pipeline_reuses_the_stages_of_a_copied_one(copied: Path, capsys) -> None:
    words = ["--from", "first", "run.dir=again", "stages.dpo.train.max_steps=1", GRANT]
    assert main(["plan", *words]) == 0
    told = capsys.readouterr().out
    assert all(f"{stage} (reused)" in told for stage in ("assistant", "sft", "sample", "judge"))


def test_other_bytes_are_not_taken_for_those_of_a_copied_pipeline(copied: Path, capsys) -> None:
    for name in (rundir.RESULT, f"dpo/{rundir.RESULT}"):
        (copied / name).unlink()
    resume = ["train", "--resume", "first", GRANT]
    flip(copied.parent / "rows.jsonl")
    assert main(resume) == 2
    assert (
        "has the name of the run's stages.assistant.data.path, and is not what the run read" in capsys.readouterr().err
    )
    assert main([*resume, "stages.assistant.data.path=rows.jsonl"]) == 2
    assert "is not what the run read; a resumed run needs what it began with" in capsys.readouterr().err
    flip(copied.parent / "rows.jsonl")
    flip(copied / "sft/model/model.safetensors")
    assert main(resume) == 2
    assert "sft/model" in capsys.readouterr().err
