"""Online DPO from AI feedback (Guo et al. 2024, arXiv:2402.04792), iteratively: rounds of sampling, judging, updating.

Each round's pairs are sampled from the current policy, so the preferences are about what it does now. In the paper a
round is a single batch; here it is a pass over the prompts, as in iterative DPO. The reference of a round is the policy
that the round started with, or with `method.reference=start`, as in the paper, the policy of before the first round.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Option, Pipeline, Stage

_ROUNDS = 3


_ROUND, _START = "round", "start"


def arrange(rounds: int, reference: str) -> tuple[Stage, ...]:
    """The stages of that many rounds."""
    stages = [
        feedback_stages.assistant("a model that follows instructions, to start from and to judge"),
        feedback_stages.policy("sft", "a policy fine-tuned on demonstrations"),
    ]
    of = "sft"
    for number in range(1, rounds + 1):
        stages.append(feedback_stages.sample(of, number))
        first = "sft" if reference == _START and number > 1 else ""
        stages += feedback_stages.learning(feedback_stages.DPO, of, number=number, reference=first)
        of = stages[-1].name
    return tuple(stages)


PIPELINE = Pipeline(
    name="online_dpo",
    summary="Online DPO, iteratively: each round samples answers, a judge compares them, and DPO trains on the pairs.",
    stages=arrange(_ROUNDS, _ROUND),
    arrange=arrange,
    options={
        "rounds": Option(default=_ROUNDS, text="number of rounds of sampling, judging and updating"),
        "reference": Option(
            default=_ROUND,
            text="the reference of a round: `round`, the policy that it starts from, or `start`, that before them all",
            choices=(_ROUND, _START),
        ),
    },
    paper="Guo et al. 2024, arXiv:2402.04792",
)
