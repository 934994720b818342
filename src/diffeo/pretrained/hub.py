"""A model saved, loaded and pushed to the Hugging Face hub."""

from __future__ import annotations

import inspect
import itertools
import os
import shutil
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from diffeo.bijections.coupling import Coupling
from diffeo.pretrained import storage
from diffeo.pretrained.card import Card
from diffeo.utils.allocation import limit_allocation
from diffeo.utils.files import atomic_write
from diffeo.utils.finite import first_not_finite

CARD = "README.md"


class Shareable(
    ModelHubMixin,
    nn.Module,
    library_name="diffeo",
    tags=["normalizing-flow", "density-estimation"],
):
    """What makes a model known to `huggingface_hub`: how it is saved, loaded and pushed.

    A subclass whose constructor takes plain values (numbers, strings, lists of them) needs nothing
    more. The mixin's own files, a config of its making and weights that may be pickled, are not
    used; its `push_to_hub` is.
    """

    arguments: dict[str, Any]
    metadata: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # A model's configuration is what its constructor was called with. Read here, it needs no
        # bookkeeping in any model. The mixin's __new__ would keep another, less complete one.
        model = object.__new__(cls)
        signature = inspect.signature(cls.__init__)
        bound = signature.bind_partial(model, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= arguments.pop(name)  # by their own names, as they were passed
        object.__setattr__(model, "arguments", arguments)
        return model

    def save_pretrained(  # type: ignore[override]  # the mixin's first argument has a long name
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        config: None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **options: Any,
    ) -> str | None:
        """Write `config.json` and `model.safetensors` into the folder, making it if need be.

        Args:
            folder: where.
            dtype: `torch.bfloat16` keeps the kernels of the networks in 16 bits, which nearly
                halves the file. What the bijections themselves learn (actnorms, 1x1 convolutions,
                learned scales), biases, scales and buffers stay as they are. The model that is
                loaded computes in the type that this one has, with rounded kernels.
            config: stays None: a flow's configuration is its own.
            model_card_kwargs: what a model card says (see `Card`), to write one into `README.md`;
                none is written by default.
            push_to_hub: whether to push to the hub too; its address is returned then.
            repo_id: the name there; by default that of the folder.
            options: see `push_to_hub`.

        Raises:
            ValueError: if the flow is not of a subclass with plain arguments, holds numbers that
                are not finite, or dtype is another; what lies in the folder stays then.
        """
        if config is not None:
            raise ValueError("a flow's configuration is its own: leave config out.")
        card = None
        if model_card_kwargs is not None:
            card = Card(**({"dtype": dtype} | model_card_kwargs))
            dtype = dtype or card.dtype
        folder = Path(folder)
        self._save_pretrained(folder, dtype)
        if card is not None:
            self._write_card(folder, card)
        if not push_to_hub:
            return None
        return self.push_to_hub(
            repo_id or folder.name, dtype=dtype, model_card_kwargs=model_card_kwargs, **options
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # likewise; and no argument of the model's own
        cls,
        name: str | os.PathLike[str],
        *,
        trust: bool = False,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """The flow that `save_pretrained` wrote, in eval mode.

        Args:
            name: a folder with a model, or of a run; or, where there is no folder of that name, a
                model that ships with diffeo ("mnist"), or one on the Hugging Face hub
                (`owner/name`).
            trust: whether a class that is none of diffeo's, and that you have not imported, may be
                imported because `config.json` names it; importing runs its code.
            force_download: fetch it from the hub even if it was fetched before.
            token: of the hub, for models that are private; by default that of `hf auth login`.
            cache_dir: where what is fetched is kept.
            local_files_only: take what was fetched before, and ask no server.
            revision: a branch, tag or commit on the hub.

        Raises:
            ValueError: if the model is missing or damaged, or of another class.
        """
        # Not by the mixin's method, which reads a config.json of its own form first.
        return cls._from_pretrained(
            model_id=os.fspath(name),
            trust=trust,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )

    def push_to_hub(  # type: ignore[override]  # the mixin's options go on as they are
        self,
        repo_id: str,
        *,
        dtype: torch.dtype | None = None,
        model_card_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> str:
        """Push the model and a model card to the Hugging Face hub, and return the address.

        Args:
            repo_id: the name there, `owner/name`; made if there is none yet.
            dtype: see `save_pretrained`.
            model_card_kwargs: what the card says beside what the model itself knows (see
                `Card`). `diffeo share` and `diffeo.run.share` make it from a run.
            options: those of `huggingface_hub`: private, token, branch, create_pr, commit_message
                and others.

        Raises:
            ValueError: as `save_pretrained`, or if the name is none.
            OSError: what `huggingface_hub` says of the server.
        """
        said = {"name": repo_id} | (model_card_kwargs or {}) | {"dtype": dtype}
        options = {"commit_message": "Share a flow, by diffeo"} | options
        return super().push_to_hub(repo_id, model_card_kwargs=said, **options)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, made of what the model knows and of what `Card` is told."""
        return ModelCard(self._said_by(Card(*args, **kwargs)))

    def _save_pretrained(self, save_directory: Path, dtype: torch.dtype | None = None) -> None:
        if Shareable in type(self).__bases__:
            raise ValueError(
                f"a bare {type(self).__name__} cannot be rebuilt: make a subclass with plain "
                "arguments."
            )
        if dtype not in (None, *storage.STORED.values()):
            choices = ", ".join(f"torch.{name}" for name in storage.STORED)
            raise ValueError(f"weights are not kept as {dtype}: pass {choices}, or nothing.")
        config = {
            "class": storage.public_name(type(self)),
            "arguments": self.arguments,
            "metadata": self.metadata,
        }
        state = self.state_dict()
        if dtype is not None:
            config |= {"dtype": _name(self._reference().dtype), "stored_as": _name(dtype)}
            state |= {kernel: state[kernel].to(dtype) for kernel in _kernels(self)}
        self._refuse_not_finite(state)
        storage.write_model(save_directory, config, state)

    def _refuse_not_finite(self, state: dict[str, Tensor]) -> None:
        bad = first_not_finite({k: v for k, v in state.items() if v.is_floating_point()})
        if bad is not None:
            layer = type(self.get_submodule(bad.rpartition(".")[0])).__name__
            raise ValueError(
                f"the model is not saved, since its {bad} ({layer}) holds numbers that are not "
                "finite: go back to an earlier model, or train with a smaller learning rate."
            )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, trust: bool = False, **download: Any) -> Self:  # type: ignore[override]
        folder = storage.find_model(model_id, **download)
        config, state = storage.read_model(folder)
        where = folder / storage.CONFIG
        model = storage.find_class(Shareable, config["class"], trust, where)
        if not issubclass(model, cls):
            raise ValueError(f"{where} holds a {model.__name__}, which is no {cls.__name__}.")
        try:
            with limit_allocation(state):
                flow = model(**config["arguments"])
            _check_types(flow.state_dict(), state)
            # assign, so that a model saved in float64 comes back in float64.
            flow.load_state_dict(state, assign=True)
        except Exception as error:  # of arguments that make no sense a constructor raises any
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{folder} does not fit {config['class']}: {reason}") from error
        flow.metadata = config.get("metadata", {})
        # What is not saved, such as a dequantizer's dtype, follows what is.
        return flow.to(flow._reference().dtype).eval()

    def _write_card(self, folder: Path, card: Card) -> None:
        if card.picture is not None:
            with atomic_write(folder / card.image_name) as partial:
                shutil.copyfile(card.picture, partial)
        with atomic_write(folder / CARD) as partial:
            partial.write_text(self._said_by(card), encoding="utf-8")

    def _said_by(self, card: Card) -> str:
        flow: Any = self  # every model is one
        return card.text(flow)

    def _reference(self) -> Tensor:
        """Any floating tensor of the model, for its dtype and device."""
        tensors = itertools.chain(self.parameters(), self.buffers())
        return next(tensor for tensor in tensors if tensor.is_floating_point())


def _kernels(model: nn.Module) -> list[str]:
    """The names of the weights that may be rounded: kernels and matrices of networks.

    On MNIST's Glow they are 96 of 100 weights, and rounding them to bfloat16 moves the bits/dim by
    0.00002; the 384 numbers of its actnorms would cost 0.0016 (docs/results.md).
    """
    return [
        f"{prefix}.conditioner.{name}"
        for prefix, link in model.named_modules()
        if isinstance(link, Coupling)
        for name, weight in link.conditioner.named_parameters()
        if weight.ndim > 1 and weight[0].numel() > 1
    ]


def _check_types(made: dict[str, Tensor], state: dict[str, Tensor]) -> None:
    """Refuse weights of other types than those that were made; float32 may be float64.

    Raises:
        ValueError: then.
    """
    floats = set(storage.COMPUTED.values())
    for name in made.keys() & state.keys():
        wanted, kept = made[name].dtype, state[name].dtype
        if kept != wanted and not {kept, wanted} <= floats:
            raise ValueError(f"{name} is of {_name(kept)}, and {_name(wanted)} was expected")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
