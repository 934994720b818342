"""Tables and images for flows: from sources to tensors and back to files. It knows no model."""

from diffeo.data.batches import Batches, Rows
from diffeo.data.images.augmentation import augment
from diffeo.data.images.loading import (
    Gallery,
    Images,
    ImageSplit,
    load_gallery,
    load_images,
    size_of,
)
from diffeo.data.images.opening import is_image_source
from diffeo.data.images.options import ImageOptions
from diffeo.data.images.synthetic import draw_shapes
from diffeo.data.loading import Data, DataOptions, holds_images, load_data
from diffeo.data.splits import SPLITS
from diffeo.data.tables.files import ENDINGS
from diffeo.data.tables.loading import Split, Table, load_table, stream
from diffeo.data.tables.opening import BUNDLED
from diffeo.data.tables.options import TableOptions
from diffeo.data.tables.synthetic import GENERATORS, generate, moons_log_density
from diffeo.data.tables.writing import check_writable, write_columns, write_table

__all__ = [
    "BUNDLED",
    "ENDINGS",
    "GENERATORS",
    "SPLITS",
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
