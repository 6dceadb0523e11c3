"""The hook: policies are asked, refusals fall back to TVM, decisions are recorded."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

import selector
from selector import lowering
from selector.policy import Decision
from selector.target import resolve
from selector.workload import UnsupportedWorkload
from tests.models import qdq_block_model, qdq_conv_model, qdq_dense_model, random_inputs, reference


class Alternating:
    """int8 and int16 in turn."""

    def __init__(self):
        self.asked = []

    def decide(self, workload, target):
        self.asked.append(workload)
        name = "int8" if len(self.asked) % 2 else "int16"
        return Decision(name, source="alternating", reason="its turn")


class Whole:
    """Answers for the whole network."""

    def __init__(self):
        self.calls = 0

    def decide(self, workload, target):
        raise AssertionError("decide_all comes first")

    def decide_all(self, workloads, target):
        self.calls += 1
        return [Decision("int16", source="whole", reason="all of them") for _ in workloads]


def test_policy_objects_decide_layer_by_layer():
    policy = Alternating()
    decisions = selector.explain(qdq_block_model(), policy=policy, threads=1)
    assert [decision.lowering for decision in decisions] == ["int8", "int16", "int8", "int16", "int8", "int16", "int8"]
    assert [decision.layer for decision in decisions] == [
        "stem", "depthwise", "pointwise", "left", "right", "tail", "fc",
    ]  # fmt: skip
    assert [decision.workload for decision in decisions] == policy.asked


def test_decide_all_is_asked_once():
    policy = Whole()
    decisions = selector.explain(qdq_block_model(), policy=policy)
    assert policy.calls == 1
    assert {decision.lowering for decision in decisions} == {"int16"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("int8", r'Odd.decide must return a selector.Decision, e.g. Decision\("int8".*\), got str \'int8\''),
        (None, "Odd.decide must return a selector.Decision, .*, got None"),
        (
            Decision("int4", source="odd", reason="small"),
            "Odd.decide must choose one of .*tvm, got str 'int4'",
        ),
    ],
)
def test_answers_that_are_no_decision(answer, message):
    class Odd:
        def decide(self, workload, target):
            return answer

    with pytest.raises(selector.BadDecision, match=message):
        selector.compile(qdq_conv_model(), policy=Odd())


@pytest.mark.parametrize(
    ("answer", "given"), [(None, "None"), ([], "0 of them"), (["int8"], "str 'int8'"), ("int8", "str 'int8'")]
)
def test_answers_for_the_whole_network_that_are_no_decisions(answer, given):
    class Odd(Whole):
        def decide_all(self, workloads, target):
            return answer

    with pytest.raises(selector.BadDecision, match=rf"Odd.decide_all must return a .*, got {given}"):
        selector.explain(qdq_conv_model(), policy=Odd())


def test_threads_are_told_to_the_policy():
    policy = Alternating()
    selector.explain(qdq_conv_model(), policy=policy, threads=3)
    assert policy.asked[0].threads == 3


@pytest.mark.parametrize("model", [qdq_conv_model(activation="clip"), qdq_dense_model()], ids=["conv2d", "dense"])
def test_refusal_of_a_lowering_falls_back_to_tvm(monkeypatch, model):
    def refuse(*_args):
        raise UnsupportedWorkload("not on a Sunday")

    monkeypatch.setattr(lowering, "build", refuse)
    compiled = selector.compile(model, policy="int8", threads=1)
    (decision,) = compiled.decisions
    assert (decision.lowering, decision.source, decision.reason) == ("tvm", "unsupported", "not on a Sunday")
    feeds = random_inputs(model)
    difference = compiled.run(*feeds.values())[0].astype(int) - reference(model, feeds)[0]
    assert np.abs(difference).max() <= 1


def test_plain_tvm_compile_with_the_pipeline():
    model = qdq_conv_model()
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
    executable = tvm.compile(selector.load(model), target, relax_pipeline=selector.pipeline(target, "int16"))
    vm = relax.VirtualMachine(executable, tvm.cpu())
    feeds = random_inputs(model)
    actual = vm["main"](tvm.runtime.tensor(feeds["x"])).numpy()
    assert np.abs(actual.astype(int) - reference(model, feeds)[0]).max() <= 1


@pytest.mark.parametrize("cpu", ["x86-64-v3", "icelake-server"])
def test_the_pipeline_takes_the_target_that_tvm_is_given(cpu):
    """Also where Selector adds a tuning flag to it."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": cpu})
    tvm.compile(selector.load(qdq_conv_model()), target, relax_pipeline=selector.pipeline(target, "int16"))


def test_one_pipeline_compiles_several_networks():
    target = resolve("native")
    pipeline = selector.pipeline(target, "int8", threads=1)
    for seed in (0, 1):
        model = qdq_dense_model(seed=seed)
        vm = relax.VirtualMachine(tvm.compile(selector.load(model), target, relax_pipeline=pipeline), tvm.cpu())
        feeds = random_inputs(model)
        actual = vm["main"](tvm.runtime.tensor(feeds["x"])).numpy()
        assert np.abs(actual.astype(int) - reference(model, feeds)[0]).max() <= 1


def test_pipeline_for_another_target_says_so():
    pipeline = selector.pipeline("x86-64-v3")
    with pytest.raises(ValueError, match="made for the target"):
        tvm.compile(selector.load(qdq_conv_model()), tvm.target.Target("llvm"), relax_pipeline=pipeline)


def test_decisions_survive_json():
    (decision,) = selector.explain(qdq_conv_model())
    assert Decision.from_dict(decision.to_dict()) == decision
    unknown = replace(decision, workload=None)
    assert Decision.from_dict(unknown.to_dict()) == unknown
