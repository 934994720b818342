"""Fit a model of a mixed table: marginals, mixtures, networks, and their weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from diffeo.data import Split
from diffeo.mixed.gaussian_fit import fit_gaussians, held_out
from diffeo.mixed.gaussians import GaussianMembers
from diffeo.mixed.marginal_fit import fit_marginals
from diffeo.mixed.marginals import Marginals
from diffeo.mixed.members import Sizes
from diffeo.mixed.networks import NetworkMembers
from diffeo.mixed.rows import Layout, Rows
from diffeo.mixed.scores import logistic_scores
from diffeo.models.mixed import MixedFlow
from diffeo.schema import Schema
from diffeo.training.bag import Bag, BestWeights, input_noise, pack
from diffeo.training.loop import Observer, Training
from diffeo.training.options import OptimizerOptions, TrainerOptions
from diffeo.training.regressors import Learner
from diffeo.training.threads import Threads
from diffeo.utils.machine import Device, one_thread

FEW, MANY = 1_500, 5_000  # rows: fewer need no networks, but for dates; more have small folds
FOLDS = 5  # each of which one member leaves out
SMALL_FOLDS = 10  # of many rows, of which two are left out
MIXTURE_ROWS, STACK_ROWS = 6_000, 5_000  # at most, for mixtures and for weights
STACK_STEPS = 100
BATCH = 256  # rows of a step, by default: of many rows too, since larger ones overfit sooner
NONE = 1e-3  # weight of plain mixtures, and of networks, below which they are left out


def threads_for(rows: int) -> AbstractContextManager[None]:
    """One thread where rows are few and networks small, all threads where rows are many."""
    return one_thread() if rows < MANY else nullcontext()


@dataclass
class Settings:
    """How a model of a mixed table is learned; None is what suits the number of rows.

    Args:
        networks: how many members are networks.
        hidden: width of the networks.
        blocks: residual blocks of the networks.
        components: of the distributions that networks predict.
        bins: how many bins networks see each number in.
        steps: most steps of Adam.
        batch_size: rows of a step.
        lr: largest learning rate.
        patience: stop after so many steps without a better held-out likelihood.
        l2: penalty on the weights of networks.
        noise: standard deviation of noise on what networks see, at first; it falls to 0.
        device: where networks learn.
        observers: follow the training of the networks.
    """

    networks: int | None = None
    hidden: int | None = None
    blocks: int = 2
    components: int = 12
    bins: int = 24
    steps: int | None = None
    batch_size: int | None = None
    lr: float = 1e-2
    patience: int | None = None
    l2: float = 0.0
    noise: float = 0.05
    device: Device = "auto"
    observers: Sequence[Observer] = ()


def fit_mixed(
    schema: Schema,
    x: Tensor,
    *,
    conditions: Schema | None = None,
    context: Tensor | None = None,
    weights: Tensor | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Fitted:
    """Learn the density of rows x `(n, columns)`, float64, given context `(n, conditions)`.

    Each member leaves out one fold of the rows. Marginals are those of all rows; the components of
    mixtures, the weights of networks and those of the members are chosen by rows that were left
    out. Where that is better, networks get no weight.

    Args:
        schema: of x.
        conditions: the schema of the context.
        weights: how much each row counts `(n,)`.
        seed: of folds, first weights and batches.
        settings: how.
    """
    settings = settings or Settings()
    given = () if conditions is None else conditions.modelled
    columns = [*given, *schema.modelled]
    table = x if context is None else torch.cat((context, x), 1)
    n = len(table)
    layout = Layout(columns, range(len(given)))
    members = FOLDS if n < MANY else 2
    folds = _folds(n, FOLDS if n < MANY else SMALL_FOLDS, seed)
    count = settings.networks
    if count is None:
        # Mixtures do not know that dates have seasons.
        count = 0 if (n < FEW and not layout.cycles) or len(columns) < 2 else members
    # Rows that a member of each kind left out.
    held = (folds < min(members, count or members)).nonzero()[:, 0]
    held = held[_part(len(held), STACK_ROWS, seed)]
    part = _part(n, MIXTURE_ROWS, seed)
    kinds = []
    for plain in (False, True):
        marginals = fit_marginals(layout.kinds, table[:, layout.numbers], weights, plain=plain)
        rows = layout.rows(marginals, table)
        single = rows.to(torch.float32)
        some = None if weights is None else weights[part]
        mixtures = fit_gaussians(single.take(part), layout, folds[part], members, some, len(given))
        left_out = held_out(mixtures, single.take(held), layout, folds[held], len(given))
        # Their marginals have learned these rows too.
        gained = marginals.gained(table[:, layout.numbers])[held]
        gained = gained[:, [i >= len(given) for i in layout.numbers]].sum(1)
        left_out = left_out - gained
        kinds.append(Kind(marginals, mixtures, rows, left_out, gained))
    first, plain_kind = kinds
    sizes = Sizes(
        levels=first.marginals.values.shape[1],
        pieces=first.marginals.ends.shape[1] - 1,
        mixtures=members,
        mixture=first.mixtures.log_w.shape[1],
        networks=count,
        hidden=settings.hidden or (64 if n < MANY else 128),
        blocks=settings.blocks,
        components=settings.components,
        bins=settings.bins,
    )
    networks = best = regressors = None
    log_p = [first.held_out, plain_kind.held_out]
    if count:
        if n >= MANY:
            learns = folds >= members  # the rows that all networks learn from
            regressors = Learner(
                layout, first.marginals, table, learns, len(given), weights, seed
            ).find()
            expected = regressors(first.marginals, table)
            first = first._replace(rows=first.rows.having(expected=expected))
            sizes = replace(sizes, expected=regressors.targets, inputs=regressors.inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # which first weights are drawn from
            networks = NetworkMembers(
                columns,
                range(len(given)),
                count,
                sizes.hidden,
                sizes.blocks,
                sizes.components,
                sizes.expected,
                sizes.bins,
            )
        best = _train(networks, first.rows, folds, weights, len(given), seed, settings)
        log_p.append(best.held_out(held) - first.gained)
    shares = _stack(torch.stack(log_p).double(), None if weights is None else weights[held])
    if shares[1] > NONE:
        plain_mixture = plain_kind.mixtures.log_w.shape[1]
        sizes = replace(sizes, plain=members, plain_mixture=plain_mixture)
    if count and settings.networks is None and shares[2] <= NONE:
        sizes = replace(sizes, networks=0, expected=(), inputs=())
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, to be replaced
        flow = MixedFlow(schema, sizes, conditions=conditions)
    stack = flow.stack
    stack.marginals.load_state_dict(first.marginals.state_dict())
    stack.gaussians.load_state_dict(first.mixtures.state_dict())
    each = [shares[0] / members] * members
    if networks is not None and stack.networks is not None:
        stack.networks.load_state_dict(networks.state_dict())
        if stack.regressors is not None and regressors is not None:
            stack.regressors.load_state_dict(regressors.state_dict())
        each += [shares[2] / count] * count
    if stack.plain_marginals is not None and stack.plain_gaussians is not None:
        stack.plain_marginals.load_smaller(plain_kind.marginals)
        stack.plain_gaussians.load_state_dict(plain_kind.mixtures.state_dict())
        each += [shares[1] / members] * members
    stack.log_w.copy_(torch.tensor(each).clamp(min=1e-12).log().log_softmax(0))
    terms = torch.stack(log_p).double() + torch.tensor(shares).double().log()[:, None]
    left_out = terms.logsumexp(0) - stack.log_widths(first.rows.empty[held])
    flow.double()
    stack.normalize()  # what was normalized in float32
    return Fitted(flow.eval(), held, left_out, best)


class Kind(NamedTuple):
    """Mixtures of the scores of some marginals.

    Attributes:
        marginals: of the numbers.
        mixtures: of their scores.
        rows: of the table on their scale.
        held_out: the log-probability of rows under the mixtures that left them out.
        gained: what marginals gained by learning these rows.
    """

    marginals: Marginals
    mixtures: GaussianMembers
    rows: Rows
    held_out: Tensor
    gained: Tensor


@dataclass
class Fitted:
    """A model, and how it was learned.

    Attributes:
        flow: the model.
        held_out_rows: rows that some member left out, at most 5,000.
        held_out: the log-probability of each of them under the members that left it out.
        best: the weights of the networks that were chosen, or None without networks.
    """

    flow: MixedFlow
    held_out_rows: Tensor
    held_out: Tensor
    best: BestWeights | None


def _folds(n: int, count: int, seed: int) -> Tensor:
    order = torch.randperm(n, generator=Generator().manual_seed(seed))
    return order * count // n


def _part(n: int, most: int, seed: int) -> Tensor:
    """At most so many rows, drawn at random."""
    if n <= most:
        return torch.arange(n)
    return torch.randperm(n, generator=Generator().manual_seed(seed + 1))[:most].sort().values


def _stack(log_p: Tensor, weights: Tensor | None) -> list[float]:
    """The weights of members with which rows `(members, n)` are likeliest, by EM.

    (Smyth & Wolpert 1999)
    """
    rows = torch.ones_like(log_p[0]) if weights is None else weights.to(log_p)
    w = torch.full_like(log_p[:, 0], 1 / len(log_p))
    for _ in range(STACK_STEPS):
        shares = (log_p + w.log()[:, None]).softmax(0)
        w = (shares * rows).sum(1) / rows.sum()
    return [float(part) for part in w]


def _train(
    networks: NetworkMembers,
    rows: Rows,
    folds: Tensor,
    weights: Tensor | None,
    ignored: int,
    seed: int,
    settings: Settings,
) -> BestWeights:
    """Train networks, each on the rows of the other folds, and take the best weights."""
    scores = logistic_scores(rows.scores)
    networks.start(rows, scores)
    packed = pack(folds, rows, scores)
    n, count = len(packed), networks.members
    bag: Any = Bag(networks, packed.shape[1], ignored)
    steps = settings.steps or round(15 * n**0.6)
    held = (folds < count).nonzero()[:, 0]
    held = held[_part(len(held), STACK_ROWS, seed)]
    best = BestWeights(bag, packed, settings.patience or max(1, steps // 6))
    w = None if weights is None else (weights / weights.mean()).float()
    Training(
        bag,
        Split(packed, None, w),
        Split(packed[held], None, None if w is None else w[held]),
        optimizer=OptimizerOptions(settings.lr, settings.l2, ema=0.99),
        options=TrainerOptions(batch_size=settings.batch_size or BATCH, device=settings.device),
        seed=seed,
        observers=[Threads(), best, *settings.observers],
        augment=input_noise(len(networks.layout.numbers), settings.noise),
        steps=steps,
        every=max(1, steps // 20),
    ).run()
    bag.load_state_dict(best.state)
    bag.cpu().eval()
    return best
