"""ftcli's backend on vLLM's own engine answers as the one on transformers, and the stand-in takes what vLLM takes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
from pathlib import Path
from typing import Any

from ftcli import tiny
from tests.conftest import REPOSITORY
from tests.external.deployed.programs import NEEDS_VLLM, STARTS_SECONDS, VLLM, with_programs
from tests.standin_vllm import Engine, Params

pytestmark = NEEDS_VLLM
COMMAND = (
    "train", "method=rlaif", "run.dir=p", "hardware=cpu", "hardware.num_threads=1", "stages.sample.make.n=2",
    "stages.sample.data.path=prompts.jsonl", "stages.sample.make.max_new_tokens=4", "judge=rules",
    "judge.patterns=[zzz]", "generator=vllm", "generator.gpu_memory_utilization=0.1",
)  # fmt: skip


def there(*words: str, cwd: Path, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """A module that was run in the environment with vLLM."""
    path = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [str(VLLM / "python"), "-m", *words], cwd=cwd, env=with_programs() | path, capture_output=True, text=True,
        timeout=STARTS_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stderr[-3000:]
    return done


def answers(*words: str, cwd: Path) -> Any:
    """The last line that the module of answers prints; vLLM's own engine prints to the same place."""
    return json.loads(there("tests.external.deployed.vllm_answers", *words, cwd=cwd).stdout.strip().splitlines()[-1])


def test_vllm_answers_and_chooses_as_transformers_does(tmp_path: Path):
    vllm, own = (answers(kind, "builtin:tiny", cwd=tmp_path) for kind in ("vllm", "local"))
    assert [each["text"] for each in vllm] == [each["text"] for each in own]
    for one, other in zip(vllm, own, strict=True):
        assert one["prompt_tokens"] == other["prompt_tokens"]
        assert (one["choice_logps"] is None) == (other["choice_logps"] is None)
        for logp, same in zip(one["choice_logps"] or (), other["choice_logps"] or (), strict=True):
            assert abs(logp - same) < 0.02 * abs(same)  # bfloat16 beside float32


def test_the_stand_in_takes_nothing_that_vllm_does_not(tmp_path: Path):
    found = answers("--takes", cwd=tmp_path)
    assert {*inspect.signature(Engine.__init__).parameters} <= {*found["engine"]}
    assert {each.name for each in dataclasses.fields(Params)} <= {*found["sampling"]}


def test_an_engine_on_a_cpu_takes_no_further_weights_which_is_why_check_refuses_it(tmp_path: Path):
    """It has packed those of its layers; where this fails, method.use_vllm may be tried on a CPU."""
    said = answers("--update", str(tiny.MODEL_DIR), cwd=tmp_path)
    assert said.startswith("Attempted to load weight ")
    assert said.endswith("into parameter (torch.Size([0]))")
    words = ("ftcli", "check", "method=grpo", "method.use_vllm=true", "method.rewards={ended: 1}", "hardware=cpu")
    assert "vLLM receives the policy's weights on a GPU" in there(*words, cwd=tmp_path, expect=2).stderr


def test_a_pipeline_generates_with_vllm(tmp_path: Path):
    rows = [json.dumps({"prompt": f"Add {i} and 4 for me."}) + "\n" for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("".join(rows), encoding="utf-8")
    given = [f"stages.{stage}.model=builtin:tiny" for stage in ("assistant", "sft")]
    # The judge finds every answer equal, so that no row comes of it, and the pipeline ends there.
    there("ftcli", *COMMAND, *given, cwd=tmp_path, expect=3)
    result = json.loads((tmp_path / "p/sample/result.json").read_text(encoding="utf-8"))
    assert (result["rows"], result["backend"]["type"], result["backend"]["requests"]) == (4, "vllm", 8)
