"""The rules for methods, as one table: which rows and which goal each is for, why, what it gives up, and who says so.

Points order the ways: ten is the usual choice for a goal, and a method without points for a goal is not advised for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftcli.advise.data_look import DataLook
from ftcli.advise.goals import ASSISTANT, CHECKABLE, DOMAIN, PREFERENCES, PRINCIPLES, TASK
from ftcli.advise.situation import When
from ftcli.methods import all_pipelines

ANSWERED = ("pair", "messages")
ASKED = ("prompt", "pair", "messages")

INSTRUCT, BASE = "instruct", "base"


@dataclass(frozen=True, kw_only=True)
class MethodRule:
    """When to train by a method."""

    method: str
    when: When
    points: Mapping[str, float]
    """Goal → points."""
    reason: str
    gives_up: str
    sources: tuple[str, ...]
    start: str = INSTRUCT
    """The kind of model that it starts from, where none is named."""
    most: str = "qwen"
    """The largest model that is advised, where none is named."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    of_rows: Callable[[DataLook], Mapping[str, Any]] | None = None
    """Settings that depend on what was seen in the rows."""
    ready: tuple[str, ...] = ()
    """Stages of a pipeline that the starting model stands for."""
    reads: tuple[str, ...] = ()
    """Stages of a pipeline that read the rows; of a run itself: empty."""
    as_prompts: tuple[str, ...] = ()
    """Those of the stages that read the rows as prompts."""
    adapters: tuple[str, ...] = ()
    """The adapters that go with it; empty: those that its situation allows."""
    teacher: bool = False
    """Whether it learns from the next larger model of the family."""

    @property
    def stages(self) -> bool:
        """Whether it is a pipeline of several runs."""
        return bool(self.reads)

    @property
    def roles(self) -> frozenset[str]:
        """The roles of its pipeline that a model or an endpoint is given: judge, generator; of a single run none."""
        if not self.stages:
            return frozenset()
        return frozenset(stage.role for stage in all_pipelines()[self.method].stages if stage.role)


def _rewarded(look: DataLook) -> Mapping[str, Any]:
    """A rule as the reward of answers, and how the rows are read as prompts."""
    assert look.checkable is not None
    own: Any = 1 if look.checkable.column == "answer" else {"weight": 1, "column": look.checkable.column}
    return {**(look.as_prompts or {}), "method.rewards": {look.checkable.rule: own}}


_WHOLE_TEXT = When(kinds=("text",))
_CHECKED = When(kinds=("prompt", "pair"), traits=("checkable", "prompts"))
_LOW = ("lora", "qlora")
_TOLD = "Answers are sampled during the run, and that time comes on top of the planned one"

METHOD_RULES: tuple[MethodRule, ...] = (
    # --- plain text -----------------------------------------------------------------------------------------------
    MethodRule(
        method="pretrain",
        when=_WHOLE_TEXT,
        points={DOMAIN: 10, TASK: 7, ASSISTANT: 7, PREFERENCES: 6, CHECKABLE: 6, PRINCIPLES: 6},
        reason="the rows are plain text without questions: continued pre-training learns what they say, in their "
        "language",
        gives_up="the model continues text and does not answer; fine-tune it on answers afterwards, and mix in "
        "other text so that it forgets less",
        sources=("Gururangan et al. 2020, arXiv:2004.10964", "Ibrahim et al. 2024, arXiv:2403.08763"),
        start=BASE,
    ),
    MethodRule(
        method="sft",
        when=_WHOLE_TEXT,
        points={DOMAIN: 6, TASK: 9, ASSISTANT: 6},
        reason="each row is one document that is learned whole, with the token that ends it: for texts that are "
        "the output",
        gives_up="there is no prompt, so nothing says what to write; prompts with answers teach a task better",
        sources=("Howard & Ruder 2018, arXiv:1801.06146",),
        start=BASE,
    ),
    # --- prompts with answers -------------------------------------------------------------------------------------
    MethodRule(
        method="sft",
        when=When(kinds=ANSWERED),
        points={TASK: 10, DOMAIN: 10, ASSISTANT: 8, PREFERENCES: 8, CHECKABLE: 9, PRINCIPLES: 8},
        reason="the rows show the answer to each prompt: imitating them is the simplest thing that works, one run",
        gives_up="it imitates: a wrong or rude row is learned as well as a right one",
        sources=("Wei et al. 2021, arXiv:2109.01652", "Zhou et al. 2023 (LIMA), arXiv:2305.11206"),
    ),
    MethodRule(
        method="instruct",
        when=When(kinds=ANSWERED),
        points={ASSISTANT: 10, TASK: 8, DOMAIN: 8},
        reason="instruction tuning: every row goes through the chat template, and only answers are learned",
        gives_up="a model without a chat template is refused",
        sources=("Ouyang et al. 2022, arXiv:2203.02155", "Wei et al. 2021, arXiv:2109.01652"),
    ),
    MethodRule(
        method="grpo",
        when=_CHECKED,
        points={CHECKABLE: 10.5},
        reason="a rule tells a right answer from a wrong one: the model is rewarded for its own right answers, "
        "and finds its own way to them",
        gives_up=f"some of its answers must be right already, else it learns nothing. {_TOLD}",
        sources=("Shao et al. 2024, arXiv:2402.03300", "DeepSeek-AI 2025, arXiv:2501.12948"),
        most="qwen-4b",
        settings={"method.num_generations": 8},
        of_rows=_rewarded,
        adapters=(*_LOW, "none"),
    ),
    MethodRule(
        method="rloo",
        when=_CHECKED,
        points={CHECKABLE: 9.2},
        reason="as GRPO, with the mean of the other answers as the baseline: an unbiased gradient, nothing to clip",
        gives_up=f"each answer is used once, so more are sampled. {_TOLD}",
        sources=("Ahmadian et al. 2024, arXiv:2402.14740",),
        most="qwen-4b",
        of_rows=_rewarded,
        adapters=(*_LOW, "none"),
    ),
    MethodRule(
        method="ppo",
        when=_CHECKED,
        points={CHECKABLE: 9.1},
        reason="a critic says what each token was worth, not only the whole answer, and each answer is used several "
        "times",
        gives_up=f"the critic takes memory, and more options have to be right. {_TOLD}",
        sources=("Schulman et al. 2017, arXiv:1707.06347", "Huang et al. 2024, arXiv:2403.17031"),
        most="qwen-4b",
        settings={"method.missing_eos_penalty": 1.0},
        of_rows=_rewarded,
        adapters=_LOW,
    ),
    # --- preferences ----------------------------------------------------------------------------------------------
    MethodRule(
        method="dpo",
        when=When(kinds=("preference",)),
        points={PREFERENCES: 10, PRINCIPLES: 10, ASSISTANT: 9, TASK: 9, DOMAIN: 8, CHECKABLE: 9},
        reason="pairs say which of two answers is better: DPO learns from them directly, one run and no reward model",
        gives_up="it learns from the pairs alone and explores nothing; the model should answer well already",
        sources=("Rafailov et al. 2023, arXiv:2305.18290", "Tunstall et al. 2023 (Zephyr), arXiv:2310.16944"),
    ),
    MethodRule(
        method="ipo",
        when=When(kinds=("preference",), rows=(0, 500)),
        points={PREFERENCES: 10.5, PRINCIPLES: 9.8, ASSISTANT: 8, TASK: 8},
        reason="few pairs are soon fitted: IPO stops at a margin, where DPO goes on to push rejected answers away",
        gives_up="it changes the model less, also where more would be right",
        sources=("Azar et al. 2023, arXiv:2310.12036",),
    ),
    MethodRule(
        method="ipo",
        when=When(kinds=("preference",), rows=(500, None), traits=("repeated",)),
        points={PREFERENCES: 9.7, PRINCIPLES: 9.5},
        reason="many pairs share their prompt, and the same answers in pair after pair are soon fitted: IPO stops at "
        "a margin",
        gives_up="it changes the model less, also where more would be right",
        sources=("Azar et al. 2023, arXiv:2310.12036", "Ouyang et al. 2022, arXiv:2203.02155"),
    ),
    MethodRule(
        method="orpo",
        when=When(kinds=("preference",), traits=("base",)),
        points={PREFERENCES: 11, ASSISTANT: 11, TASK: 11, PRINCIPLES: 10.5, DOMAIN: 9},
        reason="the model was not fine-tuned yet: ORPO learns the chosen answers and the preference in one run, "
        "one model in memory",
        gives_up="no reference holds it near the starting model; both aims share one rate",
        sources=("Hong et al. 2024, arXiv:2403.07691",),
        start=BASE,
    ),
    MethodRule(
        method="orpo",
        when=When(kinds=("preference",), without=("base",)),
        points={ASSISTANT: 9.4, TASK: 9.4, PREFERENCES: 7, DOMAIN: 8.5},
        reason="the chosen answers are the only examples at hand: ORPO learns them and the preference in one run",
        gives_up="no reference holds it near the starting model; both aims share one rate",
        sources=("Hong et al. 2024, arXiv:2403.07691",),
        start=BASE,
    ),
    MethodRule(
        method="simpo",
        when=When(kinds=("preference",)),
        points={PREFERENCES: 9, ASSISTANT: 7, PRINCIPLES: 7.5},
        reason="no reference in memory or to compute, and the reward is a mean over tokens, so longer is not better",
        gives_up="nothing holds the model near its start: its rate and margin want tuning",
        sources=("Meng et al. 2024, arXiv:2405.14734",),
    ),
    MethodRule(
        method="cpo",
        when=When(kinds=("preference",)),
        points={TASK: 8.6},
        reason="DPO without a reference, plus the likelihood of the chosen answer: made for tasks such as translation",
        gives_up="nothing but that likelihood holds the model near its start",
        sources=("Xu et al. 2024, arXiv:2401.08417",),
    ),
    MethodRule(
        method="kto",
        when=When(kinds=("label",)),
        points=dict.fromkeys((PREFERENCES, PRINCIPLES, ASSISTANT, TASK, DOMAIN, CHECKABLE), 10.0),
        reason="the rows say good or bad, each for itself: KTO needs no pairs",
        gives_up="one label says less than a pair; clean pairs, where they can be had, are better used by DPO",
        sources=("Ethayarajh et al. 2024, arXiv:2402.01306",),
    ),
    MethodRule(
        method="kto",
        when=When(kinds=("preference",)),
        points={PREFERENCES: 8.3, PRINCIPLES: 8},
        reason="pairs split into good and bad answers: KTO withstands pairs that contradict each other",
        gives_up="what a pair says of its two answers together is lost",
        sources=("Ethayarajh et al. 2024, arXiv:2402.01306",),
    ),
    MethodRule(
        method="reward",
        when=When(kinds=("preference",)),
        points={CHECKABLE: 8.6, PREFERENCES: 7.8, PRINCIPLES: 7.7},
        reason="a model that gives each answer a score: to rank answers, take the best of n, or reward PPO with it",
        gives_up="it changes no answer by itself: something has to use the score",
        sources=("Ouyang et al. 2022, arXiv:2203.02155", "Stiennon et al. 2020, arXiv:2009.01325"),
        adapters=(*_LOW, "none"),
    ),
    MethodRule(
        method="rlhf",
        when=When(kinds=("preference",), traits=("prompts", "gpu")),
        points={ASSISTANT: 8.9, CHECKABLE: 8, PREFERENCES: 8.1, PRINCIPLES: 7.9},
        reason="a reward model learns the preference, and PPO trains answers that the model itself gives: it "
        "explores what the pairs do not show",
        gives_up=f"a reward model and a run of PPO, with more options and memory. {_TOLD}",
        sources=("Ouyang et al. 2022, arXiv:2203.02155", "Christiano et al. 2017, arXiv:1706.03741"),
        most="qwen-4b",
        settings={"stages.ppo.method.missing_eos_penalty": 1.0, "stages.ppo.method.max_new_tokens": 256},
        ready=("sft",),
        reads=("reward", "ppo"),
        as_prompts=("ppo",),
        adapters=_LOW,
    ),
    # --- prompts, and preferences that a model makes ---------------------------------------------------------------
    MethodRule(
        method="rlaif",
        when=When(kinds=ASKED),
        points={PREFERENCES: 10, ASSISTANT: 8.4, PRINCIPLES: 8.8, TASK: 6.5, DOMAIN: 6, CHECKABLE: 6},
        reason="there are prompts and no preferences: a judge compares sampled answers, and the model learns "
        "from the pairs",
        gives_up="the judge's taste is learned, with its errors; sampling and judging take most of the time",
        sources=("Lee et al. 2023, arXiv:2309.00267",),
        most="qwen-4b",
        ready=("assistant", "sft"),
        reads=("sample",),
        adapters=_LOW,
    ),
    MethodRule(
        method="online_dpo",
        when=When(kinds=ASKED),
        points={PREFERENCES: 9.4, ASSISTANT: 7.6, PRINCIPLES: 7},
        reason="as RLAIF, in rounds: each round's pairs are answers of the model as it is by then",
        gives_up="sampling and judging are repeated in every round",
        sources=("Guo et al. 2024, arXiv:2402.04792",),
        most="qwen-4b",
        settings={"method.rounds": 2},
        ready=("assistant", "sft"),
        reads=("sample", "sample_2"),
        adapters=_LOW,
    ),
    MethodRule(
        method="constitutional",
        when=When(kinds=ASKED),
        points={PRINCIPLES: 10.5},
        reason="principles in words take the place of labels: the model revises its answers by them and judges by them",
        gives_up="two training stages, and four that sample or judge; the model must follow instructions well "
        "enough to judge itself",
        sources=("Bai et al. 2022, arXiv:2212.08073",),
        most="qwen-4b",
        ready=("assistant", "helpful"),
        reads=("answers", "sample"),
        adapters=_LOW,
    ),
    MethodRule(
        method="distillation",
        when=When(kinds=("prompt",), traits=("ladder", "gpu")),
        points={TASK: 10, DOMAIN: 10, ASSISTANT: 10, CHECKABLE: 8, PREFERENCES: 7},
        reason="there are prompts and no answers: a larger model of the family says, token by token, what it "
        "would write",
        gives_up=f"it gets no better than its teacher, which is in memory too. {_TOLD}",
        sources=("Agarwal et al. 2024, arXiv:2306.13649",),
        most="qwen-4b",
        teacher=True,
        adapters=_LOW,
    ),
)
"""Every rule for a method."""
