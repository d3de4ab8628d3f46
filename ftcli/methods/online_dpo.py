"""Online DPO from AI feedback (Guo et al. 2024, arXiv:2402.04792): rounds of sampling, judging and updating.

Each round's pairs are sampled from the current policy, so the preferences are about what it does now. The reference of
a round is the policy that the round started with.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Option, Pipeline, Stage

_ROUNDS = 3


def arrange(rounds: int) -> tuple[Stage, ...]:
    """The stages of that many rounds."""
    stages = [
        feedback_stages.assistant("a model that follows instructions, to start from and to judge"),
        feedback_stages.policy("sft", "a policy fine-tuned on demonstrations"),
    ]
    of = "sft"
    for number in range(1, rounds + 1):
        stages.append(feedback_stages.sample(of, number))
        stages += feedback_stages.learning(feedback_stages.DPO, of, number=number)
        of = stages[-1].name
    return tuple(stages)


PIPELINE = Pipeline(
    name="online_dpo",
    summary="Online DPO: each round samples answers, a judge compares them, and DPO trains on the pairs.",
    stages=arrange(_ROUNDS),
    arrange=arrange,
    options={"rounds": Option(default=_ROUNDS, text="number of rounds of sampling, judging and updating")},
    paper="Guo et al. 2024, arXiv:2402.04792",
)
