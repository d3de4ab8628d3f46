"""`ftcli recipe import --prove` in the other tools themselves, where benchmarks/tokenise.py has made them a place."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftcli.cli import main
from ftcli.proofs import peer_process
from ftcli.proofs.peer_tools import PEER_TOOLS

MODELS = os.environ.get("FTCLI_REAL_MODELS")
ROWS = [{"instruction": f"Name {name}.", "input": "", "output": f"It is {name}."} for name in ("one", "two", "three")]
TURNS = [
    {"messages": [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]}
    for row in ROWS
]
FILES = {
    "llama_factory": "model_name_or_path: {model}\nstage: sft\nfinetuning_type: lora\ntemplate: chatml\n"
    "dataset: rows\ncutoff_len: 256\n",
    "axolotl": "base_model: {model}\nadapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
    "sequence_len: 256\nlearning_rate: 1e-4\ndatasets:\n  - path: turns.jsonl\n    type: chat_template\n",
    "ms_swift": "swift sft --model {model} --model_type llama --template chatml --tuner_type lora --max_length 256 "
    "--dataset data/rows.json --learning_rate 1e-4\n",
}
ASKED = {"role": "user", "content": "Name one."}
SIDES = {
    side: [ASKED, {"role": "assistant", "content": text}] for side, text in (("chosen", "One."), ("rejected", "No."))
}
AXOLOTL = FILES["axolotl"].partition("datasets:")[0] + "chat_template: tokenizer_default\n"
OF_PAIRS = {
    "simpo": ("rl: simpo\ncpo_alpha: 0.0\nsimpo_gamma: 0.5\n", "chat_template.argilla_chat", SIDES, set()),
    "orpo": ("rl: orpo\norpo_alpha: 0.1\n", "chat_template.argilla", SIDES, {"end"}),
    "reward": (
        "reward_model: true\nnum_labels: 1\n",
        "bradley_terry.chat_template",
        {"system": "Be short.", "input": "Name one.", "chosen": "One.", "rejected": "No."},
        {"blank"},
    ),
}
"""Keys, strategy and a row of methods that learn from pairs, and how Axolotl differs: its ORPO ends an answer twice."""
KINDS = {"llama_factory": {"blank": 3}, "axolotl": {}, "ms_swift": {"blank": 3}}
"""The line break behind an answer is trained by those that take it for a part of the answer."""


@pytest.mark.slow
@pytest.mark.skipif(not MODELS, reason="FTCLI_REAL_MODELS names no folder (python -m tools.real_models makes one)")
@pytest.mark.parametrize("tool", FILES)
def test_the_tokens_of_the_tool_are_ours_but_for_the_line_break_behind_an_answer(tool, here, capsys):
    folder = Path(__file__).parents[2] / "build" / "peers" / PEER_TOOLS[tool].folder
    if not (folder / "bin" / "python").exists():
        pytest.skip(f"no {tool} under build/peers: python benchmarks/tokenise.py makes it")
    assert peer_process.interpreter(PEER_TOOLS[tool], tool, None) == folder / "bin" / "python"
    (here / "data").mkdir()
    (here / "data" / "rows.json").write_text(json.dumps(ROWS))
    (here / "data" / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    (here / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TURNS))
    file = here / ("theirs.sh" if tool == "ms_swift" else "theirs.yaml")
    file.write_text(FILES[tool].format(model=Path(str(MODELS)) / "smollm2"))
    code = main(["recipe", "import", file.name, "--prove", "--json", "--allow-path"])
    found = json.loads(capsys.readouterr().out)["proof"]
    assert {each["kind"]: each["rows"] for each in found["examples"]} == KINDS[tool], found
    assert code == (9 if KINDS[tool] else 0)
    assert found["trained_tokens"]["theirs"] - found["trained_tokens"]["ours"] == sum(KINDS[tool].values())


@pytest.mark.slow
@pytest.mark.skipif(not MODELS, reason="FTCLI_REAL_MODELS names no folder (python -m tools.real_models makes one)")
@pytest.mark.parametrize("method", OF_PAIRS)
def test_pairs_are_compared_with_axolotls_own_trainer_of_the_method(method, here, capsys):
    folder = Path(__file__).parents[2] / "build" / "peers" / "axolotl"
    if not (folder / "bin" / "python").exists():
        pytest.skip("no axolotl under build/peers: python benchmarks/tokenise.py makes it")
    keys, strategy, row, kinds = OF_PAIRS[method]
    (here / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    sets = f"datasets:\n  - path: pairs.jsonl\n    type: {strategy}\n"
    (here / "theirs.yaml").write_text(AXOLOTL.format(model=Path(str(MODELS)) / "smollm2") + keys + sets)
    main(["recipe", "import", "theirs.yaml", "--prove", "--json", "--allow-path"])
    found = json.loads(capsys.readouterr().out)["proof"]
    assert {each["kind"] for each in found["examples"]} == kinds, found
