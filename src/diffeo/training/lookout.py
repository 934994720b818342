"""Where numbers stop being finite: the first layer of a flow, and what can be done about it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffeo.bijections.base import Bijection
from diffeo.bijections.convolution import SingularError
from diffeo.bijections.coupling import Coupling
from diffeo.flow import Flow
from diffeo.utils.finite import all_finite, first_not_finite

SMALLER_LR = "take a smaller --optimizer.lr"


@dataclass(frozen=True)
class Fault:
    """The first thing that was not finite.

    Args:
        what: a clause that names the layer.
        remedy: what a user may do, as a command.
    """

    what: str
    remedy: str = SMALLER_LR


class NotFiniteError(FloatingPointError):
    """Training met numbers that are not finite and cannot go on.

    Args:
        what: a clause that says where.
        remedy: what a user may do, as a command.
    """

    def __init__(self, what: str, remedy: str = SMALLER_LR) -> None:
        super().__init__(what)
        self.remedy = remedy


@contextlib.contextmanager
def watched(lookout: Lookout | None) -> Iterator[None]:
    """Let a lookout see what bijections and networks compute, by forward hooks."""
    hooks = []
    if lookout is not None:
        parts = [m for m in lookout.flow.modules() if isinstance(m, Bijection)]
        parts += [m.conditioner for m in parts if isinstance(m, Coupling)]

        def hook(part: nn.Module, _: Any, made: Any) -> None:
            lookout.passed(part, *(made if isinstance(made, tuple) else (made,)))

        hooks = [part.register_forward_hook(hook) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class Lookout:
    """Looks on (see `watched`) and notes the first layer that makes a number that is not finite.

    Going forward that is a link, or the network that steers it; going back, a link whose input has
    no finite gradient, or a weight that has none. Each look waits for the device, so that a step
    takes longer.

    Args:
        flow: whose layers are named, as `Flow.get_submodule` takes their names.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.names = {module: name for name, module in flow.named_modules()}
        self.start()

    def start(self) -> None:
        """Forget what was seen before."""
        self.places: dict[nn.Module, int] = {}
        self.reaches: list[tuple[nn.Module, float]] = []
        self.forward: Fault | None = None
        self.backward: tuple[int, Fault] | None = None

    def passed(self, part: nn.Module, *made: Tensor) -> None:
        """See `Watch.passed`."""
        self.places[part] = len(self.places)
        if self.forward is not None:
            return
        if not all_finite(made):
            self.forward = Fault(f"{self.named(part)} gave numbers that are not {self._why(part)}")
        elif isinstance(part, Bijection):
            self.reaches.append((part, _reach(made[0])))

    def rebuilt(self, part: nn.Module, x: Tensor) -> None:
        """See `Watch.rebuilt`."""
        if not all_finite([x]):
            what = f"{self.named(part)} could not rebuild its input from its output"
            self._note(part, Fault(what, f"--trainer.memory stored needs not to, or {SMALLER_LR}"))

    def went_back(self, part: nn.Module, gradient: Tensor) -> None:
        """See `Watch.went_back`."""
        if not all_finite([gradient]):
            self._note(part, Fault(f"the gradient is not finite behind {self.named(part)}"))

    def fault(self, x: Tensor, loss: Tensor) -> Fault | None:
        """The first fault of a step: of its data x, on the way to its loss, or on the way back."""
        if x.is_floating_point() and not all_finite([x]):
            return Fault("the data hold numbers that are not finite", "leave such rows out")
        if self.forward is not None:
            return self.forward
        if not all_finite([loss]):
            return Fault(f"all layers are finite and the likelihood is not{self._growth()}")
        # Of a weight and of a link before it, the weight's gradient is found earlier.
        weights = [
            (self._place(name), Fault(f"the gradient of {self._weight(name)} is not finite"))
            for name, weight in self.flow.named_parameters()
            if weight.grad is not None and not all_finite([weight.grad])
        ]
        found = weights if self.backward is None else [self.backward, *weights]
        # Of a link and of its own network, both of which are not, the link is named.
        return max(found, key=lambda fault: fault[0])[1] if found else self._too_long()

    def _too_long(self) -> Fault | None:
        grads = {k: w.grad for k, w in self.flow.named_parameters() if w.grad is not None}
        if not grads or all_finite([torch.nn.utils.get_total_norm(grads.values())]):
            return None
        largest = max(grads, key=lambda name: float(grads[name].abs().max()))
        return Fault(f"the length of the gradient is not finite, mostly by {self._weight(largest)}")

    def _note(self, part: nn.Module, fault: Fault) -> None:
        if self.backward is None:
            self.backward = self.places.get(part, -1), fault

    def _place(self, weight: str) -> int:
        """The place, in the order of computing, of the innermost part that has a weight."""
        named = {self.names[part]: place for part, place in self.places.items()}
        parts = weight.split(".")
        above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((named[name] for name in above if name in named), -1)

    def named(self, part: nn.Module) -> str:
        """The name and the class of a part."""
        return f"{self.names.get(part, 'a link')} ({type(part).__name__})"

    def _weight(self, name: str) -> str:
        return f"{name} ({type(self.flow.get_submodule(name.rpartition('.')[0])).__name__})"

    def _why(self, part: nn.Module) -> str:
        bad = first_not_finite(dict(part.named_parameters()))
        return f"finite, as its {bad}" if bad else f"finite{self._inputs()}"

    def _inputs(self) -> str:
        return f", of inputs up to {self.reaches[-1][1]:.3g}" if self.reaches else ""

    def _growth(self) -> str:
        """Which link first made numbers whose squares, as in the density of noise, overflow."""
        dtype = next(self.flow.parameters()).dtype
        limit = torch.finfo(dtype).max ** 0.5
        for part, reach in self.reaches:
            if reach > limit:
                return f", after {self.named(part)} gave numbers up to {reach:.3g}"
        return ""


def find_fault(
    flow: Flow,
    x: Tensor,
    context: Tensor | None = None,
    generator: Generator | None = None,
    unit: float = 1.0,
) -> Fault:
    """Pass a batch once more through a copy of a flow, to see what it was that was not finite.

    In the mode that the flow is in, and with gradients where its weights learn. The flow itself,
    and any average that it keeps, stay as they are.

    Args:
        flow: as it was when the batch was lost.
        x: the batch.
        context: that of the batch.
        generator: of its noise, in the state that it was in.
        unit: what the loss was measured in, in nats.
    """
    seed = None if generator is None else generator.get_state()
    fault = _tried(copy.deepcopy(flow), x, context, generator, unit)
    if fault is None:
        return Fault("tried again, the same batch is finite everywhere")
    lower = {c.precision for c in flow.modules() if isinstance(c, Coupling)} - {None}
    if lower:
        if generator is not None and seed is not None:
            generator.set_state(seed)
        exact = copy.deepcopy(flow).set_precision(None)
        if _tried(exact, x, context, generator, unit) is None:
            return Fault(f"{fault.what}, in {lower.pop()} only", "take --precision float32")
    return fault


def _tried(
    flow: Flow, x: Tensor, context: Tensor | None, generator: Generator | None, unit: float
) -> Fault | None:
    lookout = Lookout(flow)
    learns = any(weight.requires_grad for weight in flow.parameters())
    try:
        with torch.set_grad_enabled(learns), watched(lookout):
            loss = -flow.log_prob(x, context, generator=generator).mean() / unit
            if learns:
                loss.backward()
    except SingularError as error:
        return Fault(f"{lookout.named(error.layer)} has a weight that cannot be inverted")
    return lookout.fault(x, loss.detach())


def _reach(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0
