"""The tables of methods that sample answers: rewards by rule, and the forms of GRPO's loss."""

from __future__ import annotations

import inspect

from ftcli.core.text import table
from ftcli.methods.grpo import VARIANTS
from ftcli.rewards.rules import REWARDS


def rewards() -> str:
    """Rewards by rule: what each gives, and its settings."""
    rows = []
    for name, reward in REWARDS.items():
        parameters = inspect.signature(reward).parameters.values()
        own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        shown = [p.name if p.default is p.empty else f"{p.name}={p.default}" for p in own]
        rows.append((f"`{name}`", str(reward.__doc__).strip(), ", ".join(f"`{each}`" for each in shown)))
    return table(("Reward", "Gives", "Settings"), rows)


def variants() -> str:
    """Each variant of GRPO: what is special about it, the fields that it sets, and its source."""
    rows = []
    for name, each in VARIANTS.items():
        fields = ", ".join(f"`{field}={_written(value)}`" for field, value in each.fields.items())
        source = f"{each.paper}; {each.remark}" if each.remark else each.paper
        rows.append((f"`{name}`", each.summary, fields, source))
    return table(("`method.variant`", "The loss", "Sets, as `method.…`", "Source"), rows)


def _written(value: object) -> str:
    """A value as YAML has it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
