"""Flows as files that score and sample without diffeo: ONNX, or programs of `torch.export`."""

from diffeo.export.files import Exported, Format, What, export

__all__ = ["Exported", "Format", "What", "export"]
