"""Tables and pictures for flows: from generators, bundled sets and files, and back to files."""

from diffeo.data.batches import Augment, Batches, Rows
from diffeo.data.files import ENDINGS
from diffeo.data.image_options import ImageOptions
from diffeo.data.image_sets import Gallery, Images, ImageSplit, size_of
from diffeo.data.image_sources import is_image_source
from diffeo.data.images import augment, load_gallery, load_images
from diffeo.data.loading import Data, DataOptions, holds_pictures, load_data
from diffeo.data.options import TableOptions
from diffeo.data.pictures import SPLITS
from diffeo.data.shapes import draw_shapes
from diffeo.data.sources import BUNDLED
from diffeo.data.streaming import stream
from diffeo.data.synthetic import GENERATORS, generate, moons_log_density
from diffeo.data.table import Split, Table, load_table
from diffeo.data.writing import check_writable, write_columns, write_table

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
    "holds_pictures",
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
