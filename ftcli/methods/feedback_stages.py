"""Stages that the pipelines with AI feedback share: assistant, policy, sampling, judge, and how the policy learns."""

from __future__ import annotations

from ftcli.methods.pipeline import Option, Stage

DPO, PPO, DIRECT = "dpo", "ppo", "direct"


def algorithm(*choices: str) -> Option:
    """How a policy learns from a judge."""
    meanings = {
        DPO: "`dpo` on the pairs",
        PPO: "`ppo` with a reward model trained on the pairs",
        DIRECT: "`direct`, PPO with the judge itself as the reward, without pairs",
    }
    text = "how the policy learns from the judge: " + ", ".join(meanings[choice] for choice in choices)
    return Option(default=DPO, text=text, choices=choices)


def assistant(summary: str) -> Stage:
    """A model that follows instructions."""
    return Stage(name="assistant", method="sft", summary=summary)


def policy(name: str, summary: str) -> Stage:
    """A policy that starts from the assistant; in the built-in world, one whose answers vary in manners."""
    return Stage(name=name, method="sft", summary=summary, takes={"model.name_or_path": "assistant"})


def sample(of: str, number: int = 1) -> Stage:
    """Sampled answers of a policy to prompts."""
    return Stage(
        name=_named("sample", number),
        like=_like("sample", number),
        task="generate",
        role="generator",
        summary=f"answers of {of} to each prompt",
        takes={"backend.model": of},
    )


def learning(by: str, of: str, *, number: int = 1, reference: str = "") -> tuple[Stage, ...]:
    """The stages in which a policy learns from a judge, starting with the judge's preferences.

    Args:
        reference: the stage whose model is the reference of DPO, where that is not the policy that it starts from.
        by: DPO or PPO, which take the preferences of a stage `judge`, or DIRECT, which takes none.
        of: the policy's stage.
        number: the round.
    """
    if by == DIRECT:
        return (_ppo(of, number, role="judge"),)
    judged = _judge(number)
    if by == DPO:
        summary = "a policy whose answers the judge prefers"
        return (judged, _of_pairs("dpo", summary, of, judged.name, number, reference))
    summary = "a reward model trained on the judge's preferences"
    reward = _of_pairs("reward", summary, of, judged.name, number)
    return (judged, reward, _ppo(of, number, reward=reward.name))


def _named(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _like(name: str, number: int) -> str:
    """The stage of the first round, for one of a later round."""
    return "" if number == 1 else name


def _judge(number: int) -> Stage:
    return Stage(
        name=_named("judge", number),
        like=_like("judge", number),
        task="judge",
        role="judge",
        summary="which of those answers the judge prefers",
        takes={"rows": _named("sample", number), "backend.model": "assistant"},
    )


def _of_pairs(method: str, summary: str, of: str, judged: str, number: int, reference: str = "") -> Stage:
    """A run of a method that trains on the judge's pairs and starts from a policy."""
    takes = {"model.name_or_path": of, "data.path": judged}
    takes |= {"method.reference_model": reference} if reference else {}
    like = _like(method, number)
    return Stage(name=_named(method, number), like=like, method=method, summary=summary, takes=takes)


def _ppo(of: str, number: int, *, reward: str = "", role: str = "") -> Stage:
    takes = {"model.name_or_path": of, **({"method.reward_model": reward} if reward else {"method.judge": "assistant"})}
    return Stage(
        name=_named("ppo", number),
        like=_like("ppo", number),
        method="ppo",
        role=role,
        summary="a policy whose answers score higher" if reward else "a policy whose answers the judge says yes to",
        takes=takes,
    )
