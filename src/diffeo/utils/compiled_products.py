"""Products of matrices in compiled programs, by the library that is fast on this processor.

It imports the compiler, which takes a second: `diffeo.utils.compiling` does so when it is needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph

from diffeo.utils import products


@torch.library.custom_op("diffeo::onednn", mutates_args=())
def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product `(n, m)` of `(n, k)` and `(k, m)`, as the compiler calls it."""
    return products.onednn(left, right)


@_product.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[1])


class ByOneDNN(CustomGraphPass):
    """Makes oneDNN compute the large products of a program, after its derivatives were taken."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default):
            left, right = (argument.meta["val"] for argument in node.args)
            size = _known(left.shape[0]) * _known(left.shape[1]) * _known(right.shape[1])
            if products.onednn_pays(size, left):
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
