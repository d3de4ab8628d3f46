"""The rules for adapters, as one table: what of the model trains, by memory, rows and goal; and the models by size.

Their points are added to those of a method. A way that needs a smaller model to fit loses points for each step down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.advise.situation import When

IMITATES = ("sft", "instruct")


@dataclass(frozen=True, kw_only=True)
class AdapterRule:
    """When to train which part of a model."""

    adapter: str
    """A choice of `peft`."""
    when: When
    points: float
    reason: str
    gives_up: str
    sources: tuple[str, ...]
    methods: tuple[str, ...] = ()
    """The methods that it is advised for; empty: every one."""
    goals: tuple[str, ...] = ()
    larger: bool = False
    """Whether a model one size larger than the method's largest is advised with it, where none is named."""
    most_parameters: float | None = None
    """Parameters of the model up to which it is advised."""
    settings: Mapping[str, Any] = field(default_factory=dict)


_LORA = ("Hu et al. 2021, arXiv:2106.09685", "Schulman et al. 2025, LoRA Without Regret")
_FULL = "Biderman et al. 2024, arXiv:2405.09673"

ADAPTER_RULES: tuple[AdapterRule, ...] = (
    AdapterRule(
        adapter="lora",
        when=When(),
        points=3,
        reason="LoRA comes close to full fine-tuning while the optimiser keeps states for one percent of the "
        "parameters; it merges, and every tool loads it",
        gives_up="it learns less from very many rows than full fine-tuning",
        sources=_LORA,
    ),
    AdapterRule(
        adapter="qlora",
        when=When(traits=("gpu",)),
        points=2,
        larger=True,
        reason="a base in 4 bits takes a quarter of the memory, which leaves room for a larger model or longer rows",
        gives_up="it is slower, since weights are unpacked for every product; a little is lost in quantising",
        sources=("Dettmers et al. 2023, arXiv:2305.14314",),
    ),
    AdapterRule(
        adapter="none",
        when=When(kinds=("text",)),
        points=3.4,
        methods=("pretrain",),
        goals=("domain",),
        reason="new knowledge takes the capacity of all parameters, which full fine-tuning has",
        gives_up="the most memory, the largest files; it forgets more of what the model knew",
        sources=(_FULL, "Gururangan et al. 2020, arXiv:2004.10964"),
    ),
    AdapterRule(
        adapter="rslora",
        when=When(kinds=("text",)),
        points=3.2,
        methods=("pretrain",),
        reason="a rank of 64 and more holds more new knowledge than LoRA's usual 16, and its scale keeps it stable",
        gives_up="it learns less than full fine-tuning, and forgets less",
        sources=("Kalajdzievski 2023, arXiv:2312.03732", _FULL),
        settings={"peft.r": 64},
    ),
    AdapterRule(
        adapter="none",
        when=When(rows=(10_000, None)),
        points=2.6,
        reason="many rows use the capacity of all parameters",
        gives_up="the most memory, the largest files; it forgets more of what the model knew",
        sources=(_FULL,),
    ),
    AdapterRule(
        adapter="none",
        when=When(),
        points=1.6,
        most_parameters=1e9,
        reason="the model is small enough to train all of it",
        gives_up="the whole model is saved, not some megabytes; it forgets more of what the model knew",
        sources=(_FULL,),
    ),
    AdapterRule(
        adapter="ia3",
        when=When(kinds=("pair", "messages"), rows=(0, 100)),
        points=3.3,
        methods=IMITATES,
        reason="a hundred rows are soon memorised: IA³ only scales activations, by some tens of thousands of numbers",
        gives_up="it learns little beyond a task's form; more rows want LoRA",
        sources=("Liu et al. 2022, arXiv:2205.05638",),
    ),
    AdapterRule(
        adapter="ia3",
        when=When(kinds=("pair", "messages"), rows=(100, 1000)),
        points=2.2,
        methods=IMITATES,
        goals=("task",),
        reason="few rows for one task: IA³ only scales activations, and can hardly memorise",
        gives_up="it learns little beyond a task's form",
        sources=("Liu et al. 2022, arXiv:2205.05638",),
    ),
    AdapterRule(
        adapter="p_tuning",
        when=When(kinds=("pair",), rows=(0, 2000), traits=("short",)),
        points=2.8,
        methods=IMITATES,
        goals=("task",),
        reason="short answers, as a class or a name: P-tuning learns twenty vectors before the input, and the "
        "base stays as it is",
        gives_up="it merges into no base and cannot pack rows; it wants a large model and a high rate",
        sources=("Liu et al. 2021, arXiv:2103.10385", "Lester et al. 2021, arXiv:2104.08691"),
    ),
    AdapterRule(
        adapter="prefix",
        when=When(kinds=("pair",), rows=(100, 500), without=("short",)),
        points=2.7,
        methods=IMITATES,
        goals=("task",),
        reason="one task of writing from few rows: a prefix steers every layer, and many tasks share one "
        "untouched base",
        gives_up="it merges into no base, cannot pack rows or checkpoint activations, and learns more slowly",
        sources=("Li & Liang 2021, arXiv:2101.00190",),
    ),
    AdapterRule(
        adapter="adapter",
        when=When(kinds=("pair", "messages"), rows=(1000, 20_000)),
        points=2.4,
        methods=IMITATES,
        goals=("task", "domain"),
        reason="bottleneck layers, one small file a task: many tasks on one base without forgetting each other",
        gives_up="it merges into no base, so it costs time when it answers, and few servers load it",
        sources=("Houlsby et al. 2019, arXiv:1902.00751", "Pfeiffer et al. 2021, arXiv:2005.00247"),
    ),
)
"""Every rule for an adapter; of several that hold for one adapter the one with most points counts."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of the models that are advised where none is named."""

    instruct: str
    """The choice of `model` that answers."""
    base: str
    """The choice of `model` that continues text."""
    parameters: float
    template: str
    """The name of its chat template among those that TRL ships, by which tools and reasoning are tried."""


SIZES: tuple[Size, ...] = (
    Size(instruct="qwen-14b", base="qwen-14b-base", parameters=14.8e9, template="qwen3"),
    Size(instruct="qwen", base="qwen-base", parameters=8.2e9, template="qwen3"),
    Size(instruct="qwen-4b", base="qwen-4b-base", parameters=4.0e9, template="qwen3"),
    Size(instruct="qwen-1.7b", base="qwen-1.7b-base", parameters=1.7e9, template="qwen3"),
    Size(instruct="qwen-0.6b", base="qwen-0.6b-base", parameters=0.6e9, template="qwen3"),
)
"""The models that are advised, largest first: one family of many sizes under Apache 2.0, whose template writes tools
and reasoning."""
STEP_DOWN = 0.5
"""Points that a way loses for each size below the largest that is advised for it."""
ON_CPU = "qwen-0.6b"
"""The largest model that is advised where there is no GPU: a step of more takes minutes."""
