"""Tables for flows: generators, bundled tables and files as checked tensors, and back to files."""

from diffeo.data.files import ENDINGS
from diffeo.data.image_options import ImageOptions
from diffeo.data.image_sources import is_image_source
from diffeo.data.images import Images, ImageSplit, augment, load_images
from diffeo.data.options import TableOptions
from diffeo.data.sources import BUNDLED
from diffeo.data.streaming import stream
from diffeo.data.synthetic import GENERATORS, generate, moons_log_density
from diffeo.data.table import Split, Table, load_table
from diffeo.data.writing import check_writable, write_table

__all__ = [
    "BUNDLED",
    "ENDINGS",
    "GENERATORS",
    "ImageOptions",
    "ImageSplit",
    "Images",
    "Split",
    "Table",
    "TableOptions",
    "augment",
    "check_writable",
    "generate",
    "is_image_source",
    "load_images",
    "load_table",
    "moons_log_density",
    "stream",
    "write_table",
]
