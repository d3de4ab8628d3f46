"""A config.json from a stranger: no size in it makes a plan endless, and none of its types ends in a traceback."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ftcli.models import read_config
from ftcli.tiny import MODEL_DIR


@pytest.fixture
def model(here: Path):
    def made(**changes: Any) -> str:
        shutil.rmtree("model", ignore_errors=True)
        shutil.copytree(MODEL_DIR, "model")
        file = Path("model/config.json")
        file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
        return "model.name_or_path=./model"

    return made


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers  is 1000000000, and no model has more than 2000"),
        ({"num_hidden_layers": 2_001}, "num_hidden_layers  is 2001, and no model has more than 2000"),
        ({"model_type": "nobody", "num_blocks": 10**9}, "num_blocks  is 1000000000, and no model has more than 2000"),
        ({"text_config": {"n_layer": 10**9}}, "text_config.n_layer  is 1000000000"),
        ({"hidden_size": 10**400}, "hidden_size  is a number of 401 digits"),
        ({"vocab_size": -(10**18)}, "vocab_size  is a number of 20 digits"),
    ],
)
def test_a_size_that_no_model_has_is_refused_by_name(problems, model, changes, said):
    assert read_config.MAX_LAYERS == 2_000
    assert any(said in problem for problem in problems(model(**changes)))


def test_a_shape_of_a_group_file_is_bounded_too(problems, here):
    shape = "{architecture: LlamaForCausalLM, model_type: llama, hidden_size: 8, num_attention_heads: 2, vocab_size: 9,"
    Path("conf/model").mkdir(parents=True)
    text = f"name_or_path: some/model\nshape: {shape} intermediate_size: 8, num_hidden_layers: 1000000000}}\n"
    Path("conf/model/mine.yaml").write_text(text, encoding="utf-8")
    found = problems("model=mine", config_dirs=(here / "conf",))
    assert any("num_hidden_layers  is 1000000000, and no model has more than 2000" in problem for problem in found)


@pytest.mark.parametrize("value", [5, "x", [1], {"a": 1}, [], {}, None, 1e400, True, -1])
@pytest.mark.parametrize(
    "key",
    ["architectures", "model_type", "text_config", "quantization_config", "rope_scaling", "num_attention_heads",
     "eos_token_id", "tie_word_embeddings", "auto_map", "max_position_embeddings", "num_local_experts"],
)  # fmt: skip
def test_no_type_in_it_is_a_bug(problems, model, key, value):
    problems(model(**{key: value}))
