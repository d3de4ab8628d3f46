"""What the pipelines of AI feedback share: the assistant that they begin with, the judge, and how the policy learns."""

from __future__ import annotations

from ftcli.methods.pipeline import Option, Stage

DPO, PPO, DIRECT = "dpo", "ppo", "direct"


def algorithm(*choices: str) -> Option:
    """How a policy learns from a judge."""
    told = {
        DPO: "`dpo` from the pairs",
        PPO: "`ppo` by a reward model that is trained on the pairs",
        DIRECT: "`direct` by PPO with the judge itself for a reward, and no pairs",
    }
    text = "how the policy learns from the judge: " + ", ".join(told[choice] for choice in choices)
    return Option(default=DPO, text=text, choices=choices)


def assistant(summary: str) -> Stage:
    """A model that follows instructions."""
    return Stage(name="assistant", method="sft", summary=summary)


def policy(name: str, summary: str) -> Stage:
    """A policy that is begun as the assistant; in the built-in world one of mixed manners."""
    return Stage(name=name, method="sft", summary=summary, takes={"model.name_or_path": "assistant"})


def sample(of: str, number: int = 1) -> Stage:
    """Answers of a policy to prompts."""
    return Stage(
        name=_named("sample", number),
        task="generate",
        role="generator",
        summary=f"answers of {of} to each prompt",
        takes={"backend.model": of},
    )


def learning(by: str, of: str, *, number: int = 1) -> tuple[Stage, ...]:
    """The stages in which a policy learns from a judge, from the judge's preferences on.

    Args:
        by: DPO or PPO, which take the preferences of a stage `judge`, or DIRECT, which takes none.
        of: the policy's stage.
        number: of the round.
    """
    if by == DIRECT:
        return (_ppo(of, number, role="judge"),)
    judged = _judge(number)
    if by == DPO:
        told = "a policy whose answers the judge prefers"
        return (judged, _of_pairs("dpo", told, of, judged.name, number))
    told = "a score for each answer, from the judge's preferences"
    reward = _of_pairs("reward", told, of, judged.name, number)
    return (judged, reward, _ppo(of, number, reward=reward.name))


def _named(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _judge(number: int) -> Stage:
    return Stage(
        name=_named("judge", number),
        task="judge",
        role="judge",
        summary="which of those answers the judge prefers",
        takes={"rows": _named("sample", number), "backend.model": "assistant"},
    )


def _of_pairs(method: str, summary: str, of: str, judged: str, number: int) -> Stage:
    """A run of a method that takes the judge's pairs, begun from a policy."""
    takes = {"model.name_or_path": of, "data.path": judged}
    return Stage(name=_named(method, number), method=method, summary=summary, takes=takes)


def _ppo(of: str, number: int, *, reward: str = "", role: str = "") -> Stage:
    takes = {"model.name_or_path": of, **({"method.reward_model": reward} if reward else {"method.judge": "assistant"})}
    return Stage(
        name=_named("ppo", number),
        method="ppo",
        role=role,
        summary="a policy whose answers score higher" if reward else "a policy whose answers the judge says yes to",
        takes=takes,
    )
