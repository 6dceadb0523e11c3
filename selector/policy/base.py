"""The decision record and the protocol that every policy follows."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from selector.target import TargetProfile
from selector.workload import ConvWorkload

LoweringName = Literal["int8", "int16"]
LOWERING_NAMES: tuple[LoweringName, ...] = ("int8", "int16")

_ANSWERS = (*LOWERING_NAMES, "tvm")  # what a policy may choose

ONLY = "only lowering"  # source of a decision that no policy was asked for
TIE = 0.1  # |log2(t_int16 / t_int8)| below which both lowerings are as fast, as far as measurements can tell: 7 %


@dataclass(frozen=True, slots=True)
class Decision:
    """Which lowering one layer gets, and why."""

    lowering: LoweringName | Literal["tvm"]  # tvm: left as TVM has it, the reason says why
    source: str  # name of the policy or fallback that decided; "unsupported" with "tvm"; ONLY: no choice
    reason: str  # one sentence
    log2_ratio: float | None = None  # predicted or measured log2(t_int16 / t_int8); None: the policy predicts none
    layer: str = ""  # name of the layer in the network
    workload: ConvWorkload | None = None  # None where the layer could not be described as one
    macs: int = 0  # multiply-accumulates of a layer without a workload, as far as they are known
    interval: tuple[float, float] | None = None  # the measured log2_ratio lies within it in 80 % of cases
    trust: float | None = None  # share of the trees' correction of the roofline that counted; None: no trees decided
    fallback: str = ""  # why another one than the policy asked for decided; empty: it decided itself
    movers: tuple[tuple[str, float], ...] = ()  # features that moved the prediction most, and by how much
    rates: str | None = None  # kind of the target's profile that it rests on, see ``rates_of``; None: it needs none
    variant: int = 0  # which of the shapes of the network it was made for, in the order they were given

    @property
    def certainty(self) -> Literal["", "tie", "unsure"]:
        """How sure the choice is, where there is an interval; empty: the other lowering is slower.

        "tie": either may be faster, and both are as fast as measurements can tell.  "unsure": either may be faster.
        """
        if self.interval is None or self.interval[0] > 0 or self.interval[1] < 0:
            return ""
        return "tie" if max(map(abs, self.interval)) <= TIE else "unsure"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Decision:
        """The decision that ``to_dict`` wrote, after a trip through JSON or not."""
        workload = values["workload"]
        fields = {
            "workload": None if workload is None else ConvWorkload.from_dict(workload),
            "interval": None if values.get("interval") is None else tuple(values["interval"]),
            "movers": tuple((str(name), float(change)) for name, change in values.get("movers", ())),
        }
        return Decision(**{**values, **fields})


class BadDecision(TypeError):
    """A policy's answer is no decision; the message says what was wanted and what was given."""


def checked(answers: object, count: int, asked: str) -> list[Decision]:
    """The answers of a policy for ``count`` workloads; ``asked``: its method, for the message.  Raises BadDecision."""
    if not isinstance(answers, list | tuple) or len(answers) != count:
        given = f"{len(answers)} of them" if isinstance(answers, list | tuple) else _shown(answers)
        raise BadDecision(f"{asked} must return a list of {count} selector.Decision, one a workload, got {given}")
    for answer in answers:
        if not isinstance(answer, Decision):
            raise BadDecision(
                f'{asked} must return a selector.Decision, e.g. Decision("int8", source="mine", reason="why"), '
                f"got {_shown(answer)}"
            )
        if answer.lowering not in _ANSWERS:
            raise BadDecision(f"{asked} must choose one of {', '.join(_ANSWERS)}, got {_shown(answer.lowering)}")
    return list(answers)


def _shown(value: object) -> str:
    """A value and its type, at most a line."""
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


def only_choice(workload: ConvWorkload) -> Decision | None:
    """The decision for a workload that one lowering takes; None where a policy has a choice."""
    if not workload.has_16bit_data:
        return None
    why = f"its data is {workload.data_dtype}, and the int8 lowering takes 8-bit data only"
    return Decision("int16", source=ONLY, reason=why)


def rates_of(target: TargetProfile) -> str:
    """Where the rates of a target come from: measured, modelled, written (by hand), or assumed: it has no profile."""
    return "assumed" if target.rates is None else target.rates.kind


@runtime_checkable
class Policy(Protocol):
    """Anything with ``decide`` is a policy.

    A policy may also have ``decide_all(workloads, target) -> list[Decision]``; the hook then asks once for the whole
    network instead of once for each layer.
    """

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """Choose a lowering.  ``layer`` and ``workload`` of the answer are filled in by the hook.

        Any other answer than a Decision makes the compilation fail with a BadDecision.
        """
        ...
