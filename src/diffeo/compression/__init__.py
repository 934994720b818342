"""Lossless files: what a model says is likely takes few bits. It belongs to no model or command."""

from diffeo.compression.images import compress_images as compress_images
from diffeo.compression.images import decompress_images as decompress_images
from diffeo.compression.tables import compress_table as compress_table
from diffeo.compression.tables import decompress_table as decompress_table
