"""Scikit-learn estimators: the density of a table, and its outliers. They train in memory.

>>> from sklearn.datasets import load_iris
>>> from diffeo.sklearn import FlowDensity
>>> X = load_iris().data
>>> density = FlowDensity(max_iter=20, random_state=0).fit(X)
>>> density.score_samples(X).shape  # nats, in the units of X
(150,)
>>> density.sample(3, random_state=0).shape
(3, 4)
"""

from diffeo.sklearn.density import FlowDensity
from diffeo.sklearn.detector import FlowOutlierDetector

__all__ = ["FlowDensity", "FlowOutlierDetector"]
