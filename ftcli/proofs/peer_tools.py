"""The tools whose tokens can be compared with ours: their drivers, and what of a configuration those are given.

A driver gets only the settings that are listed here, all of which shape tokens. What would run code, reach the network
or say where something lies is never among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ftcli.config.conversion.draft import Draft
from ftcli.config.conversion.known import known_sets
from ftcli.config.conversion.tools import axolotl_sets, from_llama_factory

_PLACES = ("path", "data_files", "name", "split", "revision", "shards", "shards_idx", "trust_remote_code", "ds_type")
"""Of a set of Axolotl: which rows, and from where; a driver has them already."""
_REGISTERED = ("formatting", "ranking", "columns", "tags")
"""Of an entry of a dataset_info.json: how its rows are read."""


@dataclass(frozen=True, kw_only=True)
class PeerTool:
    """How one tool is asked for its tokens."""

    driver: str
    """The module of ftcli/worker/peers that runs in it."""
    requirement: str
    """What pip installs."""
    folder: str
    """Where benchmarks/peers/environment.py puts its environment; "" where ours has the tool."""
    methods: tuple[str, ...]
    """Methods whose rows the driver prepares."""
    keys: tuple[str, ...]
    """Settings of a file that the driver is given."""
    sets: Callable[[Draft], list[dict[str, Any]]]
    """The settings of each of a file's data sets, in its order."""

    def settings(self, draft: Draft) -> dict[str, Any]:
        """What of a file the driver is given."""
        return {key: draft.get(key) for key in self.keys if draft.get(key) is not None}


def _llama_factory(draft: Draft) -> list[dict[str, Any]]:
    names = from_llama_factory.set_names(draft.get("dataset"))
    entries = {**known_sets("llama_factory"), **from_llama_factory.registered(draft)}
    return [{key: entries.get(name, {})[key] for key in _REGISTERED if key in entries.get(name, {})} for name in names]


def _axolotl(draft: Draft) -> list[dict[str, Any]]:
    sets = axolotl_sets.items(draft.get("datasets"))
    return [{key: value for key, value in each.items() if key not in _PLACES} for each in sets]


def _ms_swift(draft: Draft) -> list[dict[str, Any]]:
    value = draft.get("dataset")
    return [{} for _ in (value if isinstance(value, list) else [value])]


def _trl(draft: Draft) -> list[dict[str, Any]]:
    mixture = draft.get("dataset_mixture.datasets")
    sets = [each for each in mixture if isinstance(each, dict)] if isinstance(mixture, list) else [{}]
    return [{"columns": each["columns"]} if each.get("columns") else {} for each in sets]


_TRL_KEYS = (
    *("max_length", "max_seq_length", "truncation_mode", "max_prompt_length", "max_completion_length"),
    *("assistant_only_loss", "completion_only_loss", "dataset_text_field", "eos_token", "pad_token", "chat_template"),
)
PEER_TOOLS: Mapping[str, PeerTool] = {
    "llama_factory": PeerTool(
        driver="of_llama_factory",
        requirement="llamafactory==0.9.5",
        folder="llamafactory",
        methods=("sft", "pretrain", "dpo", "ipo", "orpo", "simpo", "kto", "reward"),
        keys=(
            *("stage", "template", "cutoff_len", "train_on_prompt", "mask_history", "tool_format", "default_system"),
            *(
                "enable_thinking",
                "preserve_thinking",
                "split_special_tokens",
                "add_special_tokens",
                "new_special_tokens",
            ),
        ),
        sets=_llama_factory,
    ),
    "axolotl": PeerTool(
        driver="of_axolotl",
        requirement="axolotl==0.19.0",
        folder="axolotl",
        methods=("sft", "pretrain", "dpo", "ipo", "kto", "orpo", "simpo", "reward"),
        keys=(
            *("sequence_len", "excess_length_strategy", "min_sample_len", "train_on_inputs", "chat_template", "rl"),
            *("reward_model", "special_tokens", "tokens", "eot_tokens", "roles_to_train", "train_on_eos"),
            *("default_system_message", "chat_template_kwargs", "tokenizer_legacy"),
        ),
        sets=_axolotl,
    ),
    "ms_swift": PeerTool(
        driver="of_ms_swift",
        requirement="ms-swift==4.6.0",
        folder="msswift",
        methods=("sft", "pretrain", "dpo", "orpo", "simpo", "cpo", "kto", "reward"),
        keys=(
            *("template", "max_length", "truncation_strategy", "system", "loss_scale", "columns", "agent_template"),
            *("enable_thinking", "add_non_thinking_prefix", "use_chat_template", "template_backend", "response_prefix"),
            *("rlhf_type", "model_type"),
        ),
        sets=_ms_swift,
    ),
    "trl": PeerTool(
        driver="of_trl",
        requirement="trl",
        folder="",
        methods=("sft", "dpo", "ipo", "kto", "reward", "orpo", "cpo", "simpo"),
        keys=_TRL_KEYS,
        sets=_trl,
    ),
}
"""Tool → how it is asked; those that are not here have no driver."""
