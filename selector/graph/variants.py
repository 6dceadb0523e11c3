"""Several shapes of one network in one module: a function for each, which share constants and code.

TVM stores constants of equal bytes once.  Code is shared here: TIR functions that are equal become one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tvm
from tvm import relax, tirx
from tvm.ir import GlobalVar
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal, structural_hash

from selector.graph.ir import dtype_of, static_shape
from selector.runtime import ModelError
from selector.tensors import TensorSpec

MAIN = "main"
OUTPUT_NAMES = "selector.output_names"  # function attribute: names of the outputs, in order
_SYMBOL = "global_symbol"  # attribute of functions that callers see: their name


def function_name(index: int) -> str:
    """Name of the function of the ``index``-th shapes: main, main_1, main_2, ..."""
    return f"{MAIN}_{index}" if index else MAIN


def inputs_of(mod: tvm.IRModule) -> list[TensorSpec]:
    """Inputs of ``main``, in order; none where there is no such function."""
    return [_spec(param) for func in _mains(mod) for param in func.params]


def outputs_of(mod: tvm.IRModule) -> list[TensorSpec]:
    """Outputs of ``main``, in order, by the names that the frontend knows, else ``output_0`` and so on."""
    found = []
    for func in _mains(mod):
        body = func.body.body if isinstance(func.body, relax.SeqExpr) else func.body
        fields = list(body.ty.fields) if isinstance(body.ty, relax.TupleType) else [body.ty]
        names = list(func.attrs[OUTPUT_NAMES]) if func.attrs is not None and OUTPUT_NAMES in func.attrs else []
        if len(set(names)) != len(fields):
            names = [f"output_{index}" for index in range(len(fields))]
        found += [_spec(relax.Var(str(name), field)) for name, field in zip(names, fields, strict=True)]
    return found


def _mains(mod: tvm.IRModule) -> list[relax.Function]:
    found = [func for gvar, func in mod.functions.items() if gvar.name_hint == MAIN]
    return [func for func in found if isinstance(func, relax.Function)]


def _spec(var: relax.Var) -> TensorSpec:
    return TensorSpec(str(var.name), static_shape(var) or (), dtype_of(var) or "unknown")


def check(inputs: Sequence[Sequence[TensorSpec]]) -> None:
    """Raises ModelError unless these are the inputs of one network in shapes of which no two are the same."""
    if not inputs:
        raise ModelError("there is no network to compile: the list of them is empty")
    kinds = [[(spec.name, spec.dtype) for spec in specs] for specs in inputs]
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for specs, kind in zip(inputs, kinds, strict=True):
        if kind != kinds[0]:
            given, first = (", ".join(f"{name} {dtype}" for name, dtype in names) for names in (kind, kinds[0]))
            raise ModelError(f"one library is for one network in several shapes: one takes {first}, another {given}")
        shapes = tuple(spec.shape for spec in specs)
        if shapes in seen:
            raise ModelError(f"the same shapes are given twice: {' '.join(map(str, specs))}")
        seen.add(shapes)


def merged(modules: Sequence[tvm.IRModule]) -> tvm.IRModule:
    """One module of all functions of ``modules``; ``main`` of the i-th is called ``function_name(i)``.

    They are legalized: what is called, is TIR that calls nothing else, or a Relax function.
    """
    if len(modules) == 1:
        return modules[0]
    functions: dict[GlobalVar, tvm.ir.BaseFunc] = {}
    used = {function_name(index) for index in range(len(modules))}
    kernels: dict[int, list[GlobalVar]] = {}  # those of one structural hash
    for index, mod in enumerate(modules):
        renamed: dict[GlobalVar, GlobalVar] = {}
        for gvar, func in mod.functions.items():
            if gvar.name_hint == MAIN:
                renamed[gvar] = _variable(function_name(index), gvar)
                continue
            alike = kernels.setdefault(structural_hash(func), []) if isinstance(func, tirx.PrimFunc) else []
            same = next((other for other in alike if structural_equal(functions[other], func)), None)
            renamed[gvar] = same or _variable(_unused(gvar.name_hint, used), gvar)
            if same is None and isinstance(func, tirx.PrimFunc):
                functions[renamed[gvar]] = func
                alike.append(renamed[gvar])
        for gvar, func in mod.functions.items():
            if isinstance(func, relax.Function):
                functions[renamed[gvar]] = _named(_Renamer(renamed).visit_expr(func), renamed[gvar].name_hint)
    return tvm.IRModule(functions, attrs=modules[0].attrs, global_infos=modules[0].global_infos)


def _variable(name: str, old: GlobalVar) -> GlobalVar:
    """A global variable of this name, of the type of another."""
    made = GlobalVar(name)
    relax.expr._update_type(made, old.ty)
    return made


def _named(func: relax.Function, name: str) -> relax.Function:
    """``func``, if callers outside of the module may see it, under another name."""
    return func.with_attr(_SYMBOL, name) if func.attrs is not None and _SYMBOL in func.attrs else func


def _unused(name: str, used: set[str]) -> str:
    """The name, with digits after it as TVM adds them if it is in ``used``, where it is put."""
    free = next(text for text in (name, *(f"{name}{i}" for i in range(1, len(used) + 2))) if text not in used)
    used.add(free)
    return free


@mutator
class _Renamer(PyExprMutator):
    """Puts other global variables in the place of those that a function refers to."""

    def __init__(self, renamed: Mapping[GlobalVar, GlobalVar]) -> None:
        super().__init__()
        self.renamed = renamed

    def visit_global_var_(self, gvar: GlobalVar) -> GlobalVar:
        """The variable of the merged module."""
        return self.renamed[gvar]
