"""Tables and images for flows: from sources to tensors and back to files. It knows no model."""

from typing import TYPE_CHECKING, Final

from diffeo.data.datasets import SPLITS, Batches, Rows
from diffeo.data.images.dataset import Gallery, ImageOptions, Images, ImageSplit, augment, size_of
from diffeo.data.loading import Data, DataOptions, holds_images, load_data
from diffeo.data.tables.describing import describe
from diffeo.data.tables.frames import decode, encode
from diffeo.data.tables.kinds import find_schema
from diffeo.data.tables.loading import Split, Table, load_table, stream
from diffeo.data.tables.mixed import load_mixed, stream_mixed
from diffeo.data.tables.opening import BUNDLED, ENDINGS, TableOptions
from diffeo.data.tables.reading import read_frame
from diffeo.data.tables.synthetic import GENERATORS, generate, moons_log_density
from diffeo.data.tables.writing import check_writable, write_columns, write_frames, write_table
from diffeo.utils.lazy import lazy_import

if TYPE_CHECKING:
    from diffeo.data.images.loading import is_image_source, load_gallery, load_images
    from diffeo.data.images.synthetic import draw_shapes

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
    "decode",
    "describe",
    "draw_shapes",
    "encode",
    "find_schema",
    "generate",
    "holds_images",
    "is_image_source",
    "load_data",
    "load_gallery",
    "load_images",
    "load_mixed",
    "load_table",
    "moons_log_density",
    "read_frame",
    "size_of",
    "stream",
    "stream_mixed",
    "write_columns",
    "write_frames",
    "write_table",
]

# Who learns from a table does not import what reads images.
__getattr__: Final = lazy_import(
    __name__,
    {
        "draw_shapes": "images.synthetic",
        "is_image_source": "images.loading",
        "load_gallery": "images.loading",
        "load_images": "images.loading",
    },
)
