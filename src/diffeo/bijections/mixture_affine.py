"""The univariate map of Flow++: the distribution function of a mixture, then scale and shift."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from diffeo.bijections.mixture_cdf import MixtureCDF
from diffeo.bijections.quantiles import Shape
from diffeo.bijections.univariate import Affine, Univariate
from diffeo.utils.ranges import Count, Positive


class MixtureAffine(Univariate):
    """The quantile of noise that has the probability of x under a mixture, scaled and shifted.

        y = exp(s) G^-1(F(x)) + t,   F(x) = sum_k w_k G((x - m_k) / s_k)
        log dy/dx = s + log F'(x) - log g(G^-1(F(x)))

    where G is the logistic distribution function, so that G^-1 is the logit. The mixture alone
    (`MixtureCDF`) makes noise of what it knows the distribution of; scaled and shifted, it may hand
    on to the next coupling whatever suits that.

    Parameters of an element: those of the mixture, 3 K, and then those of an `Affine`, 2. The
    inverse is Newton's method in a bracket.

    Args:
        components: their number K; an element has 3 K + 2 parameters.
        bound: the largest |s| (see `Affine`).
        shape: of the components, whose distribution function is G.

    (Ho et al. 2019, section 3.2)
    """

    cheap_inverse = False

    def __init__(
        self, components: Count = 8, bound: Positive = 3.0, shape: Shape = "logistic"
    ) -> None:
        super().__init__()
        self.mixture: MixtureCDF = MixtureCDF(components, shape)
        self.affine: Affine = Affine(bound)
        self.parameters_each: int = self.mixture.parameters_each + self.affine.parameters_each

    def forward(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        of_mixture, of_affine = self._divide(x, parameters)
        y, first = self.mixture(x, of_mixture)
        y, second = self.affine(y, of_affine)
        return y, first + second

    def inverse(self, y: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        of_mixture, of_affine = self._divide(y, parameters)
        x, first = self.affine.inverse(y, of_affine)
        x, second = self.mixture.inverse(x, of_mixture)
        return x, first + second

    def _divide(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """The parameters of either part."""
        each = self.mixture.parameters_each, self.affine.parameters_each
        of_mixture, of_affine = parameters.split([n * x.shape[1] for n in each], dim=1)
        return of_mixture, of_affine

    @classmethod
    def examples(cls) -> Iterable[Univariate]:
        return cls(3), cls(2, shape="normal")
