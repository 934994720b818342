"""Figures of flows, of their data, samples and training, in one style.

Most functions take tensors or numbers and return a matplotlib `Figure`; they need no display and
leave matplotlib's settings alone. `save` writes a figure to a file, and `animate` makes a GIF of
such files. Data are blue, samples of the model orange, and latents violet. 8-bit images need no
figure: `tile` lays them out in a grid, pixel by pixel, `save_images` writes such a grid, and
`write_images` writes a file for each image. What computes something new does not belong here.
"""

from diffeo.data.images.writing import check_image_file, save_images, tile, write_images
from diffeo.figures.animation import animate
from diffeo.figures.charts import corner, latent_histograms, training_curve
from diffeo.figures.columns import marginals
from diffeo.figures.images import image_grid, reconstructions
from diffeo.figures.plane import density_map, four_panels, latent_grid
from diffeo.figures.style import DATA, GREY, INK, LINE, MODEL, save

__all__ = [
    "DATA",
    "GREY",
    "INK",
    "LINE",
    "MODEL",
    "animate",
    "check_image_file",
    "corner",
    "density_map",
    "four_panels",
    "image_grid",
    "latent_grid",
    "latent_histograms",
    "marginals",
    "reconstructions",
    "save",
    "save_images",
    "tile",
    "training_curve",
    "write_images",
]
