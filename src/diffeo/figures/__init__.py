"""Every picture of the package, in one house style.

Most functions take tensors or numbers and return a matplotlib `Figure`, drawn without a display,
without pyplot and without changing anyone's settings; `save` writes it to a file, and `animate`
makes a film of such files. Data are blue, what a model makes of them is orange, and noise violet.
8-bit pictures themselves need no figure: `tile` lays them out, pixel by pixel, `save_images`
writes such a sheet, and `write_images` a file for each. `labelled_sheet` is a figure of them,
with a label above each column.
"""

from diffeo.data.images.sheets import check_image_file, save_images, tile, write_images
from diffeo.figures.animation import animate, film, find_ffmpeg
from diffeo.figures.corner import corner
from diffeo.figures.curve import training_curve
from diffeo.figures.density import density_map
from diffeo.figures.grid import latent_grid
from diffeo.figures.latents import latent_histograms
from diffeo.figures.panels import four_panels
from diffeo.figures.pictures import reconstructions
from diffeo.figures.sheet import labelled_sheet
from diffeo.figures.style import DATA, DENSITY, GREY, INK, LATENT, LINE, MODEL, WHEEL, save

__all__ = [
    "DATA",
    "DENSITY",
    "GREY",
    "INK",
    "LATENT",
    "LINE",
    "MODEL",
    "WHEEL",
    "animate",
    "check_image_file",
    "corner",
    "density_map",
    "film",
    "find_ffmpeg",
    "four_panels",
    "labelled_sheet",
    "latent_grid",
    "latent_histograms",
    "reconstructions",
    "save",
    "save_images",
    "tile",
    "training_curve",
    "write_images",
]
