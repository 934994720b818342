"""Products of matrices in compiled programs, by the library that is fast on this processor.

It imports the compiler, which takes a second: `diffeo.utils.compiling` does so when it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch._inductor.ir import TensorBox
from torch._inductor.lowering import permute, register_lowering
from torch._inductor.mkldnn_ir import LinearUnary
from torch.fx import Graph

from diffeo.utils import products

LEAST_IN_ROWS = 2**20  # multiplications, below which MKL is as fast, of products that C++ calls
MANY = 16  # rows, for which it pays to copy the weights in the order that oneDNN takes


@torch.library.custom_op("diffeo::onednn", mutates_args=())
def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product `(n, m)` of `(n, k)` and `(k, m)`, as the compiler calls it: from Python."""
    return products.onednn(left, right)


@torch.library.custom_op("diffeo::onednn_rows", mutates_args=())
def _product_of_rows(left: Tensor, right: Tensor) -> Tensor:
    """The same of contiguous rows `left`, which a compiled program calls from C++."""
    return products.onednn(left, right)


@_product.register_fake
@_product_of_rows.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


@register_lowering(torch.ops.diffeo.onednn_rows.default, type_promotion_kind=None)
def _called_from_cpp(left: TensorBox, right: TensorBox) -> TensorBox:
    """The operation that oneDNN's products have in a compiled program."""
    made: TensorBox = TensorBox.create(
        LinearUnary.create(left, permute(right, [1, 0]), None, "none", [], "")
    )
    return made


class ByOneDNN(CustomGraphPass):
    """Makes oneDNN compute the large products of a program, after its derivatives were taken."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
            left, right = (argument.meta["val"] for argument in node.args)
            rows, inner, columns = map(_known, (*left.shape, right.shape[1]))
            size = rows * inner * columns
            in_rows = left.is_contiguous() and (rows >= MANY or right.t().is_contiguous())
            if in_rows and products.onednn_pays(size, left, LEAST_IN_ROWS):
                node.target = torch.ops.diffeo.onednn_rows.default
            elif products.onednn_pays(size, left):
                node.target = torch.ops.diffeo.onednn.default

    def uuid(self) -> Any:
        """What tells programs with it from others, in the compiler's cache."""
        slow = products.mkl_is_slow()
        return get_hash_for_files((__file__, products.__file__), extra=str(slow))


def _known(size: Any) -> int:
    """A size; of one that may change, as a batch's, the first."""
    if isinstance(size, int):
        return size
    known: int | None = size.node.hint
    return known or 0
