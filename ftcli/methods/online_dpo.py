"""Online DPO from AI feedback (Guo et al. 2024, arXiv:2402.04792): sample, judge, update, and so on in rounds.

Each round's pairs are of the answers that the policy gives by then, so that what it is taught about is what it does.
The reference of a round is the policy that the round began with.
"""

from __future__ import annotations

from ftcli.methods import feedback_stages
from ftcli.methods.pipeline import Option, Pipeline, Stage

_ROUNDS = 3


def arrange(rounds: int) -> tuple[Stage, ...]:
    """The stages of so many rounds."""
    stages = [
        feedback_stages.assistant("a model that follows instructions, to start from and to judge"),
        feedback_stages.policy("sft", "a policy that answers as the demonstrations do"),
    ]
    of = "sft"
    for number in range(1, rounds + 1):
        stages.append(feedback_stages.sample(of, number))
        stages += feedback_stages.learning(feedback_stages.DPO, of, number=number)
        of = stages[-1].name
    return tuple(stages)


PIPELINE = Pipeline(
    name="online_dpo",
    summary="Online DPO: rounds of answers, a judge's preferences between them, and DPO, each from the round before.",
    stages=arrange(_ROUNDS),
    arrange=arrange,
    options={"rounds": Option(default=_ROUNDS, text="how often the policy is sampled, judged and updated")},
    paper="Guo et al. 2024, arXiv:2402.04792",
)
