"""Where numbers stop being finite: the first layer of a flow, and what can be done about it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.convolution import SingularError
from diffeo.bijections.coupling import Coupling
from diffeo.flow import Flow
from diffeo.utils.modules import SMALLER_LR, all_finite, first_not_finite


@dataclass(frozen=True)
class Fault:
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
    if lower:
        exact = copy.deepcopy(flow).set_memory("stored").set_precision(None)
        if attempt(exact) is None:
            return Fault(f"{fault.what}, in {lower.pop()} only", "take --precision float32")
    return fault


class Search:
    """Follows a flow by hooks, and notes the first layer whose numbers are not finite.

    Going forward that is a bijection, or the network that gives its parameters; going back, a
    bijection whose input has no finite gradient, or a weight that has none.

    Args:
        flow: keeps the hooks, so it should be a copy.
        hooks: without them only weights are looked at.
    """

    def __init__(self, flow: Flow, *, hooks: bool = True) -> None:
        self.flow = flow
        self.names = {module: name for name, module in flow.named_modules()}
        self.places: dict[nn.Module, int] = {}
        self.reaches: list[tuple[nn.Module, float]] = []
        self.forward: Fault | None = None
        self.backward: tuple[int, Fault] | None = None
        for part in flow.modules() if hooks else ():
            if isinstance(part, Bijection):
                networks = [
                    child
                    for child in part.children()
                    if not isinstance(child, Bijection | nn.ModuleList) and [*child.parameters()]
                ]
                for followed in (part, *networks):
                    followed.register_forward_hook(self._passed)

    def run(
        self, x: Tensor, context: Tensor | None, generator: Generator | None, unit: float
    ) -> Fault | None:
        """The first fault on the way to the loss of a batch, or on the way back."""
        learns = any(weight.requires_grad for weight in self.flow.parameters())
        if x.is_floating_point() and not all_finite([x]):
            return Fault("the data hold numbers that are not finite", "leave such rows out")
        try:
            with torch.set_grad_enabled(learns):
                loss = -self.flow.log_prob(x, context, generator=generator).mean() / unit
                if learns:
                    loss.backward()
        except SingularError as error:
            return Fault(f"{self._named(error.layer)} has a weight that cannot be inverted")
        if self.forward is not None:
            return self.forward
        if not all_finite([loss]):
            return Fault(f"all layers are finite and the likelihood is not{self._growth()}")
        # Of a weight and of a bijection before it, the weight's gradient is found earlier.
        weights = [
            (self._place(name), Fault(f"the gradient of {self._weight(name)} is not finite"))
            for name, weight in self.flow.named_parameters()
            if weight.grad is not None and not all_finite([weight.grad])
        ]
        found = weights if self.backward is None else [*weights, self.backward]
        # Of a bijection and of its own network, both of which are not, the bijection is named.
        return max(reversed(found), key=lambda fault: fault[0])[1] if found else self._too_long()

    def _passed(self, part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.places[part] = len(self.places)
        made = output if isinstance(output, tuple) else (output,)
        if self.forward is None:
            if not all_finite(made):
                what = f"{self._named(part)} gave numbers that are not {self._why(part)}"
                self.forward = Fault(what)
            elif isinstance(part, Bijection):
                self.reaches.append((part, _reach(made[0])))
        if isinstance(part, Bijection) and inputs[0].requires_grad:
            inputs[0].register_hook(lambda gradient: self._went_back(part, gradient))

    def _went_back(self, part: nn.Module, gradient: Tensor) -> None:
        if self.backward is None and not all_finite([gradient]):
            fault = Fault(f"the gradient is not finite behind {self._named(part)}")
            self.backward = self.places[part], fault

    def _too_long(self) -> Fault | None:
        grads = {k: w.grad for k, w in self.flow.named_parameters() if w.grad is not None}
        if not grads or all_finite([torch.nn.utils.get_total_norm(grads.values())]):
            return None
        largest = max(grads, key=lambda name: float(grads[name].abs().max()))
        return Fault(f"the length of the gradient is not finite, mostly by {self._weight(largest)}")

    def _place(self, weight: str) -> int:
        """The place, in the order of computing, of the innermost part that has a weight."""
        named = {self.names[part]: place for part, place in self.places.items()}
        parts = weight.split(".")
        above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((named[name] for name in above if name in named), -1)

    def _named(self, part: nn.Module) -> str:
        return f"{self.names.get(part, 'a link')} ({type(part).__name__})"

    def _weight(self, name: str) -> str:
        return f"{name} ({type(self.flow.get_submodule(name.rpartition('.')[0])).__name__})"

    def _why(self, part: nn.Module) -> str:
        if bad := first_not_finite(dict(part.named_parameters())):
            return f"finite, as its {bad}"
        return f"finite, of inputs up to {self.reaches[-1][1]:.3g}" if self.reaches else "finite"

    def _growth(self) -> str:
        """Which bijection first gave numbers whose squares, as in the density, overflow."""
        limit = torch.finfo(next(self.flow.parameters()).dtype).max ** 0.5
        for part, reach in self.reaches:
            if reach > limit:
                return f", after {self._named(part)} gave numbers up to {reach:.3g}"
        return ""


def _reach(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0
