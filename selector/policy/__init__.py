"""Policies: which lowering a convolution gets.  One protocol, ``decide(workload, target) -> Decision``."""

from selector.policy.base import LOWERING_NAMES, BadDecision, Decision, Policy
from selector.policy.registry import UnknownPolicy, resolve

__all__ = ["LOWERING_NAMES", "BadDecision", "Decision", "Policy", "UnknownPolicy", "resolve"]
