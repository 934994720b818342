"""A model saved, loaded and pushed to the Hugging Face hub."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffeo.bijections.coupling import Coupling
from diffeo.context import ContextSpec
from diffeo.pretrained import storage
from diffeo.pretrained.card import Card
from diffeo.utils import html
from diffeo.utils.config import Configurable, find_class, from_config, to_config
from diffeo.utils.modules import first_not_finite


class PretrainedModel(Configurable, nn.Module):
    """How a model is saved, loaded and pushed, with the methods of the Hugging Face libraries.

    A class whose arguments are plain values and objects of diffeo's needs nothing more. The hub's
    package is imported when it is asked.
    """

    metadata: dict[str, Any]
    shape: tuple[int, ...]
    dims: int
    context: ContextSpec

    def _repr_html_(self) -> str:
        """What it models and the tree of its parts, for notebooks."""
        return html.page(html.heading(type(self).__name__, self._facts()), html.tree(self))

    def _facts(self) -> list[str]:
        known = [f"events of {html.shape(self.shape)}", f"{self.dims:,} latents"]
        if self.context:
            names = ", ".join(variable.name for variable in self.context.variables)
            known.append(f"given {names or 'an embedded context'}")
        return [*known, html.weights(self) or "no weights"]

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write `config.json` and `model.safetensors` into the folder, making it if need be.

        Args:
            folder: where.
            dtype: `torch.bfloat16` stores the kernels of the networks in 16 bits, which nearly
                halves the file. What the bijections themselves learn (actnorms, 1x1 convolutions,
                learned scales), biases, scales and buffers stay as they are. The model that is
                loaded computes in the dtype of this one, with rounded kernels.
            model_card_kwargs: the arguments of a `Card`, to write one into `README.md`; none is
                written by default.
            push_to_hub: whether to push to the hub too; its address is returned then.
            repo_id: the name there; by default that of the folder.
            options: see `push_to_hub`.

        Raises:
            ValueError: if the flow was made with something that is neither a plain value nor an
                object of diffeo's, was changed since, has weights that are not finite, or dtype is
                another; the folder stays as it was then.
        """
        card = None
        if model_card_kwargs is not None:
            card = Card(**({"dtype": dtype} | model_card_kwargs))
            dtype = dtype or card.dtype
        if dtype not in (None, *storage.STORED.values()):
            choices = ", ".join(f"torch.{name}" for name in storage.STORED)
            raise ValueError(f"weights are not stored as {dtype}: pass {choices}, or nothing.")
        folder = Path(folder)
        written = {"format": 2, **to_config(self), "metadata": to_config(self.metadata)}
        state = self.state_dict()
        _check_unchanged(self, written, state)
        if dtype is not None:
            written |= {"dtype": _name(self._reference().dtype), "stored_as": _name(dtype)}
            state |= {kernel: state[kernel].to(dtype) for kernel in _kernels(self)}
        _check_finite(self, state)
        storage.write_model(folder, written, state)
        if card is not None:
            card.write(folder, self)
        if not push_to_hub:
            return None
        return self.push_to_hub(
            repo_id or folder.name, dtype=dtype, model_card_kwargs=model_card_kwargs, **options
        )

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, trust: bool = False, **download: Any
    ) -> Self:
        """The flow that `save_pretrained` wrote, in eval mode.

        Args:
            name: a folder with a model, or of a run; or, where there is no folder of that name, a
                model that ships with diffeo ("mnist"), or one on the Hugging Face hub
                (`owner/name`).
            trust: whether a class that is none of diffeo's, and that you have not imported, may be
                imported because `config.json` names it; importing runs its code.
            download: for the hub, arguments of `huggingface_hub.snapshot_download`: `revision`,
                `token`, `cache_dir`, `force_download`, `local_files_only` and others.

        Raises:
            ValueError: if the model is missing or damaged, or of another class.
        """
        folder = storage.find_model(name, **download)
        config, state = storage.read_model(folder)
        where = folder / storage.CONFIG
        try:
            model = find_class(config["class"], trust)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if not issubclass(model, cls):
            raise ValueError(f"{where} holds a {model.__name__}, which is no {cls.__name__}.")
        try:
            with storage.limit_allocation(state):
                flow = from_config({"class": config["class"], "arguments": config["arguments"]})
            if config.get("format", 1) == 1 and flow.context_encoder is not None:
                # 0.1.0 did not normalize classes, which is what an encoder does at its start.
                fresh = flow.context_encoder.state_dict(prefix="context_encoder.")
                state = {**fresh, **state}
            _check_types(flow.state_dict(), state)
            # assign, so that a model saved in float64 comes back in float64.
            # Copied out of the file, where tensors lie at odd addresses: products of matrices may
            # round otherwise there, and are slower.
            state = {name: tensor.clone() for name, tensor in state.items()}
            flow.load_state_dict(state, assign=True)
        except Exception as error:  # of arguments that make no sense a constructor raises any
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{folder} does not fit {config['class']}: {reason}") from error
        flow.metadata = config.get("metadata", {})
        # For what is not saved, such as a dequantizer's dtype.
        return flow.to(flow._reference().dtype).eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        dtype: torch.dtype | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        commit_message: str = "Share a flow, by diffeo",
        **options: Any,
    ) -> str:
        """Push the model and a model card to the Hugging Face hub, and return the address.

        Args:
            repo_id: the name there, `owner/name`; made if there is none yet.
            dtype: see `save_pretrained`.
            model_card_kwargs: what the card says beside what the model itself knows (see
                `Card`). `diffeo share` and `diffeo.run.share` make it from a run.
            private: whether nobody else sees it; None for what is usual there.
            token: that of the user; by default the one that `hf auth login` stored.
            branch: where it goes; by default to the main one.
            commit_message: of the commit there.
            options: those of `huggingface_hub.HfApi.upload_folder`, such as create_pr.

        Raises:
            ValueError: as `save_pretrained`, or if the name is none.
            OSError: what `huggingface_hub` says of the server.
        """
        from huggingface_hub import HfApi

        card = {"name": repo_id} | (model_card_kwargs or {}) | {"dtype": dtype}
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made) / "model"
            self.save_pretrained(folder, model_card_kwargs=card)  # refused before anything is sent
            name = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
            return api.upload_folder(
                repo_id=name,
                folder_path=folder,
                revision=branch,
                commit_message=commit_message,
                **options,
            )

    def _reference(self) -> Tensor:
        """Any floating tensor of the model, for its dtype and device; torch's own without one."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        for tensor in tensors:
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)


def _kernels(model: nn.Module) -> list[str]:
    """The names of the weights that may be rounded: kernels and matrices of networks.

    In MNIST's Glow they are 96 of 100 weights, and rounding them to bfloat16 changes the bits/dim
    by 0.00002; rounding the 384 numbers of its actnorms changes it by 0.0016 (docs/results.md).
    """
    return [
        f"{prefix}.conditioner.{name}"
        for prefix, link in model.named_modules()
        if isinstance(link, Coupling)
        for name, weight in link.conditioner.named_parameters()
        if weight.ndim > 1 and weight[0].numel() > 1
    ]


def _check_finite(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Refuse weights that are not finite, by the name of the first."""
    bad = first_not_finite({k: v for k, v in state.items() if v.is_floating_point()})
    if bad is not None:
        layer = type(model.get_submodule(bad.rpartition(".")[0])).__name__
        raise ValueError(
            f"the model is not saved, since its {bad} ({layer}) has numbers that are not finite: "
            "go back to an earlier model, or train with a smaller learning rate."
        )


class _Undrawn(TorchFunctionMode):
    """First weights are not drawn: without storage, torch loads its compiler to do that."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.__name__.endswith(("normal_", "uniform_")):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _check_unchanged(model: nn.Module, config: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Refuse a model that its configuration and its state would not bring back."""
    with torch.random.fork_rng(devices=()), torch.device("meta"), _Undrawn():
        fresh = from_config({"class": config["class"], "arguments": config["arguments"]})
    changed = _first_changed(model, fresh, state)
    if changed is not None:
        raise ValueError(
            f"the model is not saved, since its {changed} was changed after it was made, and "
            "loading would not restore that: make it with its constructor."
        )
    dtypes = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    if len(dtypes) > 1 or not dtypes <= set(storage.COMPUTED.values()):
        listed = " and ".join(sorted(map(_name, dtypes)))
        raise ValueError(
            f"the model is not saved, since its weights are of {listed}: convert all to float32 "
            "by flow.float(), or to float64 by flow.double(); save_pretrained(dtype=...) stores "
            "fewer bits."
        )


def _first_changed(model: nn.Module, fresh: nn.Module, state: dict[str, Tensor]) -> str | None:
    """The first module or weight that differs from those of a model made anew, if any."""
    for (name, ours), (_, theirs) in itertools.zip_longest(
        model.named_modules(), fresh.named_modules(), fillvalue=("", None)
    ):
        # By name, since PyTorch makes a class for each parametrized module.
        if type(ours).__qualname__ != type(theirs).__qualname__:
            return name or "list of modules"
    made = fresh.state_dict()
    for name in [*state, *made]:
        if name not in made or name not in state or made[name].shape != state[name].shape:
            return name
    return None


def _check_types(made: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Refuse weights of other dtypes than those of the model; float32 may be float64."""
    floats = set(storage.COMPUTED.values())
    for name in made.keys() & state.keys():
        wanted, found = made[name].dtype, state[name].dtype
        if found != wanted and not {found, wanted} <= floats:
            raise ValueError(f"{name} is of {_name(found)}, and {_name(wanted)} was expected")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
