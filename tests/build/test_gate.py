"""A run's folder may come from anyone: whichever command reads it, one gate decides what of it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftcli.build import gate
from ftcli.build.resolve import spec_of
from ftcli.build.resume import resumed_spec, spec_from
from ftcli.cli import main
from ftcli.config.compose import Request
from ftcli.core.errors import ConfigError
from ftcli.methods import all_methods
from ftcli.peft_methods import PEFT_METHODS
from ftcli.runs import rundir
from ftcli.settings.ownership import ENDPOINT, FLAGS, PUSH, REMOTE_CODE, REWARD_CODE
from ftcli.settings.run_spec import RunSpec

Plant = Callable[..., Path]
SLURM = ("hardware=slurm", "hardware.num_processes=2")
OPENAI = {"type": "openai", "model": "m", "base_url": "http://x/v1", "api_key_env": "HF_TOKEN"}


@pytest.fixture
def planted(here: Path) -> Plant:
    """The folder of a run in whose spec.json a stranger has set `GROUP.KEY` to a value, with every grant in it."""

    def plant(name: str, value: Any, *overrides: str) -> Path:
        here_alone = () if SLURM[0] in overrides else ("hardware=cpu", "hardware.num_threads=1")
        words = (*here_alone, *overrides, "run.dir=r")
        spec = json.loads(spec_of(Request(overrides=words)).to_json())
        *path, key = name.split(".")
        node = spec
        for part in path:
            node = node[part]
        node[key] = value
        if path and path[0] in ("train", "method", "model", "hardware", "peft", "run"):
            spec["tree"][path[0]][key] = value
        spec["grants"] = sorted(FLAGS)
        folder = here / "r"
        folder.mkdir(exist_ok=True)
        (folder / rundir.SPEC).write_text(json.dumps(spec), encoding="utf-8")
        return folder

    return plant


def ways(run: Path, grants: frozenset[str] = frozenset()) -> dict[str, Callable[[], RunSpec]]:
    """The commands that train what a folder says."""
    request = Request(overrides=("run.dir=other",), grants=grants)
    more = Request(overrides=("run.dir=other", "run.score_rows=0"), grants=grants)
    return {
        "--resume": lambda: resumed_spec(run, (), grants),
        "--from": lambda: spec_from(run, request),
        "--from and more": lambda: spec_from(run, more),
    }


GRPO = ("method=grpo", "method.rewards={ended: 1}")
GRANTED = [
    ("model.trust_remote_code", True, REMOTE_CODE, ()),
    ("model.attn_implementation", "evil/kernel", REMOTE_CODE, ()),
    ("hardware.container", "/tmp/evil.sif", REMOTE_CODE, ()),
    ("method.reward_functions", {"os:system": 1}, REWARD_CODE, GRPO),
    ("method.judge", OPENAI, ENDPOINT, ("method=ppo", "method.rewards={ended: 1}")),
    ("method.log_completions_hub_repo", "someone/else", PUSH, (*GRPO, "method.log_completions=true")),
    ("method.vllm_server_base_url", "http://evil", ENDPOINT, GRPO),
    ("method.vllm_server_host", "evil", ENDPOINT, GRPO),
    ("train.push_to_hub", True, PUSH, ()),
    ("train.hub_model_id", "someone/else", PUSH, ()),
    ("train.report_to", "wandb", ENDPOINT, ()),
    ("train.report_to", ["tensorboard", "mlflow"], ENDPOINT, ()),
    ("train.trackio_space_id", "someone/else", PUSH, ()),
    ("hardware.rendezvous", "evil:29400", ENDPOINT, ()),
    ("run.tracking", {"wandb": {"mode": "online"}}, ENDPOINT, ()),
    ("run.tracking", {"mlflow": {"tracking_uri": "http://evil"}}, ENDPOINT, ()),
    ("run.tracking", {"trackio": {"space_id": "someone/else"}}, PUSH, ()),
]


@pytest.mark.parametrize(("name", "value", "flag", "overrides"), GRANTED, ids=lambda each: str(each)[:40])
def test_what_a_folder_grants_itself_counts_for_nothing(name, value, flag, overrides, planted: Plant):
    run = planted(name, value, *overrides)
    naive = RunSpec.load(run / rundir.SPEC)
    assert getattr(getattr(naive, name.split(".")[0]), "get", lambda key: None)(name.split(".")[1]) == value or (
        getattr(getattr(naive, name.split(".")[0]), name.split(".")[1], None) == value
    ), "the control: a reader without a gate takes the value, and the grants of the file with it"
    assert set(naive.grants) == FLAGS
    for way, read in ways(run).items():
        with pytest.raises(ConfigError) as raised:
            read()
        assert any(flag in problem.fix for problem in raised.value.problems), way
    for way, read in ways(run, frozenset({flag})).items():
        refused = ""
        try:
            assert flag in read().grants, way
        except ConfigError as error:  # for another reason: a package that is missing, a setting without effect
            refused = str(error)
        assert "grant it" not in refused, way


HOSTILE = [
    ("train.hub_token", "hf_x", "is refused", ()),
    ("train.output_dir", "/tmp/elsewhere", "is owned by run.dir", ()),
    ("train.resume_from_checkpoint", "/tmp/pickles", "is owned by --resume RUN", ()),
    ("train.learning_rate", "fast", "is not", ()),
    ("train.learning_rate", -1, "out of range", ()),
    ("train.max_steps", 2.5, "is not", ()),
    ("train.nonsense", 1, "is not an option", ()),
    ("method.model_init_kwargs", {"trust_remote_code": True}, "is owned by model.*", ()),
    ("peft.megatron_config", {"a": 1}, "is refused", ("peft=lora",)),
    ("peft.megatron_core", "os", "is refused", ("peft=lora",)),
    ("peft.auto_mapping", {"parent_library": "os"}, "is refused", ("peft=lora",)),
    ("train.fsdp_config", {"state_dict_type": "SHARDED_STATE_DICT"}, "leaves the finished model in pieces", ()),
    ("train.fsdp_config", {"nonsense": 1}, "has no entry nonsense", ()),
]
LAUNCHED = [
    ("launch.num_processes", 10**9, "out of range", ()),
    ("launch.num_processes", "2; rm", "is not a whole number", ()),
    ("launch.num_processes", 9, "is not what its hardware settings say", ()),
    ("run.name", "x\n#SBATCH --wrap=evil", "is not a plain name", ()),
    ("hardware.account", "lab\n#SBATCH --wrap=evil", "does not stand on a line of options", SLURM),
    ("hardware.sbatch", {"wrap": "evil"}, "none whose reach is sorted", SLURM),
    ("hardware.sbatch", {"qos": "x\ny"}, "does not stand on a line of options", SLURM),
    ("hardware.time_limit", "1; evil", "is not a time", SLURM),
    ("attention_candidates", ["sdpa", "evil/kernel"], "which is code of the hub", ()),
    ("launch.num_threads", 0, "out of range", ()),
    ("launch.device", "cpu\nevil", "is not a device", ()),
    ("launch.max_restarts", 10**9, "out of range", ()),
    ("model.name_or_path", 7, "is not", ()),
    ("data.path", {"a": 1}, "is not", ()),
    ("choices", {"method": "evil"}, "does not have", ()),
    ("choices", ["sft"], "another form", ()),
    ("tree", [], "another form", ()),
    ("method", "sft", "another form", ()),
    ("notes", [{"key": 1, "value": 1, "why": "x"}], "another form", ()),
    ("train.per_device_train_batch_size", "auto", "is auto, which stands for no value", ()),
    ("model.dtype", "auto", "is auto, which stands for no value", ()),
    ("quantisation.compute_dtype", "auto", "is auto, which stands for no value", ("peft=lora", "quantisation=nf4")),
    ("peft.target_modules", "rows[", "is not a regular expression", ("peft=lora",)),
    ("peft.target_modules", "null", "matches no whole module name", ("peft=lora",)),
    ("peft.modules_to_save", ["nothing"], "names no module", ("peft=lora",)),
    ("data.mix", {"a": "rows.jsonl"}, "not a mapping of settings", ()),
    ("data.mix", {"a": {"path": 7}}, "data.mix.a.path", ()),
]


@pytest.mark.parametrize(("name", "value", "reason", "overrides"), HOSTILE + LAUNCHED, ids=lambda each: str(each)[:40])
def test_what_nobody_could_set_is_refused_in_a_folder_too(name, value, reason, overrides, planted: Plant):
    run = planted(name, value, *overrides)
    for way in ("--resume", "--from"):
        with pytest.raises(ConfigError) as raised:
            ways(run, FLAGS)[way]()
        assert any(reason in problem.what for problem in raised.value.problems), (way, str(raised.value))


DEEPSPEED = [
    ({"flops_profiler": {"enabled": True, "output_file": "~/.bashrc"}}, "--allow-path"),
    ({"tensorboard": {"enabled": True}}, "--allow-path"),
    ({"csv_monitor": {"enabled": True, "output_path": "/tmp/x"}}, "--allow-path"),
    ({"nebula": {"enabled": True, "persistent_storage_path": "/tmp/x"}}, "--allow-path"),
    ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme", "nvme_path": "/tmp"}}}, "--allow-path"),
    ({"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "/tmp"}}}, "--allow-path"),
    ({"wandb": {"enabled": True, "team": "evil"}}, ENDPOINT),
    ({"comet": {"enabled": True, "api_key": "evil"}}, ENDPOINT),
    ({"compile": {"backend": "evil.module.backend"}}, REMOTE_CODE),
    ({"torch_autocast": {"lower_precision_safe_modules": ["evil.module.Class"]}}, REMOTE_CODE),
    ({"autotuning": {"enabled": True}}, "refused"),
    ({"checkpoint": {"load_universal": True}}, "refused"),
    ({"zero_optimization": {"brand_new": True}}, "none whose reach is sorted"),
    ({"brand_new": {}, "other_new": {"path": "x"}}, "none whose reach is sorted"),
]


@pytest.mark.parametrize(("content", "said"), DEEPSPEED, ids=lambda each: str(each)[:50])
def test_a_deepspeed_configuration_is_read_inside_wherever_it_stands(content, said, planted: Plant, here: Path):
    found = []
    run = planted("train.deepspeed", content)
    for read in ways(run).values():
        with pytest.raises(ConfigError) as raised:
            read()
        found.append(str(raised.value))
    (here / "ds.json").write_text(json.dumps(content), encoding="utf-8")
    for value in ("ds.json", json.dumps(json.dumps(content))):
        (here / "r.yaml").write_text(f"ftcli: 1\ndefaults:\n  - method: sft\ntrain: {{deepspeed: {value}}}\n")
        with pytest.raises(ConfigError) as raised:
            spec_of(Request(overrides=("recipe=r.yaml",)))
        found.append(str(raised.value))
    with pytest.raises(ConfigError) as raised:  # the name of the file is typed, what is in it is not
        spec_of(Request(overrides=("train.deepspeed=ds.json",)))
    found.append(str(raised.value))
    assert all(said in each for each in found), found


def test_a_link_out_of_the_folder_is_not_followed(planted: Plant, here: Path):
    run = planted("seed", 1)
    precious = here / "precious"
    precious.write_text("mine\n", encoding="utf-8")
    (run / rundir.LOG).symlink_to(precious)
    with (run / rundir.LOG).open("a") as log:  # the control: what appends to the log writes there
        log.write("of the run\n")
    assert precious.read_text(encoding="utf-8") == "mine\nof the run\n"
    for read in (*ways(run).values(), lambda: gate.opened(run)):
        with pytest.raises(ConfigError, match=r"log\.txt  is a link that leads out of the folder"):
            read()
    (run / rundir.LOG).unlink()
    (run / "inner").symlink_to(run / rundir.SPEC)
    assert gate.opened(run).seed == 1


def test_measuring_needs_the_grants_of_what_it_runs_and_no_others(planted: Plant, capsys):
    run = planted("method.judge", OPENAI, "method=ppo", "method.rewards={ended: 1}")
    assert main(["eval", str(run)]) == 2
    assert ENDPOINT in capsys.readouterr().err
    run = planted("train.push_to_hub", True)
    assert gate.opened(run, frozenset(), gate.MEASURES).train["push_to_hub"] is True, "it pushes nothing"


@pytest.mark.parametrize("command", ["chat", "generate", "eval", "report", "merge", "score", "sample"])
def test_a_folder_that_is_no_spec_ends_every_command_with_a_reason(command, planted: Plant, capsys, monkeypatch):
    run = planted("train.learning_rate", "fast")
    (run / rundir.MODEL).mkdir()
    (run / rundir.MODEL / "config.json").write_text("{}", encoding="utf-8")
    more = {"score": ["x.jsonl"], "sample": ["x.jsonl", "--to", "y.jsonl"], "generate": ["hello"]}.get(command, [])
    assert main([command, str(run), *more]) == 2
    assert "Traceback" not in capsys.readouterr().err


CELLS = [
    *((name, "none", "cpu") for name in all_methods()),
    *(("sft", name, "cpu") for name in PEFT_METHODS if name != "other"),
    *(("sft", "lora", name) for name in ("auto", "gpu", "multi_gpu", "fsdp", "zero2", "zero3", "zero3_offload")),
    *(("sft", "none", name) for name in ("slurm", "multi_node", "zero2", "fsdp_offload")),
]


@pytest.mark.parametrize(("method", "peft", "hardware"), CELLS)
def test_every_spec_that_ftcli_writes_passes_its_own_gate(method, peft, hardware, here: Path, problems):
    words = [f"method={method}", f"peft={peft}", f"hardware={hardware}", "run.dir=r"]
    words += ["hardware.device=cpu", "hardware.num_processes=2"] if hardware.startswith(("fsdp", "zero")) else []
    words += {
        "slurm": ["hardware.num_processes=2", "hardware.sbatch={qos: high}", "hardware.container=/images/x.sif"],
        "multi_node": ["hardware.num_nodes=2", "hardware.node_rank=0", "hardware.rendezvous=node0:29400"],
    }.get(hardware, [])
    words += ["method.rewards={ended: 1}"] if method in ("grpo", "rloo", "ppo", "online_dpo") else []
    words += ["method.teacher_model=builtin:tiny"] if method == "distillation" else []
    if found := problems(*words):
        pytest.skip(found[0])
    spec = spec_of(Request(overrides=tuple(words)))
    (here / "r").mkdir()
    (here / "r" / rundir.SPEC).write_text(spec.to_json(), encoding="utf-8")
    assert gate.opened(here / "r", frozenset(spec.grants), gate.TRAINS) == spec
