"""Scoring and sampling of any number of rows, part by part, in this process or on a Ray cluster.

The unit of work is a part: a file of input rows to score, or a number of rows to sample. It becomes
one file of the output folder, computed by one thread in batches of one size, so that its numbers
are the same to the last digit wherever it is computed.

FOLDER/
    parts.json              model, settings and inputs of the parts; others are refused
    part-00000.parquet ...  one file for each finished part, written elsewhere and renamed
    .partial/               those that are not
"""

from diffeo.scale.job import Outcome
from diffeo.scale.ray import Cluster
from diffeo.scale.sampling import sample_parts
from diffeo.scale.scoring import score_parts

__all__ = ["Cluster", "Outcome", "sample_parts", "score_parts"]
