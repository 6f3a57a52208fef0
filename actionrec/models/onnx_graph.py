"""A graph of torch.export as ONNX.

actionrec export --model kinetics400-i3d --output i3d.onnx
"""

import logging
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch.export import ExportedProgram

from actionrec.errors import UsageError

# Newton's iteration squares the error each time, once it is below 1; until then it doubles the
# smallest singular value. This reaches float32 up to a squared condition number of 10^7.
INVERSE_STEPS = 30


def require_onnx() -> None:
    """Raise UsageError if a library that writes or runs ONNX is missing."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"ONNX needs {', '.join(missing)}; `pip install 'actionrec[onnx]'` installs them."
        )


def to_onnx(program: ExportedProgram, free: dict[int, str], outputs: Sequence[str]) -> Any:
    """The graph as a `torch.onnx.ONNXProgram`, whose input is "clips".

    Args:
        program: The graph.
        free: The axes of clips that may have other sizes, with their names.
        outputs: The names of its outputs.
    """
    # The exporter logs at length what its exception says as well.
    logging.getLogger("torch.onnx").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program,
            input_names=["clips"],
            output_names=outputs,
            dynamic_shapes=(free,),
            dynamo=True,
            external_data=False,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.linalg_inv_ex.default: inverse,
                torch.ops.aten._linalg_solve_ex.default: solve,
            },
        )
    for node in converted.model.graph:
        node.metadata_props.clear()
    return converted


# ONNX has no linear algebra; the block cayley inverts, or solves with, one matrix per clip.
# PyTorch's functions return more than one result, of which only the first is used.


def inverse(matrix: Any, check_errors: bool = False) -> tuple[Any, ...]:
    """In ONNX operators, the inverse of (B, n, n) by Newton's iteration x <- 2 x - x (matrix x).

    It starts from the transpose over the 1-norm and the infinity norm, from where it converges for
    every matrix that has an inverse (Ben-Israel & Cohen 1966).
    """
    from onnxscript import opset18 as op

    size = op.Abs(matrix)
    columns = op.ReduceMax(op.ReduceSum(size, [-2], keepdims=1), [-1], keepdims=1)
    rows = op.ReduceMax(op.ReduceSum(size, [-1], keepdims=1), [-2], keepdims=1)
    x = op.Div(op.Transpose(matrix, perm=[0, 2, 1]), op.Mul(columns, rows))
    for _ in range(INVERSE_STEPS):
        x = op.Sub(op.Add(x, x), op.MatMul(x, op.MatMul(matrix, x)))
    return x, op.Identity(x)


def solve(
    matrix: Any, right: Any, left: bool = True, check_errors: bool = False
) -> tuple[Any, ...]:
    """In ONNX operators, the x of matrix x = right, both (B, n, n)."""
    from onnxscript import opset18 as op

    x = op.MatMul(inverse(matrix)[0], right)
    return x, op.Identity(x), op.Identity(x), op.Identity(x)
