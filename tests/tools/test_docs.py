"""The documentation says what the code does: tables are fresh, commands run, names and links exist."""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftcli import tiny
from ftcli.build.resolve import run_of, spec_of
from ftcli.build.resume import resumed_spec, spec_from
from ftcli.cli import COMMANDS as COMMAND_MODULES
from ftcli.cli import arguments, chat, check, export, generate, jobs, merge, sample, score, train
from ftcli.config.compose import Request
from ftcli.config.group_fields import group_fields
from ftcli.core import assets
from ftcli.core.errors import ConfigError
from ftcli.launch import worker_request
from ftcli.methods import all_methods, all_pipelines
from ftcli.peft_methods import PEFT_METHODS
from ftcli.peft_methods.other import tuner_configs
from ftcli.plan.outlook import plan
from ftcli.runs import rundir
from ftcli.runs.checkpoints import write_manifest
from ftcli.settings.fields.field_table import OWNERS, REFUSED
from ftcli.settings.groups import GROUPS
from ftcli.settings.library_fields import fields_of
from ftcli.settings.ownership import PUSH
from ftcli.sweeps import sweep_request
from ftcli.sweeps.sweep_folder import Sweep, SweepJob
from tests.conftest import REPOSITORY
from tools import docs
from tools.house_rules import ORDERS

ROOT = REPOSITORY
PAGES = [*docs.pages(ROOT), *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"))]
JOURNEYS = sorted((ROOT / "docs" / "journeys").glob("*.md"))  # tests/whole/test_journeys.py types their commands
RECIPES = sorted(assets.recipes())

# Written apart, so that this file does not contain what it looks for.
ELSEWHERE = ("/" + "work/", "/" + "root/", "/" + "home/", "pypi" + ".org", "python" + "hosted", "download" + ".pytorch")
BESIDE = "../" + "shared"


def shell_commands() -> Iterator[str]:
    """Every line of the fenced sh blocks, by page."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
            for line in block.splitlines():
                yield line.split("  #")[0].rstrip()


COMMANDS = sorted({line for line in shell_commands() if line.startswith("ftcli ")})


_FILES = (
    ("rows.jsonl", "sft"), ("pairs.jsonl", "preference"), ("text.jsonl", "pretrain"), ("prompts.jsonl", "prompts"),
)  # fmt: skip


class WorkerStarted(Exception):
    """Everything before the worker went well."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files and the finished run that the commands of the documentation name."""
    folder = tmp_path_factory.mktemp("reader")
    for name, task in _FILES:
        shutil.copy(tiny.set_path(task, "train"), folder / name)
    result = {"method": "sft", "model": "builtin:tiny", "peft": "lora", "steps": 1, "seconds": 1.0, "tokens_trained": 9}
    adapter = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": str(tiny.MODEL_DIR)}
    for name in ("sft-tiny", "support", "legal", "judge"):
        run = folder / "runs" / name / "20260101-120000"
        spec = spec_of(Request(overrides=("recipe=demo", f"run.dir={run}")))
        shutil.copytree(
            tiny.MODEL_DIR, run / rundir.MODEL, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
        )
        task = "SEQ_CLS" if name == "judge" else "CAUSAL_LM"
        rundir.write_json(run / rundir.MODEL / "adapter_config.json", {**adapter, "task_type": task})
        (run / rundir.MODEL / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        rundir.write_atomically(run / rundir.SPEC, spec.to_json())
        rundir.write_json(run / rundir.RESULT, result)
        rundir.write_json(run / rundir.LEDGER, {"train": {"rows_read": 9}})
        (run / rundir.METRICS).write_text('{"step": 1}\n', encoding="utf-8")
    exported = folder / "runs/support/20260101-120000" / rundir.EXPORTS / "folder"
    shutil.copytree(tiny.MODEL_DIR, exported)
    write_manifest(exported)
    (folder / "runs/rates").mkdir()
    job = SweepJob(name="seed-1", varied={"seed": "1"}, words=("seed=1",), end="done", code=0)
    Sweep(folder=folder / "runs/rates", kind="grid", words=["seed=1"], place=str(folder), jobs=[job]).write()
    return folder


@pytest.fixture
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's folder as working directory, and no worker behind the commands."""

    def started(*_: object, **__: object) -> None:
        raise WorkerStarted

    monkeypatch.setattr(generate, "answers", started)
    monkeypatch.setattr(merge, "answers", started)
    monkeypatch.setattr(export, "answers", started)
    monkeypatch.setattr(sample, "answers", started)
    monkeypatch.setattr(score, "answers", started)
    monkeypatch.setattr(chat, "started", started)
    monkeypatch.setattr(worker_request, "answers", started)  # which `data` and `eval` take from there
    monkeypatch.chdir(folder)


def follow(command: str) -> None:
    """Run a command of the documentation up to where a worker would start."""
    _, name, *words = shlex.split(command.replace("RUN", "sft-tiny"))
    module = importlib.import_module(f"ftcli.cli.{COMMAND_MODULES[name][0]}")
    lets_a_worker_do_it = {"data": "--rows-only", "export": "vllm"}  # but for this word
    if name in ("eval", "chat", "generate", "merge", "sample", "score") or (
        name in lets_a_worker_do_it and lets_a_worker_do_it[name] not in words
    ):
        with pytest.raises(WorkerStarted):
            module.run(words)
    elif name == "push":  # which would send
        assert module.run([*(each for each in words if each not in (PUSH, "--dry-run")), "--dry-run"]) == 0
    elif name == "sweep" and "--resume" not in words:
        pytest.importorskip("optuna", reason="pip install 'ftcli[sweep]'")
        assert module.run([*words, "--dry-run"]) == 0
    elif name == "train" and "--dry-run" not in words:
        options = train.parse_options(words)
        if options.multirun:
            wanted = sweep_request.requested(options.overrides, Request(), search=False)
            composed = []
            for _, each in wanted.combinations():
                with contextlib.suppress(ConfigError):  # a job that is refused ends no other
                    composed.append(jobs.resolve(Request(overrides=tuple(each))))
            assert composed
        elif options.resume:
            resumed_spec(rundir.require_run(options.resume, ""), options.overrides)
        elif options.source:
            spec_from(rundir.require_run(options.source, ""), arguments.request(options))
        else:
            jobs.resolve(arguments.request(options))
    else:
        assert module.run(words) == 0


def test_no_page_is_stale() -> None:
    assert docs.stale(ROOT) == [], "run: python -m tools.docs --write"


def test_a_changed_table_is_found_and_written_anew(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- generated: peft -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")

    assert docs.stale(tmp_path) == [page]
    assert docs.write(tmp_path) == [page]
    assert docs.stale(tmp_path) == []
    text = page.read_text(encoding="utf-8")
    assert text == f"before\n<!-- generated: peft -->\n{docs.peft()}<!-- end -->\nafter\n"
    assert "peft=lora" in text


def test_the_table_of_rooms_has_every_package_of_an_order_with_its_docstring() -> None:
    rows = [line.split(" | ") for line in docs.rooms().splitlines()[2:]]
    names = [row[0].strip("| `/") for row in rows]
    assert names[:3] == ["core", "tiny", "settings"]
    assert names.index("data/formats") < names.index("build") < names.index("worker/training") < names.index("cli")
    assert set(ORDERS[""]) <= set(names)
    assert {f"worker/{room}" for room in ORDERS["worker"]} <= set(names)
    assert all(len(row[1]) > 20 for row in rows), "a room without a docstring"


def test_an_unknown_or_unclosed_region_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean methods"):
        docs.rendered("<!-- generated: methodes -->\n<!-- end -->\n", tmp_path)
    with pytest.raises(ConfigError, match="opens 1 generated regions and closes 0"):
        docs.rendered("<!-- generated: methods -->\n", tmp_path)


def test_the_documentation_names_commands_at_all() -> None:
    assert len([line for line in COMMANDS if line.startswith("ftcli train")]) >= 5
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_documentation_runs(command: str, world: None) -> None:
    follow(command)


def test_a_wrong_command_would_be_found(world: None) -> None:
    with pytest.raises(ConfigError, match="did you mean method=dpo"):
        follow("ftcli train method=dpoo data.path=pairs.jsonl")
    with pytest.raises(ConfigError, match="did you mean recipe=demo"):
        follow("ftcli plan recipe=dmeo")


def test_the_demo_on_the_first_screen_is_a_whole_run_of_the_shipped_recipe() -> None:
    text = (ROOT / docs.DEMO_OUTPUT).read_text(encoding="utf-8")
    steps = plan(run_of(Request(overrides=("recipe=demo",)))).steps
    assert re.search(rf"^  steps +{steps} in ", text, re.M), f"a run of {steps} steps; run: ftcli train recipe=demo"
    score = re.search(r"^  held-out score +([\d.]+)% → ([\d.]+)%  exact_match over (\d+) rows$", text, re.M)
    assert score is not None, text
    before, after, rows = map(float, score.groups())
    assert before <= 20
    assert after >= 80
    assert rows >= 200
    assert len(re.findall(r"^  ftcli ", text, re.M)) == 3


def test_make_targets_of_the_documentation_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(encoding="utf-8"), re.M)
    }
    ruled = {name for names in re.findall(r"^([a-z][a-z -]*):", makefile, re.M) for name in names.split()}
    assert {"demo", "test", "docs", "llama-quantize"} <= targets
    assert targets - ruled == set()


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown page's headings make."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *JOURNEYS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    lost = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", [*PAGES, *JOURNEYS], ids=lambda page: page.name)
def test_settings_and_choices_named_on_a_page_exist(page: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    known = {*OWNERS, *REFUSED}
    known |= {f"peft.{name}" for config in tuner_configs().values() for name in fields_of(config)}
    for group in (*GROUPS, "run"):
        for method in all_methods().values():
            for peft in PEFT_METHODS.values():
                known |= {f"{group}.{name}" for name in group_fields(group, method, peft)}
    known |= {f"method.{name}" for pipeline in all_pipelines().values() for name in pipeline.options}
    groups = "|".join((*GROUPS, "run"))
    named = {name for text in code for name in re.findall(rf"(?<![\w.{{/-])((?:{groups})\.[a-z]\w*)", text)}
    files = {f"{group}.{suffix}" for group in (*GROUPS, "run") for suffix in ("yaml", "py", "jsonl")}
    assert named - known - files == set()
    chosen = {pair for text in code for pair in re.findall(rf"(?<![\w.])({'|'.join(GROUPS)})=([a-z][\w.-]*)", text)}
    wrong = {(group, choice) for group, choice in chosen if choice not in assets.choices(group)}
    # the names that pages give to a file of the reader's and to a plugin's method, and a place in a choice's stead
    assert wrong <= {("model", "ours"), ("data", "rows.jsonl"), ("method", "steady")}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_in_its_first_line_how_to_run_it(name: str, world: None) -> None:
    first = assets.recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    command = re.search(rf"ftcli train recipe={name}\b[^)]*", first)
    assert first.startswith("# ")
    assert command is not None, first
    files = dict.fromkeys(("PAIRS", "LABELS"), "pairs.jsonl")
    files |= {"TEXT": "text.jsonl", "OLD": "text.jsonl", "pretrain.jsonl": "text.jsonl"}
    files |= {"PROMPTS": "prompts.jsonl", "REDTEAM": "prompts.jsonl"}
    follow(re.sub(r"\.path=(\S+)", lambda given: f".path={files.get(given[1], 'rows.jsonl')}", command[0]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_free_of_problems_without_gpu_or_network(name: str) -> None:
    assert check.run([f"recipe={name}"]) == 0


def test_no_file_names_this_machine_or_a_package_host() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    answer = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    if answer.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in answer.stdout.splitlines():
        path = ROOT / name
        text = path.read_bytes().decode("utf-8", "ignore") if path.is_file() and path.stat().st_size < 2**20 else ""
        forbidden = ELSEWHERE if name.startswith("tests/external") else (*ELSEWHERE, BESIDE)
        found += [f"{name}: {word}" for word in forbidden if word in text]
    assert found == []
