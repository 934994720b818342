"""Scoring and sampling of any number of rows: by parts, here or on a Ray cluster.

The unit of work is a part: a file of input rows that are scored, or so many rows that are drawn. It
becomes one file of the output folder, computed by one thread in batches of one size, so that its
numbers are the same to the last digit wherever and beside whatever it is computed.

FOLDER/
    parts.json              what the parts are of: model, settings, inputs; other parts are refused
    part-00000.parquet ...  one file for each part that is finished, written beside and renamed
    .partial/               those that are not
"""

from diffeo.scale.ray import Cluster
from diffeo.scale.running import Outcome
from diffeo.scale.sampling import sample_parts
from diffeo.scale.scoring import score_parts

__all__ = ["Cluster", "Outcome", "sample_parts", "score_parts"]
