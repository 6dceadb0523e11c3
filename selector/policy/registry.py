"""Named policies."""

from __future__ import annotations

from collections.abc import Callable

from selector.policy.base import Policy
from selector.policy.fixed import Fixed
from selector.policy.learned import Learned
from selector.policy.measured import Measured
from selector.policy.roofline import Roofline
from selector.policy.rule import Rule

POLICIES: dict[str, Callable[[], Policy]] = {
    "learned": Learned,
    "roofline": Roofline,
    "rule": Rule,
    "int8": lambda: Fixed("int8"),
    "int16": lambda: Fixed("int16"),
    "measure": Measured,
}
DEFAULT = "learned"


class UnknownPolicy(ValueError):
    """The policy is neither a known name nor an object with ``decide``."""


def resolve(policy: str | Policy | None = None) -> Policy:
    """The policy for a name (None: the default), or the object itself if it has ``decide``."""
    if policy is None:
        policy = DEFAULT
    if isinstance(policy, str):
        if policy not in POLICIES:
            names = ", ".join(POLICIES)
            raise UnknownPolicy(f"unknown policy '{policy}': give one of {names}, or an object with 'decide'")
        return POLICIES[policy]()
    if isinstance(policy, type):
        raise UnknownPolicy(f"a policy is an object, got the class {policy.__name__}: give {policy.__name__}()")
    if not isinstance(policy, Policy):
        raise UnknownPolicy(f"a policy needs a method 'decide(workload, target)', got {type(policy).__name__}")
    return policy
