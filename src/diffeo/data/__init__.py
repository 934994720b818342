"""Tables and pictures for flows: from generators, bundled sets and files, and back to files."""

from diffeo.data.batches import Augment, Batches, Rows
from diffeo.data.files import ENDINGS
from diffeo.data.images.loading import augment, load_gallery, load_images
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.sets import Gallery, Images, ImageSplit, size_of
from diffeo.data.images.shapes import draw_shapes
from diffeo.data.images.source import SPLITS
from diffeo.data.images.sources import is_image_source
from diffeo.data.loading import Data, DataOptions, holds_images, load_data
from diffeo.data.tables.options import TableOptions
from diffeo.data.tables.sources import BUNDLED
from diffeo.data.tables.streaming import stream
from diffeo.data.tables.synthetic import GENERATORS, generate, moons_log_density
from diffeo.data.tables.table import Split, Table, load_table
from diffeo.data.tables.writing import check_writable, write_columns, write_table

__all__ = [
    "BUNDLED",
    "ENDINGS",
    "GENERATORS",
    "SPLITS",
    "Augment",
    "Batches",
    "Data",
    "DataOptions",
    "Gallery",
    "ImageOptions",
    "ImageSplit",
    "Images",
    "Rows",
    "Split",
    "Table",
    "TableOptions",
    "augment",
    "check_writable",
    "draw_shapes",
    "generate",
    "holds_images",
    "is_image_source",
    "load_data",
    "load_gallery",
    "load_images",
    "load_table",
    "moons_log_density",
    "size_of",
    "stream",
    "write_columns",
    "write_table",
]
