"""A compiled network behind HTTP.

``POST /run`` takes the inputs as .npy arrays, one after the other, and answers with the outputs in that form.
``POST /run.json`` takes ``{"inputs": [...]}`` with nested lists, and answers ``{"outputs": [...]}``.
``GET /`` tells the inputs.

The environment names the library::

    SELECTOR_LIBRARY=net.so uvicorn --app-dir examples/server server:app
"""

from __future__ import annotations

import io
import os
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

from selector import runtime

NPY = "application/x-npy"

# Loaded when the module is imported: gunicorn --preload does so once, and its workers share the weights.  Requests come
# from many threads; as many run at once as there are CPUs, and the others wait in ``run``.
network = runtime.load(os.environ["SELECTOR_LIBRARY"])

app = FastAPI(title="A network compiled by Selector")


class Inputs(BaseModel):
    """Nested lists of numbers, in the network's order."""

    inputs: list[Any]


class Outputs(BaseModel):
    """Nested lists of numbers, in the network's order; null for what is no finite number, which JSON lacks."""

    outputs: list[Any]


async def body(request: Request) -> bytes:
    """The body as it was sent."""
    return await request.body()


@app.get("/")
def describe() -> dict[str, Any]:
    """Inputs of the network, in each of the shapes it is compiled for."""
    return {
        "variants": [
            [{"name": spec.name, "shape": spec.shape, "dtype": spec.dtype} for spec in variant.inputs]
            for variant in network.variants
        ]
    }


@app.post("/run")
def run(data: Annotated[bytes, Depends(body)]) -> Response:
    """Arrays in .npy format to arrays in .npy format."""
    try:
        outputs = network.run(*read_arrays(data))
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return Response(written_arrays(outputs), media_type=NPY)


@app.post("/run.json")
def run_json(request: Inputs) -> Outputs:
    """Nested lists to nested lists."""
    try:
        arrays = [np.array(value) for value in request.inputs]
        specs = network.variants[network.variant_for(arrays)].inputs
        if len(arrays) == len(specs):  # else run says so
            arrays = [exactly(array, spec.dtype) for array, spec in zip(arrays, specs, strict=True)]
        outputs = network.run(*arrays)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    return Outputs(outputs=[array.tolist() for array in outputs])


def read_arrays(data: bytes) -> list[np.ndarray]:
    """All arrays of a body.  Raises ValueError."""
    file = io.BytesIO(data)
    arrays = []
    while file.tell() < len(data):
        arrays.append(np.lib.format.read_array(file, allow_pickle=False))
    return arrays


def written_arrays(arrays: list[np.ndarray]) -> bytes:
    """The body that ``read_arrays`` reads."""
    file = io.BytesIO()
    for array in arrays:
        np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def exactly(array: np.ndarray, dtype: str) -> np.ndarray:
    """Numbers as JSON has them in a dtype of the network, where it holds them: 300 is no uint8.  Raises ValueError."""
    wanted = np.dtype(dtype)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"numbers are needed, got {array.dtype}")
    with np.errstate(invalid="ignore", over="ignore"):
        converted = array.astype(wanted)
    if wanted.kind in "iub" and not np.array_equal(converted, array):
        raise ValueError(f"some of the numbers are no {dtype}")
    return converted
