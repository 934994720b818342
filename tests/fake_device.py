"""A pretended GPU, for machines without one: its tensors hold numbers, and its rules are checked.

    with FakeDevice("mps") as device:
        flow.to("mps")
        with device.hot():
            flow.log_prob(x)

Inside of the context "cuda" or "mps" is a device. Its tensors are computed on the CPU, so that all
results can be compared, and say of themselves that they are on the device. It refuses what a real
one refuses: tensors of two devices in one operation, a random generator of another device, and, as
"mps", float64 and operations that torch has no kernel for there. In `hot()` it also refuses what
would make the host wait for the device, or the device for the host: values that are read or copied
to the CPU, shapes that depend on values, and tensors that are made on the CPU or moved from there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import pytest
import torch
import yaml
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten

# Those that read values, or whose result has a shape that depends on them.
READS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten._linalg_check_errors.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
COPIES = {aten._to_copy.default, aten.copy_.default}


class DeviceError(AssertionError):
    """What a GPU would refuse, or wait for; no RuntimeError, which code under test may expect."""


class OnDevice(Tensor):
    """A tensor that says that it is on a device; its numbers are those of `inner`."""

    inner: Tensor
    place: torch.device

    @staticmethod
    def __new__(cls, inner: Tensor, place: torch.device) -> Self:
        # To PyTorch's own code it is on the device "meta", which has neither streams nor threads.
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device="meta",
        )

    def __init__(self, inner: Tensor, place: torch.device) -> None:
        self.inner, self.place = inner, place

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return Tensor.data.__get__(self)  # type: ignore[attr-defined]

    @data.setter
    def data(self, value: OnDevice) -> None:
        # Of what PyTorch's own code sees, and of the numbers.
        Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    def get_device(self) -> int:
        return 0

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"a tensor on {self.place} has no numpy(): copy it to the CPU first")
        return self.detach().cpu().numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.inner.__reduce_ex__(protocol)  # so that it can be saved

    @property
    def is_meta(self) -> bool:  # type: ignore[override]
        return False

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r}, {self.place})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise DeviceError(f"{func} got a tensor of a device outside of its context")


class FakeGenerator(torch.Generator):
    """A random generator that says that it is on a device."""

    # By what a generator is to PyTorch's own code, which makes another object of it.
    places: ClassVar[dict[int, torch.device]] = {}

    def __new__(cls, device: Any = "cpu") -> Self:
        made = super().__new__(cls, "cpu")
        cls.places[made._cdata] = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.places[self._cdata]


class AsMeta(TorchFunctionMode):
    """Calls with "meta" for a device, since PyTorch's own code has no such device."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not torch.device:  # whose name the code under test may ask for
            args = [self._replaced(leaf) for leaf in args]
            kwargs = {name: self._replaced(leaf) for name, leaf in kwargs.items()}
        if func is torch.as_tensor and isinstance(args[0], OnDevice):
            return args[0].to(**kwargs)  # itself, where nothing changes
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            return func(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])  # as it works
        if func is Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], **{"dtype": args[0].dtype} | kwargs).to("meta")
        return func(*args, **kwargs)

    def _replaced(self, leaf: Any) -> Any:
        named = isinstance(leaf, str) and leaf.partition(":")[0] == self.kind
        if named or (isinstance(leaf, torch.device) and leaf.type == self.kind):
            return torch.device("meta")
        return leaf


class FakeDevice(TorchDispatchMode):
    """A context in which there is a device; see the module.

    Args:
        kind: "cuda" or "mps".
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.place = kind, torch.device(kind)
        self.is_hot = False
        self.reads: list[str] = []
        self.patches, self.as_meta = pytest.MonkeyPatch(), AsMeta(kind)

    def __enter__(self) -> Self:
        state = {"states": [torch.get_rng_state()]}
        module = SimpleNamespace(
            get_rng_state=lambda device: state["states"][-1],
            set_rng_state=lambda value, device: state["states"].append(value),
        )
        real = torch.get_device_module
        self.patches.setattr(
            torch,
            "get_device_module",
            lambda device=None: module if torch.device(device) == self.place else real(device),
        )
        self.patches.setattr(torch.cuda, "is_available", lambda: self.kind == "cuda")
        self.patches.setattr(torch.backends.mps, "is_available", lambda: self.kind == "mps")
        self.patches.setattr(torch.accelerator, "synchronize", lambda: None)
        # Calls from a backward pass do not meet `AsMeta`.
        self.patches.setattr(torch.cuda, "_lazy_init", lambda: None)
        self.patches.setattr(torch, "Generator", FakeGenerator)
        for name, part in list(sys.modules.items()):
            if name.startswith("diffeo.") and getattr(part, "Generator", None) is not None:
                self.patches.setattr(part, "Generator", FakeGenerator)
        self.as_meta.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.as_meta.__exit__(*error)
        self.patches.undo()

    @contextmanager
    def hot(self) -> Iterator[None]:
        """Refuse also what a hot path should not do."""
        with self._set(True):
            yield

    @contextmanager
    def warm(self) -> Iterator[None]:
        """Allow it again, inside of `hot`."""
        with self._set(False):
            yield

    @contextmanager
    def _set(self, is_hot: bool) -> Iterator[None]:
        before, self.is_hot = self.is_hot, is_hot
        try:
            yield
        finally:
            self.is_hot = before

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given: list[Tensor] = []
        _mapped(given.append, (args, kwargs))
        here = [tensor for tensor in given if isinstance(tensor, OnDevice)]
        target = self._target(func, args, kwargs, here)
        self._check_inputs(func, args, kwargs, given, here, target)
        if "device" in kwargs and kwargs["device"] is not None:
            kwargs["device"] = torch.device("cpu")
        if isinstance(kwargs.get("pin_memory"), bool):
            kwargs["pin_memory"] = False
        inner_args, inner_kwargs = _mapped(_inner, (args, kwargs))
        out = func(*inner_args, **inner_kwargs)
        made: list[Tensor] = []
        _mapped(made.append, out)
        on_device = target == self.place
        self._check_outputs(func, given, made, on_device)
        if not on_device:
            return out
        out = _mapped(lambda tensor: OnDevice(tensor, self.place), out)
        return return_and_correct_aliasing(func, args, kwargs, out) if _aliases(func) else out

    def _target(self, func, args, kwargs, here) -> torch.device:
        """Where the result is."""
        device = kwargs.get("device")
        if device is not None:
            kind = torch.device(device).type
            # Of the C++ code, to which the tensors are on "meta".
            return self.place if kind in (self.kind, "meta") else torch.device(device)
        if func is aten.copy_.default:
            return args[0].device
        return self.place if here else torch.device("cpu")

    def _check_inputs(self, func, args, kwargs, given, here, target) -> None:
        source = kwargs.get("generator")
        if source is not None:
            place = FakeGenerator.places.get(source._cdata, source.device)
            if place.type != target.type:
                raise DeviceError(f"{func} on {target} got a generator of {place}")
        if func in COPIES:
            source = args[func is aten.copy_.default]
            if source.device != target and source.ndim > 0:
                self._note(f"{func} from {source.device} to {target}")
            return
        if not here and target != self.place:
            return
        strangers = [t for t in given if not isinstance(t, OnDevice) and t.ndim > 0]
        if here and strangers:
            raise DeviceError(f"{func} got tensors of the CPU and of {self.place}")
        if func in READS or (func in (aten.index.Tensor, aten.index_put_.default) and _masks(args)):
            self._note(str(func))
        if self.kind == "mps" and not _runs_on_mps(func):
            raise DeviceError(f"{func} has no kernel for mps")

    def _check_outputs(self, func, given, made, on_device) -> None:
        wide = any(t.dtype in (torch.float64, torch.complex128) for t in made)
        if on_device and self.kind == "mps" and wide:
            raise DeviceError(f"{func} makes float64, which mps has not")
        if self.is_hot and not on_device and not given and any(t.ndim > 0 for t in made):
            raise DeviceError(f"{func} makes a tensor on the CPU in a hot path")

    def _note(self, what: str) -> None:
        self.reads.append(what)
        if self.is_hot:
            raise DeviceError(f"{what} in a hot path: one side waits for the other")


def _inner(tensor: Tensor) -> Tensor:
    return tensor.inner if isinstance(tensor, OnDevice) else tensor


def _mapped(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same tree of tuples, lists and dicts, with a function applied to its tensors."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([_mapped(function, leaf) for leaf in tree])
    if isinstance(tree, dict):
        return {name: _mapped(function, leaf) for name, leaf in tree.items()}
    return tree


def _masks(args: tuple[Any, ...]) -> bool:
    """Whether an index is a mask, whose result has as many elements as it is true."""
    return any(
        isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
    )


@cache
def _aliases(func: Any) -> bool:
    """Whether a result shares memory with an argument."""
    parts = (*func._schema.arguments, *func._schema.returns)
    return any(part.alias_info is not None for part in parts)


@cache
def _kernels() -> dict[str, dict[str, Any]]:
    """What torch says of each of its operations, by name."""
    import torchgen

    path = Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml"
    entries = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return {entry["func"].partition("(")[0]: entry for entry in entries}


@cache
def _runs_on_mps(func: Callable[..., Any]) -> bool:
    """Whether an operation of torch has a kernel for mps, or is made of others."""
    name = func._schema.name.removeprefix("aten::")
    overload = func._schema.overload_name
    entry = _kernels().get(f"{name}.{overload}" if overload else name)
    if entry is None:
        return True  # none of torch's own
    delegate = entry.get("structured_delegate")
    dispatch = (_kernels()[delegate] if delegate else entry).get("dispatch")
    if dispatch is None or any(key.startswith("Composite") for key in dispatch):
        return True
    return any("MPS" in key.replace(" ", "").split(",") for key in dispatch)
