"""A saved library whose constants lie in a section of their own, and whose functions take them as parameters.

TVM writes constants into the virtual machine's code, of which every process makes a copy.  A section is mapped: pages
are read when a kernel needs them, and processes share them.  Weights with a recipe are stored smaller, and made when
the library is loaded: see ``selector.mapped_weights``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm_ffi import structural_equal

from selector.graph.ir import Expr
from selector.lowering import pipeline as kernel_pipeline
from selector.lowering.kernel import Recipe
from selector.mapped_weights import ALIGNMENT, SYMBOL, StoredWeight, bind

_LEAST = 4096  # bytes; smaller constants stay in the virtual machine's code
_ELF = """\
    .section .rodata.{symbol},"a"
    .balign 4096
    .globl {symbol}
{symbol}:
    .incbin "{file}"
    .section .note.GNU-stack,"",%progbits
"""
_MACH_O = """\
    .section __TEXT,__const
    .p2align 14
    .globl _{symbol}
_{symbol}:
    .incbin "{file}"
"""


def digest(array: np.ndarray) -> bytes:
    """What tells an array from others: recipes are found by what they make."""
    found = hashlib.blake2b(repr((array.shape, str(array.dtype))).encode(), digest_size=16)
    found.update(np.ascontiguousarray(array).data)
    return found.digest()


@dataclass(frozen=True)
class Lifted:
    """A network whose functions take its large constants as parameters, after their own."""

    module: tvm.IRModule
    weights: list[StoredWeight]  # in the order of the parameters
    arrays: list[np.ndarray]  # what the library stores of each
    makers: dict[str, tirx.PrimFunc]  # functions that make weights, by name


class LoadedExecutable(tvm.runtime.Executable):
    """A loaded library for ``relax.VirtualMachine``: the functions of a machine take inputs alone."""

    def __init__(self, module: Any, functions: Sequence[str], weights: Sequence[Any]) -> None:
        super().__init__(module)
        self._functions, self._weights = functions, weights

    def jit(self, **_: Any) -> Any:
        """What makes machines, by the name that TVM looks up."""
        return {
            "vm_load_executable": lambda: _Machine(self.mod["vm_load_executable"](), self._functions, self._weights)
        }


class _Machine:
    """TVM's machine, which gets its weights when it is initialized."""

    def __init__(self, machine: Any, functions: Sequence[str], weights: Sequence[Any]) -> None:
        self._machine, self._functions, self._weights = machine, functions, weights

    def __getitem__(self, name: str) -> Any:
        return self._initialize if name == "vm_initialization" else self._machine[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)

    def _initialize(self, *devices: int) -> None:
        self._machine["vm_initialization"](*devices)
        bind(self._machine, self._functions, self._weights)


def lifted(mod: tvm.IRModule, recipes: Mapping[bytes, Recipe]) -> Lifted:
    """Take the large constants out of the Relax functions of ``mod``, equal ones once; ``recipes``: by ``digest``."""
    found: dict[bytes, Expr] = {}
    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            found |= {
                digest(constant.value.numpy()): constant
                for constant in constants_of(func)
                if nbytes(constant) >= _LEAST
            }
    keys = sorted(found, key=lambda key: key in recipes)  # pages that nobody needs once loaded lie together
    functions = {
        gvar: _parametrized(func, {key: found[key] for key in keys}) if isinstance(func, relax.Function) else func
        for gvar, func in mod.functions.items()
    }
    module = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    makers: dict[str, tirx.PrimFunc] = {}
    weights: list[StoredWeight] = []
    arrays: list[np.ndarray] = []
    offset = 0
    for key in keys:
        constant, recipe = found[key].value.numpy(), recipes.get(key)
        array = constant if recipe is None else recipe.stored
        weight = StoredWeight(offset, constant.shape, str(constant.dtype))
        if recipe is not None:
            maker = _maker(recipe, makers)
            weight = replace(weight, maker=maker, stored_size=array.size, stored_dtype=str(array.dtype))
        weights.append(weight)
        arrays.append(array)
        offset += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return Lifted(module, weights, arrays, makers)


def linked(
    mod: tvm.IRModule,
    kernels: Sequence[tvm.runtime.Module],
    makers: Mapping[str, tirx.PrimFunc],
    target: tvm.target.Target,
) -> tvm.runtime.Executable:
    """An executable of the Relax functions of a module that is ready for the virtual machine, on compiled kernels."""
    builder = relax.ExecBuilder()
    relax.vm_build._vmcodegen(builder, mod)  # what is left over are the kernels
    executable = builder.get()
    for kernel in kernels:
        executable.mod.import_module(kernel)
    if makers:
        made = tvm.compile(tvm.IRModule(dict(makers)), target=target, tir_pipeline=kernel_pipeline.NAME)
        executable.mod.import_module(made.mod)
    return executable


def section(arrays: Sequence[np.ndarray], folder: Path, triple: str) -> list[str]:
    """Source files, written into ``folder``, that a compiler driver makes the section of weights of."""
    if not arrays:
        return []
    blob, source = folder / "weights.bin", folder / "weights.s"
    with blob.open("wb") as file:
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)
            file.write(bytes(-array.nbytes % ALIGNMENT))
    quoted = str(blob).replace("\\", "\\\\").replace('"', '\\"')
    source.write_text((_MACH_O if "darwin" in triple or "macos" in triple else _ELF).format(symbol=SYMBOL, file=quoted))
    return [str(source)]


def constants_of(func: relax.Function) -> list[Expr]:
    """The constants of a function, in the order in which they are read."""
    found: list[Expr] = []
    relax.analysis.post_order_visit(func, lambda e: found.append(e) if isinstance(e, tvm.ir.GenericConst) else None)
    return found


def nbytes(constant: Expr) -> int:
    """Bytes of a constant."""
    value: Any = constant.value
    return int(np.prod(value.shape)) * np.dtype(str(value.dtype)).itemsize


def _parametrized(func: relax.Function, constants: Mapping[bytes, Expr]) -> relax.Function:
    """The function with parameters after its own in the place of constants, all of which it takes."""
    params = {key: relax.Var(f"weight_{i}", one.ty) for i, (key, one) in enumerate(constants.items())}
    body = _Parametrizer(params).visit_expr(func.body)
    return relax.Function([*func.params, *params.values()], body, func.ret_ty, func.is_pure, func.attrs)


def _maker(recipe: Recipe, makers: dict[str, tirx.PrimFunc]) -> str:
    """Name of the recipe's function in ``makers``, where it is put if no equal one is there."""
    for name, other in makers.items():
        if structural_equal(other.without_attr("global_symbol"), recipe.func.without_attr("global_symbol")):
            return name
    name = f"{recipe.func.attrs['global_symbol']}_{len(makers)}"
    makers[name] = recipe.func.with_attr("global_symbol", name)
    return name


@mutator
class _Parametrizer(PyExprMutator):
    """Puts parameters in the place of large constants."""

    def __init__(self, params: Mapping[bytes, Expr]) -> None:
        super().__init__()
        self.params = params

    def visit_generic_const_(self, constant: Expr) -> Expr:
        """The parameter that brings the constant's value."""
        return self.params[digest(constant.value.numpy())] if nbytes(constant) >= _LEAST else constant
