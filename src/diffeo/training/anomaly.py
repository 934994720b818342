"""Where numbers stop being finite: the first layer of a flow, and what can be done about it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.convolution import SingularError
from diffeo.bijections.coupling import Coupling
from diffeo.flow import Flow
from diffeo.utils.modules import SMALLER_LR, all_finite, first_not_finite


class Fault(NamedTuple):
    """The first thing that was not finite.

    Args:
        what: a clause that names the layer.
        remedy: what a user may do, as a command.
    """

    what: str
    remedy: str = SMALLER_LR


def find_fault(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    generator: Generator | None = None,
    unit: float = 1.0,
) -> Fault:
    """Pass a batch once more through a copy of a flow, to see what it was that was not finite.

    In the mode that the flow is in, with stored activations, and with gradients where its weights
    learn. The flow itself, and any average that it keeps, stay as they are.

    Args:
        flow: as it was when the batch was skipped.
        x: the batch.
        context: that of the batch.
        generator: of its noise, in the state that it was in.
        unit: of the loss, in nats.
    """
    seed = None if generator is None else generator.get_state()

    def attempt(trial: Flow, *, hooks: bool = True) -> Fault | None:
        if generator is not None and seed is not None:
            generator.set_state(seed)
        return Search(trial, hooks=hooks).run(x, context, generator, unit)

    fault = attempt(copy.deepcopy(flow).set_memory("stored"))
    if fault is None:
        recomputed = attempt(copy.deepcopy(flow), hooks=False)
        if recomputed is None:
            return Fault("computed again, the same batch is finite everywhere")
        remedy = f"take --trainer.memory stored, or {SMALLER_LR.removeprefix('take ')}"
        return Fault(f"{recomputed.what}, in constant memory only", remedy)
    lower = {part.precision for part in flow.modules() if isinstance(part, Coupling)} - {None}
    if lower and attempt(copy.deepcopy(flow).set_memory("stored").set_precision(None)) is None:
        return Fault(f"{fault.what}, in {lower.pop()} only", "take --precision float32")
    return fault


class Search:
    """Follows a flow by hooks, and notes the first of all numbers that are not finite.

    Going forward that is the output of a bijection, or of the network that gives its parameters;
    going back, the gradient of a weight, or of the input of a bijection.

    Args:
        flow: keeps the hooks, so it should be a copy.
        hooks: without them only the gradients of weights are looked at, at the end.
    """

    def __init__(self, flow: Flow, *, hooks: bool = True) -> None:
        self.flow = flow
        self.names: dict[nn.Module, str] = {module: name for name, module in flow.named_modules()}
        self.largest: list[tuple[nn.Module, float]] = []
        self.fault: Fault | None = None
        for part in flow.modules() if hooks else ():
            if isinstance(part, Bijection):
                part.register_forward_hook(self._check_output)
                for child in part.children():
                    if not isinstance(child, Bijection | nn.ModuleList) and [*child.parameters()]:
                        child.register_forward_hook(self._check_output)

    def run(
        self, x: Tensor, context: Tensor | None, generator: Generator | None, unit: float
    ) -> Fault | None:
        """The first fault on the way to the loss of a batch, or on the way back."""
        weights = {name: w for name, w in self.flow.named_parameters() if w.requires_grad}
        if x.is_floating_point() and not all_finite([x]):
            return Fault("the data hold numbers that are not finite", "leave such rows out")
        try:
            with torch.set_grad_enabled(bool(weights)):
                loss = -self.flow.log_prob(x, context, generator=generator).mean() / unit
            if self.fault is None and not all_finite([loss]):
                what = f"all layers are finite and the likelihood is not{self._growth()}"
                self.fault = Fault(what)
            if self.fault is None and weights:
                self._go_back(loss, weights)
        except SingularError as error:
            return Fault(f"{self._named(error.layer)} has a weight that cannot be inverted")
        return self.fault

    def _go_back(self, loss: Tensor, weights: dict[str, nn.Parameter]) -> None:
        for name, weight in weights.items():
            what = f"the gradient of {self._weight(name)} is not finite"
            weight.register_hook(lambda gradient, what=what: self._check(gradient, what))
        loss.backward()
        grads = {name: w.grad for name, w in weights.items() if w.grad is not None}
        norm = torch.nn.utils.get_total_norm(grads.values())
        if self.fault is None and not all_finite([norm]):
            largest = self._weight(max(grads, key=lambda name: float(grads[name].abs().max())))
            self.fault = Fault(f"the length of the gradient is not finite, mostly by {largest}")

    def _check(self, gradient: Tensor, what: str) -> None:
        if self.fault is None and not all_finite([gradient]):
            self.fault = Fault(what)

    def _check_output(self, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        made = output if isinstance(output, tuple) else (output,)
        if self.fault is None and not all_finite(made):
            what = f"{self._named(part)} gave numbers that are not {self._why(part)}"
            self.fault = Fault(what)
        if isinstance(part, Bijection):
            size = float(made[0].detach().abs().max()) if made[0].numel() else 0.0
            self.largest.append((part, size))
            if inputs[0].requires_grad:
                what = f"the gradient is not finite behind {self._named(part)}"
                inputs[0].register_hook(lambda gradient: self._check(gradient, what))

    def _why(self, part: nn.Module) -> str:
        if bad := first_not_finite(dict(part.named_parameters())):
            return f"finite, as its {bad}"
        return f"finite, of inputs up to {self.largest[-1][1]:.3g}" if self.largest else "finite"

    def _growth(self) -> str:
        """Which bijection first gave numbers whose squares, as in the density, overflow."""
        limit = torch.finfo(next(self.flow.parameters()).dtype).max ** 0.5
        for part, size in self.largest:
            if size > limit:
                return f", after {self._named(part)} gave numbers up to {size:.3g}"
        return ""

    def _named(self, part: nn.Module) -> str:
        return f"{self.names.get(part, 'a link')} ({type(part).__name__})"

    def _weight(self, name: str) -> str:
        return f"{name} ({type(self.flow.get_submodule(name.rpartition('.')[0])).__name__})"
