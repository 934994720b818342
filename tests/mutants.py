"""Put one error at a time into a copy of the source, and see whether the tests notice.

Run `python tests/mutants.py`, or with `--small` for a dozen. It fails if a test run stays green on
a wrong source, or if a line that is to be changed is no longer there. No file here is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Imported here, for all: what is slow to import and is not under test.
import beartype  # noqa: F401
import huggingface_hub  # noqa: F401
import hypothesis  # noqa: F401
import jaxtyping  # noqa: F401
import pytest
import safetensors.torch  # noqa: F401
import scipy.stats  # noqa: F401
import torch

ROOT = Path(__file__).resolve().parents[1]
CONFORMANCE, FLOW = "tests/test_conformance.py", "tests/test_flow.py"
PIXELS = "tests/test_pixels.py"


@dataclass(frozen=True)
class Mutant:
    """Replace the `nth` occurrence of `old` in a file by `new`, and run the chosen tests."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    nth: int = 0
    small: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} [{self.nth}] -> {self.new!r}"


def on(file: str, keyword: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth[, small]])` of a file, seen by the tests that match a keyword."""
    for old, new, *rest in changes:
        yield Mutant(file, old, new, (CONFORMANCE, FLOW, PIXELS, "-k", keyword), *rest)


def wrong_log_dets(file: str, keyword: str, *terms: tuple) -> Iterator[Mutant]:
    """Each log-determinant `(old, term[, nth])` doubled, negated, and dropped."""
    for old, term, *rest in terms:
        for wrong in (f"2 * ({term})", f"-({term})", f"0 * ({term})"):
            yield from on(file, keyword, (old, old.replace(term, wrong), *rest))


def learned(*changes: tuple[str, str, str, str]) -> Iterator[Mutant]:
    """Changes `(file, old, new, keyword)`, seen by the tests of whole runs of pictures."""
    for file, old, new, keyword in changes:
        yield Mutant(file, old, new, ("tests/test_image_runs.py", "-k", keyword))


def estimated(*changes: tuple[str, str, str, str]) -> Iterator[Mutant]:
    """Changes `(file, old, new, keyword)` of the estimators, seen by their tests."""
    for file, old, new, keyword in changes:
        yield Mutant(f"sklearn/{file}", old, new, ("tests/test_sklearn.py", "-k", keyword))


def gathered(file: str, test: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new, keyword[, nth])` of a file of data/, seen by the tests of a file."""
    for old, new, keyword, *rest in changes:
        yield Mutant(f"data/{file}", old, new, (f"tests/test_{test}.py", "-k", keyword), *rest)


def explored(file: str, *changes: tuple[str, str, str]) -> Iterator[Mutant]:
    """Changes `(old, new, keyword)` of a file of explorer/, seen by the tests of its controls."""
    for old, new, keyword in changes:
        yield Mutant(f"explorer/{file}", old, new, ("tests/test_explorer.py", "-k", keyword))


def joined(*changes: tuple[str, str, str]) -> Iterator[Mutant]:
    """Changes `(old, new, keyword)` of what several processes do, seen by their tests."""
    for old, new, keyword in changes:
        tests = ("tests/test_two_processes.py", "-k", keyword)
        yield Mutant("training/processes.py", old, new, tests)


def glowing(file: str, keyword: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth[, small]])` of what Glow is made of."""
    tests = ("tests/test_glow.py", CONFORMANCE, "tests/test_layout.py", "-k", keyword)
    for old, new, *rest in changes:
        yield Mutant(file, old, new, tests, *rest)


def moved(file: str, keyword: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth[, small]])` of moving about in latent space."""
    for old, new, *rest in changes:
        yield Mutant(f"latent/{file}", old, new, ("tests/test_latent.py", "-k", keyword), *rest)


def shared(file: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new, keyword[, small])` of what is shared, and of how."""
    for old, new, keyword, *small in changes:
        yield Mutant(file, old, new, ("tests/test_sharing.py", "-k", keyword), 0, *small)


def by_hand(file: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth[, small]])` of what goes back by hand."""
    for old, new, *rest in changes:
        yield Mutant(file, old, new, ("tests/test_backward.py",), *rest)


def finite(file: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new, keyword[, nth[, small]])` of what finds numbers that are not finite."""
    for old, new, keyword, *rest in changes:
        yield Mutant(file, old, new, ("tests/test_numbers.py", "-k", keyword), *rest)


def shown(keyword: str, *changes: tuple[str, str, str]) -> Iterator[Mutant]:
    """Changes `(file, old, new)` of what README and docs/ show, seen by the tests of snippets."""
    for file, old, new in changes:
        yield Mutant(file, old, new, ("tests/test_snippets.py", "-k", keyword))


def handed_on(file: str, test: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new, keyword[, nth[, small]])` of what hands a flow on to other libraries."""
    for old, new, keyword, *rest in changes:
        yield Mutant(file, old, new, (f"tests/test_{test}.py", "-k", keyword), *rest)


def scored(file: str, keyword: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth[, small]])` of scores and of what they are made of."""
    for old, new, *rest in changes:
        yield Mutant(file, old, new, ("tests/test_scores.py", "-k", keyword), *rest)


def survived(file: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new, keyword[, nth[, small]])` of what keeps a run, seen by faults in it."""
    for old, new, keyword, *rest in changes:
        yield Mutant(file, old, new, ("tests/test_training_faults.py", "-k", keyword), *rest)


def by_parts(file: str, *changes: tuple[str, str, str]) -> Iterator[Mutant]:
    """Changes `(old, new, keyword)` of a file of scale/, seen by the tests of parts."""
    for old, new, keyword in changes:
        yield Mutant(f"scale/{file}", old, new, ("tests/test_scale.py", "-k", keyword))


def hostile(file: str, keyword: str, *changes: tuple) -> Iterator[Mutant]:
    """Changes `(old, new[, nth])` of what keeps strangers' files in bounds."""
    for old, new, *rest in changes:
        yield Mutant(file, old, new, ("tests/test_hostile.py", "-k", keyword), *rest)


ELEMENTWISE, BENDS = "bijections/elementwise.py", "bijections/bends.py"
BASE, MIXING, CUTS = "bijections/base.py", "bijections/mixing.py", "bijections/cuts.py"
COUPLING, DOOR = "bijections/coupling.py", "bijections/dequantization.py"
STANDARDIZE = "fitted or Standardize or standardization"
AFFINE = "affine and (jacobians or round_trips)"
NOISE = "grid or noise or door"
JACOBIAN = "jacobians"
DENSITY = "jacobians or scipys or product or integrates"

FLAG = 'self.register_buffer("initialized", torch.tensor(False))'

MUTANTS = [
    # What strangers write.
    *hostile(
        "cli/trust.py",
        "settings_name or typed",
        ('keys[-1] == "class_path" or keys == ["model"]', 'keys[-1] == "class_path"'),
        ('keys[-1] == "class_path" or', "False or"),
        ('if keys[0] in ("config", "preset", "resume"):', "if False:"),
        ("len(keys) == 1 and keys[0] in SECTIONS", "False"),
    ),
    *hostile("cli/overview.py", "unseen", ("allow_abbrev=False", "allow_abbrev=True")),
    *hostile(
        "texts.py",
        "aliases",
        ("sizes.get(event.anchor, MOST_VALUES)", "1"),
        ("len(counts) > DEEPEST or", "False or"),
    ),
    *hostile(
        "budget.py",
        "within_its_weights",
        ("if self.things < 0:", "if False:"),
        ("if numbers > self.numbers:", "if False:"),
    ),
    *hostile("terminal.py", "orders", ('"markup": False', '"markup": True')),
    *hostile(
        "data/bounds.py",
        "lines or unpacks or counted or plain",
        ("if self._line > LONGEST_LINE:", "if False:"),
        ("if self._chunk > LONGEST_CHUNK:", "if False:"),
        ("max(UNPACKED, TIMES * packed)", "UNPACKED"),
        ("if count > MOST_COLUMNS:", "if False:"),
    ),
    *hostile("data/cache.py", "lies", ("known.labels.min() >= -1", "True")),
    *hostile("data/decoding.py", "held", ("_check_size(picture)  # an icon", "# an icon")),
    # What people read.
    *shown("options", ("data/image_options.py", "flip: bool = False", "mirror: bool = False")),
    *shown(
        "glow.md and short",
        ("cli/options.py", '"--temperatures"', '"--heats"'),
        ("cli/latent_options.py", '"--strengths"', '"--amounts"'),
    ),
    *shown(
        "images.md and short",
        ("flow.py", "def split_latents", "def split_levels"),
        ("cli/options.py", '"-n", "--num", type=int, default=64', '"-n", "--num", type=int'),
    ),
    *shown(
        "conditional.md and short",
        ("cli/options.py", '"--label"', '"--class"'),
        ("cli/contexts.py", 'f"label={options.label}"', "options.label"),
    ),
    *shown("names_in_prose", ("memory.py", "def keep_freed_memory", "def keep_memory")),
    # Numbers that are not finite.
    *finite(
        "training/lookout.py",
        ("[self.backward, *weights]", "[*weights, self.backward]", "rebuilt"),
        ("max(found, key", "min(found, key", "of_two"),
        ("first_not_finite(dict(part.named_parameters()))", "None", "weight_that"),
        ("if reach > limit", "if reach > 0", "that_grew"),
        ("if found else self._too_long()", "if found else None", "whose_length"),
        ("x.is_floating_point() and not all_finite([x])", "False", "data_that"),
        ("_tried(copy.deepcopy(flow)", "_tried(flow", "no_trace"),
        ("copy.deepcopy(flow).set_precision(None)", "copy.deepcopy(flow)", "bfloat16_alone"),
    ),
    *finite(
        "bijections/backward.py",
        ("            watched(None),  # what", "            # what", "first_broken"),
        ("ctx.watch.went_back(link, grad)", "pass", "first_broken", 0, True),
        ("ctx.watch.rebuilt(link, stream)", "pass", "rebuilt"),
    ),
    *finite(
        BASE,
        ("watch.passed(link, x, step)", "pass", "first_broken"),
        ("tell_going_back(watch, link, given)", "pass", "first_broken"),
    ),
    *finite(COUPLING, ("watch.passed(self.conditioner, parameters)", "pass", "first_broken")),
    *finite(
        "training/module.py",
        ("if not total.isfinite():", "if False:", "validation_loss"),
        ("        if bad is not None:", "        if False:", "no_checkpoint"),
    ),
    *finite("sharing.py", ("        self._refuse_not_finite(state)\n", "", "not_at_all", 0, True)),
    *finite(
        "flow.py",
        ("log_prob if self.training else _nowhere(log_prob, given, context)", "log_prob", "only"),
        ("lost & ~tensor.flatten(1).isnan().any(1)", "lost", "only_a_nan"),
    ),
    *finite("bijections/convolution.py", ("torch.nan)", "0.0)", "singular")),
    *finite(
        "run/folder.py",
        ("part.is_floating_point() and not all_finite([part])", "False", "leave_float_range"),
    ),
    *finite("cli/shorthand.py", ("value if equals else 'true'", "'true'", "short_form")),
    # What keeps a run through kills, full disks and damage.
    *survived(
        "training/checkpoints.py",
        ("if path == self.good:", "if path.is_file():", "take_the_place"),
        ("if archive.testzip() is not None:", "if False:", "damage_is_noticed", 0, True),
        ("mmap=True, weights_only=True", "mmap=True, weights_only=False", "damage_is_noticed"),
        ("    return before\n", "    return last\n", "damage_is_noticed"),
        ("    if epochs is None:\n", "    if False:\n", "both_are_damaged"),
        ("if Path(path).name == LAST:", "if False:", "was_loaded"),
        ("raise error.__context__ from None", "raise", "one_sentence"),
        ("if value < self.best:", "if True:", "each_epoch"),
        ("return self.earlier + (", "return (", "seconds"),
    ),
    *survived(
        "training/callbacks.py",
        ("trainer.should_stop = self.wait_count >= self.patience", "pass", "each_epoch"),
        ('state_dict | {"patience": self.patience}', "state_dict", "each_epoch"),
        ("        if self.rows:\n            self._write()", "        pass", "metrics_are"),
        ('[self.state_key]["best"] != self.best', '["best"] is None', "taken_from"),
        ("raise OSError(reason.errno, reason.strerror, self.log_dir.rstrip(\"/\"))", "raise reason",
         "one_sentence"),
    ),
    *survived(
        "run/learning.py",
        ("held.enter_context(lock)", "pass", "share_a_folder"),
        ('if not path.name.startswith(".")', "", "nobodys_way"),
        ("partial.unlink()", "pass", "nobodys_way"),
        ("error.filename or folder", "folder", "one_sentence"),
    ),
    *survived(
        "cli/stopping.py",
        ("if now - self.heard < ONE_STOP:", "if False:", "two_signals"),
        ("128 + number", "128 + signal.SIGINT", "stop_says"),
        ("if signal.getsignal(number) is not signal.SIG_IGN:", "if True:", "is_ignored"),
        ("signal.signal(number, handler)", "pass", "stop_says"),
    ),
    *survived("beside.py", ("error.filename = str(path)", "pass", "name_of_the_file")),
    *survived("storage.py", ("if number is None:", "if True:", "safetensors")),
    # Estimators of tables, and the links that only they use so far.
    *estimated(
        ("density.py", "self.score_samples(X, y).mean()", "self.score_samples(X, y).sum()", "mean"),
        ("density.py", "temperature=temperature", "temperature=1.0", "temperature"),
        ("learning.py", "math.sqrt(1 - noise**2) * (", "(", "noise_leaves"),
        ("learning.py", "noise * spread * e", "noise * e", "noise_spares"),
        ("learning.py", "torch.set_num_threads(before)", "pass", "global"),
        ("learning.py", "averaged.load_state_dict(kept)", "pass", "keeps_the_best"),
        ("learning.py", "torch.manual_seed(seed)", "pass", "global"),
        ("learning.py", "torch.random.fork_rng(devices=[])", "torch.enable_grad()", "global"),
        ("learning.py", "step - best_step < settings.patience", "True", "stops"),
        ("learning.py", "[loss - entry for", "[loss + entry for", "keeps_the_best"),
        ("start.py", "bend_marginals(bend, x)", "pass", "skewed"),
        ("start.py", "whiten.fit(mean, covariance)", "pass", "before_the_first"),
        ("tables.py", "table[self._others(names)]", "table[names]", "by_name"),
        ("tables.py", "columns=self._others(names)), frame], axis=1)[names]",
         "columns=self._others(names)), frame], axis=1)", "by_name"),
        ("detector.py", "100 * share", "50 * share", "contamination"),
        ("detector.py", "(held_out, ~held_out)", "(~held_out, held_out)", "typicality"),
    ),
    *wrong_log_dets(
        "bijections/sinh_arcsinh.py",
        "SinhArcsinh and jacobians",
        ("return y, steps.sum(1)", "steps.sum(1)"),
        ("return x, steps.sum(1)", "steps.sum(1)"),
    ),
    *wrong_log_dets(
        "bijections/whitening.py",
        "Whiten and jacobians",
        ("return y, -self._log_det(x)", "-self._log_det(x)"),
        ("self.root.T + self.mean, self._log_det(y)", "self._log_det(y)"),
    ),
    # Gradients by hand, and those of what is rebuilt.
    *by_hand(
        "bijections/backward.py",
        ("self[tensor] = self[tensor] + gradient", "self[tensor] = gradient", 0, True),
        ("gradient is None or not tensor.requires_grad", "gradient is None"),
        ("module._forward_hooks or", ""),
        ("kept = link.note()", "kept = None"),
        ("if again and not _are_those_of(ctx.links, weights):", "if False:"),
        ("if again and ctx.modes != [link.training for link in ctx.links]:", "if False:"),
        ("again = ctx.rebuilt or torch.is_grad_enabled()", "again = torch.is_grad_enabled()"),
        ("                start = x\n", ""),
        ("        if torch.is_grad_enabled():\n", "        if False:\n"),
        ("retain_graph=True, allow_unused=True", "allow_unused=True"),
        ("_state.rebuilding = True", "_state.rebuilding = False", 0, True),
        ("leaf = context.detach().requires_grad_()", "leaf = context.detach()"),
    ),
    *by_hand(
        "bijections/backward.py",
        ("torch.mul(a, b, out=self.places[tensor])", "self.places[tensor].copy_(a)"),
        ("self.places[tensor].copy_(gradient)", "gradient"),
    ),
    *by_hand(
        "bijections/together.py",
        ("None if torch.is_grad_enabled() else ", ""),
        ("(type(module), dtype, likeness)", "(type(module), dtype, 0)"),
        ("_state.prepared = before", "pass"),
    ),
    *by_hand(
        BASE,
        ("link.alone or hooked(link)", "link.alone"),
        ("memory=self.memory)", "memory='stored')"),
        ("range(0, len(links), LINKS)", "range(0, LINKS, LINKS)"),
        ("self.memory, max(0, keeps))", "self.memory, 99)"),
    ),
    *by_hand(
        COUPLING,
        ("merge(kept, bent), log_det", "merge(kept, bent), -log_det", 2),
        ("by_kept + steered", "by_kept", 0, True),
        ("by_kept + steered", "steered"),
        ("and not hooked(conditioner)", ""),
    ),
    *by_hand(
        BENDS,
        ("(y - shift).div_(scale)", "(y + shift).div_(scale)"),
        (".mul_(4)", ".mul_(2)", 0, True),
        ("grad_log_det.view(-1, *[1] * (x.ndim - 1))", "0 * grad"),
        ("atomic_write((by_raw, grad))", "atomic_write((grad, by_raw))"),
        ("return y - parameters, None", "return y + parameters, None"),
    ),
    *by_hand(
        MIXING,
        ("return _reordered(grad, self.undo)", "return _reordered(grad, self.order)"),
        ("return _reordered(y, self.undo), None", "return _reordered(y, self.order), None"),
    ),
    *by_hand(
        "bijections/checkerboard.py",
        ("torch.where(self.mask(kept).bool(), kept, bent)", "kept + bent"),
    ),
    *by_hand(
        "bijections/normalization.py",
        ("        if rebuilding():\n            return\n", ""),
        ("self.last_mean.copy_(note[0])", "pass"),
    ),
    *by_hand(
        "bijections/convolution.py",
        ("torch.addcmul(by_weight, by_bias[:, :, None], shift[:, None])", "by_weight"),
        ("(by_weight * weight).sum(1) + by_log_det", "(by_weight * weight).sum(1)", 0, True),
        ("by_log_factor * ActNorm.SPEED", "by_log_factor"),
        ("by_weight * factor[:, None])", "by_weight)"),
        ("not isinstance(kept[1], _Affine)", "not self._by_hand()"),
        (".tril_(-1)", ".tril_()"),
        ("by_upper.triu(1)", "by_upper.triu()"),
        ("torch.addcmul(by_log_det, by_diagonal", "torch.mul(by_diagonal"),
        ("return _mix(grad, ready.weight.T)", "return _mix(grad, ready.weight)"),
        ("-self.bias.double()", "self.bias.double()"),
        ("grad_log_det.sum() * pixels.shape[2]", "grad_log_det.sum()"),
        ("torch.bmm(by_bias[:, None], weight)[:, 0]", "by_bias"),
    ),
    *by_hand(
        "networks/glow.py",
        ("if i > 0:\n            # ReLU", "if False:\n            # ReLU", 0, True),
        ("torch.addcmul(by_factor, by_offset, bias)", "by_factor"),
        ("mul_(factor * ActNorm.SPEED)", "mul_(factor)"),
        ("for *_, bias in layers), by_offset * factor", "for *_, bias in layers), by_offset"),
        ("by_input[:, width:].sum((2, 3))", "by_input[:, width:].mean((2, 3))"),
        ("a.to(grad.dtype) + b for", "b for"),
        ("        if len(raws) == 1:  # large ones", "        if True:"),
        (".flip(0, 1)", ""),
        ("weight.flip(1, 2)", "weight"),
        ("by_bias.view(9, o)[4]", "by_bias.view(9, o)[3]"),
        ("x.shape[1] >= 256", "x.shape[1] >= 1024"),
    ),
    *by_hand(
        "networks/mlp.py",
        ("h.relu_() if inputs else h", "h"),
        ("by_h.sum(1)", "by_h.mean(1)"),
        ("            if after is not None:\n", "            if False:\n"),
        ("torch.is_grad_enabled() or not ordinary()", "torch.is_grad_enabled()"),
        ("found.add(context, by_h[width:].t())", "pass"),
    ),
    *by_hand(
        "networks/products.py",
        (".add_(bias[:, None])", ""),
        ('bias, "relu"', 'bias, "none"'),
        ("rows, weight.t()).relu_()", "rows, weight.t())"),
        ("weight.t().contiguous(), grad.t()", "weight.t().contiguous(), -grad.t()"),
        ("_linear_pointwise(grad, h,", "_linear_pointwise(grad, -h,"),
        ("and big.dtype == other.dtype == torch.float32", ""),
    ),
    # Every log-determinant.
    *wrong_log_dets(
        ELEMENTWISE,
        "(Standardize or Scale) and jacobians",
        (", -self.std.log().sum().expand(x", "-self.std.log().sum()"),
        (", self.std.log().sum().expand(y", "self.std.log().sum()"),
        (", self.log_scale.sum().expand(x", "self.log_scale.sum()"),
        (", -self.log_scale.sum().expand(y", "-self.log_scale.sum()"),
    ),
    *wrong_log_dets(
        BENDS,
        AFFINE,
        (", log_scale.flatten(1).sum(1)", "log_scale.flatten(1).sum(1)"),
        (", -log_scale.flatten(1).sum(1)", "-log_scale.flatten(1).sum(1)"),
    ),
    *on(BENDS, "additive and away", ("x.new_zeros", "x.new_ones"), ("y.new_zeros", "y.new_ones")),
    *on(
        MIXING,
        "(reverse or shuffle) and away",
        ("x.new_zeros", "x.new_ones"),
        ("y.new_zeros", "y.new_ones"),
    ),
    *wrong_log_dets(
        COUPLING,
        AFFINE,
        ("merge(kept, bent), log_det", "log_det", 0),
        ("merge(kept, bent), log_det", "log_det", 1),
    ),
    *on(
        BASE,
        "Chain or chain or nested",
        ("log_det = log_det + step", "log_det = step", 0),
        ("log_det = log_det + step", "log_det = step", 1, True),
        ("log_det = log_det + step", "log_det = step", 2),
        ("log_det = log_det + step", "log_det = step", 3),
        ("log_det = log_det + step", "log_det = log_det - step", 0),
        ("log_det = log_det + step", "log_det = log_det - step", 1),
        ("log_det = log_det + step", "log_det = log_det - step", 2),
        ("log_det = log_det + step", "log_det = log_det - step", 3, True),
        ("log_det = log_det + step", "log_det = log_det + 2 * step", 0),
        ("log_det = log_det + step", "log_det = log_det + 2 * step", 1),
        ("log_det = log_det + step", "log_det = log_det + 2 * step", 2),
        ("log_det = log_det + step", "log_det = log_det + 2 * step", 3),
        ("x.new_zeros(x.shape[0])", "x.new_ones(x.shape[0])"),
        ("y.new_zeros(y.shape[0])", "y.new_ones(y.shape[0])"),
    ),
    # The density.
    *on(
        "flow.py",
        DENSITY,
        ("_base_log_prob(z) + log_det", "_base_log_prob(z)", 0, True),
        ("_base_log_prob(z) + log_det", "_base_log_prob(z) - log_det"),
        ("_base_log_prob(z) + log_det", "_base_log_prob(z) + 2 * log_det", 0, True),
        ("_base_log_prob(z) + log_det", "log_det"),
        ("-0.5 * (z.square()", "-(z.square()"),
        ("-0.5 * (z.square()", "0.5 * (z.square()"),
        ("z.shape[1] * math.log(2 * math.pi)", "math.log(2 * math.pi)"),
        ("math.log(2 * math.pi)", "math.log(math.pi)"),
        (" + z.shape[1] * math.log(2 * math.pi)", ""),
        ("z.square().sum(1)", "z.abs().sum(1)"),
        ("F.softplus(z) + F.softplus(-z)", "F.softplus(z) + F.softplus(z)"),
        ("F.softplus(z) + F.softplus(-z)", "F.softplus(-z)"),
        ("-(F.softplus(z)", "(F.softplus(z)"),
        ("F.softplus(-z)).sum(1)", "F.softplus(-z)).mean(1)"),
    ),
    # Directions and orders.
    *on(
        BASE,
        "Inverse or nested",
        ("return self.bijection.inverse(x, context)", "return self.bijection(x, context)", 0, True),
        ("return self.bijection(y, context)", "return self.bijection.inverse(y, context)"),
        ("return self.bijection.inverse(x, context)", "return self.bijection.inverse(x)"),
        ("return self.bijection(y, context)", "return self.bijection(y)"),
    ),
    *on(
        BASE,
        "Chain or chain or nested or shapes or latents",
        ("for link in links:", "for link in reversed(links):"),
        ("for link in reversed(self.links):", "for link in self.links:", 0, True),
        ("link(x, context)", "link(x)"),
        ("link.inverse(y, context)", "link.inverse(y)"),
        ("link.inverse(y, context)", "link(y, context)"),
    ),
    *on(
        MIXING,
        "shuffle or permuted",
        ("_reordered(x, self.order)", "_reordered(x, self.undo)", 0, True),
        ("_reordered(y, self.undo), y", "_reordered(y, self.order), y"),
        ("x.index_select(1, order)", "x"),
        ("permutation.undo = undo", "pass"),
        ("index.argsort()", "index"),
        ('self.register_buffer("order", index)', "self.order = index"),
        ('self.register_buffer("undo", index.argsort(), persistent=False)',
         "self.undo = index.argsort()"),
    ),
    *on(
        CUTS,
        "affine or additive or odd_width",
        ('(first, second) if self.keep == "first" else (second, first)', "(first, second)"),
        ('(kept, bent) if self.keep == "first" else (bent, kept)', "(kept, bent)", 0, True),
        ("self.first = features // 2", "self.first = (features + 1) // 2"),
        ("self.kept, self.bent = self.bent, self.kept", "pass"),
    ),
    *on(
        COUPLING,
        "(affine or additive) and (round_trips or jacobians or context)",
        ("self.bend(bent, self._par", "self.bend.inverse(bent, self._par"),
        ("self.bend.inverse(bent, self._par", "self.bend(bent, self._par", 0, True),
        ("self.conditioner(kept, context)", "self.conditioner(bent, context)", 0),
        ("self.conditioner(kept, context)", "self.conditioner(kept, context * 0)", 0),
    ),
    *on(
        BENDS,
        "affine or additive or bend or known",
        ("x + parameters", "x"),
        ("y - parameters", "y + parameters"),
        ("torch.addcmul(shift, x, log_scale.exp())", "x * log_scale.exp() - shift"),
        ("torch.addcmul(shift, x, log_scale.exp())", "x * (1 + log_scale) + shift"),
        ("(y - shift) * (-log_scale).exp()", "y * (-log_scale).exp() - shift"),
        ("(y - shift) * (-log_scale).exp()", "(y - shift) * log_scale.exp()"),
        ("gate * (2 * self.bound) - self.bound", "gate", 0, True),
        ("raw * (2 / self.bound)", "raw"),
        ("x + parameters", "x.add_(parameters)"),
    ),
    # Standardization.
    *on(
        ELEMENTWISE,
        STANDARDIZE,
        ("torch.std_mean(x.double()", "torch.var_mean(x.double()"),
        ("correction=0", "correction=1", 0, True),
        (FLAG, "self.initialized = torch.tensor(False)"),
        (FLAG, FLAG[:-1] + ", persistent=False)", 0, True),
        ("self.initialized.fill_(True)", "pass"),
        ("self.training and not self.initialized", "not self.initialized"),
        ("self.training and not self.initialized", "self.training"),
        ("self.mean.copy_(mean)", "pass"),
        ("self.std.copy_(std)", "pass"),
        ("(x - self.mean) / self.std", "x / self.std - self.mean"),
        ("y * self.std + self.mean", "(y + self.mean) * self.std"),
    ),
    *on(
        ELEMENTWISE,
        "Scale",
        ("x * self.log_scale.exp()", "x * (-self.log_scale).exp()"),
        ("y * (-self.log_scale).exp()", "y * self.log_scale.exp()"),
    ),
    # Sampling and latents.
    *on(
        "flow.py",
        "sample or temperature or steers or fit or law or base or context or axes",
        (" * temperature, context", ", context", 0, True),
        (" * temperature, context", " * (temperature or 1.0), context"),
        (" * temperature, context", " * temperature**2, context"),
        ("z.normal_(generator=generator)", "z.normal_()"),
        ("z.uniform_(generator=generator)", "z.uniform_()"),
        ("z.normal_(generator=generator)", "z.uniform_(generator=generator)"),
        (".logit()", ".log()"),
        ("self.bijection(x, context)[0]", "self.bijection(x, None)[0]"),
        ("self.bijection.inverse(z, context)", "self.bijection.inverse(z, None)"),
        ("self.bijection(x, context)[0]", "self.bijection.inverse(x, context)[0]"),
        ("self.bijection.inverse(z, context)", "self.bijection(z, context)"),
        ("z, log_det = self.bijection(x, context)", "z, log_det = self.bijection(x, None)"),
        ("shape != (rows, self.context_features)", "shape is None"),
        ("value.dtype != dtype", "False"),
        ("tuple(x.shape[1:]) != self.shape", "False"),
        ("z.ndim != 2 or z.shape[1] != self.dims", "False"),
        ("if context is not None:\n                raise", "if False:\n                raise"),
    ),
    *on(
        "flow.py",
        "standardization or steers or shapes",
        ("context, _ = self.context_encoder(context)", "pass"),
        ("return self.train(was_training)", "return self"),
        ("        self.train()\n", ""),
    ),
    *on(
        "networks/mlp.py",
        "context or gradients",
        ("torch.cat((x, context), dim=1)", "torch.cat((x, 0 * context), dim=1)"),
        ("nn.ReLU()", "nn.Dropout()"),
    ),
    # The door.
    *on(
        "flow.py",
        NOISE,
        ("x if self.dequantizer is None else self.dequantizer.inverse(x)", "x", 0, True),
        ("log_prob + entry", "log_prob"),
        ("log_prob + entry", "log_prob - entry"),
        ("x, _ = door(x) if generator is None else door.noisy(x, generator)", "pass"),
        ("self.dequantizer.noisy(x, generator)", "self.dequantizer.noisy(x)"),
        ("self.dequantizer.noisy(x, generator)", "self.dequantizer(x)"),
    ),
    *on(
        DOOR,
        NOISE,
        ("(u - 0.5)", "u"),
        ("(u - 0.5)", "2 * (u - 0.5)"),
        ("x.new_tensor(self.steps) * (u", "(u"),
        (".round()", ".floor()"),
        ("(y - self.offset) / step", "y / step"),
        ("self.offset + step * cells", "step * cells"),
        ("grid.to(y.dtype), y)", "grid.to(y.dtype), y * 0)"),
        (FLAG, FLAG[:-1] + ", persistent=False)"),
        ("x.new_zeros(x.shape[0])", "x.new_ones(x.shape[0])"),
    ),
    # Precision and layout.
    *(
        Mutant(file, old, new, ("tests/test_layout.py", "-k", keyword))
        for file, old, new, keyword in (
            ("bijections/normalization.py", "scale**-2 - self.eps", "scale**-2 + 0.1", "formula"),
            ("bijections/normalization.py", "scale**-2 - self.eps", "scale", "formula"),
            ("bijections/normalization.py", "True, 0.0, self.eps", "True, 0.0, 0.1", "formula"),
            ("bijections/normalization.py", "if _processes() > 1", "if False", "two_processes"),
            ("bijections/normalization.py", "square().mean(dim=axes)) / processes",
             "square().mean(dim=axes))", "two_processes"),
            ("bijections/coupling.py", ".to(kept.dtype)", "", "precision or bfloat16"),
            ("bijections/coupling.py", "if self.precision is None", "if True", "bfloat16"),
        )
    ),
    # Bits and learning.
    *learned(
        ("evaluation.py", "bit = flow.nats_per_bpd", "bit = flow.dims", "run_folder"),
        ("evaluation.py", "logsumexp(0) - math.log(samples)", "logsumexp(0)", "tighter"),
        ("flow.py", "norm.restart()", "pass", "recalibration_makes"),
        ("training/module.py", "flow.nats_per_bpd if", "flow.dims if", "loss_in"),
        ("training/steps.py", "not name.endswith(DIRECTION)", "True", "l2_presses"),
    ),
    Mutant(
        "precision.py",
        "and flow.takes_pixels and",
        "and",
        ("tests/test_precision.py", "-k", "auto_trains"),
    ),
    Mutant(
        "precision.py",
        'if precision == "bf16" else',
        'if precision != "float32" else',
        ("tests/test_precision.py", "-k", "unless"),
    ),
    *(
        Mutant(file, old, new, ("tests/test_training_memory.py", "-k", keyword))
        for file, old, new, keyword in (
            ("training/memory.py", "(batch_size - FEW) *", "batch_size *", "grows"),
            ("training/memory.py", "few + (batch_size", "(batch_size", "near or grows"),
            ("training/memory.py", "SHARE = 0.5", "SHARE = 0.6", "more_than_half"),
            ("training/memory.py", "free_memory(device) / processes", "free_memory(device)",
             "more_than_half"),
            ("training/memory.py", "if not storage.expired()", "", "near"),
            ("training/memory.py", 'memory="constant") < stored', 'memory="constant") < 2 * stored',
             "nothing_would_be_spared"),
            ("memory.py", "- torch.cuda.memory_allocated(device)", "", "gpu"),
            ("memory.py", '["MemAvailable"] * 1024', '["MemAvailable"]', "least"),
            ("memory.py", "- _table(CGROUPS / stat).get(cache, 0)", "", "least"),
            ("memory.py", "bool(trim(0))", "True", "gives_freed"),
        )
    ),
    Mutant(
        "training/module.py",
        "before = self.global_rank * rows * self.flow.dims",
        "before = 0",
        ("tests/test_two_processes.py", "-k", "float64"),
    ),
    # Images.
    *wrong_log_dets(
        "bijections/normalization.py",
        "(BatchNorm or batch_norm) and (jacobians or training)",
        ("return y, self._log_det(x, var)", "self._log_det(x, var)"),
        ("return x, -self._log_det(y, var)", "-self._log_det(y, var)"),
        ("pixels * var.log().sum()", "var.log().sum()"),
    ),
    *wrong_log_dets(
        "bijections/pixels.py",
        "Logit or uniform",
        ("math.log(slope) - p.log()", "math.log(slope)"),
        ("- p.log() - torch", "p.log()"),
        ("- torch.log1p(-p)", "torch.log1p(-p)"),
        ("F.logsigmoid(y) + F", "F.logsigmoid(y)"),
        ("+ F.logsigmoid(-y)", "F.logsigmoid(-y)"),
        ("(-y) - math.log(slope)", "math.log(slope)"),
    ),
    *wrong_log_dets(
        "bijections/pixels.py",
        "Center",
        ("- 0.5, self._log_det(x)", "self._log_det(x)"),
        ("* self.scale, -self._log_det(y)", "-self._log_det(y)"),
        ("(self.scale) * x[:1].numel()", "x[:1].numel()"),
    ),
    *wrong_log_dets(
        "bijections/multiscale.py",
        "FactorOut",
        ("z), dim=1), log_det", "log_det"),
        ("self.shape)), dim=1), log_det", "log_det"),
    ),
    *on(
        "bijections/pixels.py",
        "pixel or picture or Logit or uniform or cell",
        ("y.floor()", "y.round()", 0, True),
        (".clamp(0, 2**self.bits - 1)", ".clamp(0, 255)"),
        (">> (8 - self.bits)).to(u.dtype)", ").to(u.dtype)"),
        ("+ 0.5", "+ 0.0001 + 1"),
        ("(y.sigmoid() - self.margin) / slope", "y.sigmoid() / slope", 0, True),
        ("(y + 0.5) * self.scale", "y * self.scale"),
        ("(1 - 2 * self.margin) / self.scale", "1 / self.scale"),
        ("generator=generator, dtype", "dtype"),
    ),
    *on(
        "bijections/normalization.py",
        "BatchNorm or batch_norm or running",
        ("correction=0", "correction=1"),
        ("y * _column(var.sqrt(), y) + _column(mean, y)", "y * _column(var.sqrt(), y)"),
        ("mean, var = self.last_mean, self.last_var", "pass"),
        ("weight = 1 / self.batches", "pass"),
        ("weight = self.momentum", "weight = 1 - self.momentum"),
        ('self.register_buffer("running_mean", torch.zeros(channels))',
         "self.running_mean = torch.zeros(channels)"),
    ),
    *on(
        "bijections/checkerboard.py",
        "checkerboard or compact or image_coupling or masked or RealNVP",
        ('(main, anti) if self.keep == "main" else (anti, main)', "(main, anti)"),
        ('(kept, bent) if self.keep == "main" else (bent, kept)', "(kept, bent)"),
        ('(odd if self.keep == "anti" else 1 - odd)', "odd"),
        ("(1 - mask) * self.conditioner", "self.conditioner", 0, True),
        ("return kept, x - kept", "return kept, x"),
    ),
    *on(
        "bijections/reshape.py",
        "Squeeze or squeeze",
        ("(offsets[:, 0::3], offsets[:, 1:3])", "(offsets[:, :2], offsets[:, 2:])"),
        ("four[:, 2], four[:, 3]", "four[:, 3], four[:, 2]"),
        ("blocks.permute(0, 3, 1, 2, 4, 5)", "blocks.permute(0, 1, 2, 3, 4, 5)"),
    ),
    *on(
        "bijections/multiscale.py",
        "FactorOut or levels or steers",
        ("self.inner(stays, context)", "self.inner(leaves, context)"),
        ("self.inner.inverse(y[:, size:], context)", "self.inner.inverse(y[:, size:])"),
        ("(leaves.flatten(1), z)", "(z, leaves.flatten(1))"),
    ),
    *on(
        "flow.py",
        "bits_per_dim or uniform",
        ("self.dims * math.log(2)", "self.dims", 0, True),
        ("self.dims * math.log(2)", "self.shape[-1] * math.log(2)"),
        ("return -self.log_prob(x, context, gen", "return self.log_prob(x, context, gen"),
    ),
    # Shapes and attributes of pictures.
    *gathered(
        "shapes.py",
        "shapes",
        ("[np.sqrt(x**2 + y**2) - radius", "[np.sqrt(x**2 + y**2) - 1.03 * radius", "area"),
        ("square - SQUARE * radius", "square - radius", "area"),
        ("triangle - TRIANGLE * radius", "triangle - radius / 2", "area"),
        ("slanted = np.sqrt(0.75)", "slanted = np.sqrt(0.7)", "area or corner"),
        ("np.maximum(y, slanted)", "np.maximum(-y, slanted)", "corner or centre"),
        ("- x * np.sin(angle)", "+ x * np.sin(angle)", "corner or turned"),
        ("_tall(np.deg2rad(columns", "_tall(-np.deg2rad(columns", "corner or turned"),
        ('_tall(columns["x"])', '_tall(columns["y"])', "centre"),
        ("(np.arange(size) + 0.5) / size", "np.arange(size) / size", "centre or size_changes"),
        ("0.5 - distance * size", "1 - distance * size", "smooth"),
        ("np.clip(0.5 - distance * size, 0, 1)", "(distance < 0) * 1.0", "size_changes or smooth"),
        ('_tall(columns["stroke"])', '_tall(columns["stroke"] / 2)', "stroke"),
        ("(covered - hole) + within", "covered + within", "middle or colours"),
        ("u[:, 6], *PLACE", "u[:, 5], *PLACE", "independent"),
        ("_between(u[:, 4], *SIZE)", "_between(u[:, 4] * u[:, 5], *SIZE)", "independent"),
        ("_between(u[:, 6], *PLACE)", "0.5 + (u[:, 6] - 0.5) * (1 - u[:, 4])", "independent"),
        ("(0.365, 0.635)", "(0.3, 0.7)", "inside"),
        ("PCG64([seed, block])", "PCG64([seed])", "repeat"),
        ("PCG64([seed, block])", "PCG64([block])", "process"),
        ("random((_BLOCK, _DRAWS))", "random((min(_BLOCK, n), _DRAWS))[::-1]", "first_images"),
        ("light ** (1 / 2.4)", "light ** (1 / 2)", "colours"),
        ('"blue": 255.0', '"blue": 285.0', "colours"),
        ("rows, size, options.seed]", "rows, size]", "cache"),
    ),
    *gathered(
        "attributes.py",
        "attributes",
        ("number[~np.isfinite(number)] = np.nan", "pass", "missing"),
        ("np.where(missing, np.nan, codes == code)", "(codes == code)", "missing or labels"),
        ("[math.nan] * (rows -", "[0.0] * (rows -", "missing"),
        ("or value != value ", "", "nothing"),
        ("> MOST_TEXTS:", "> MOST_TEXTS + 1:", "nothing"),
        ("> MOST_CLASSES:", ">= MOST_CLASSES:", "labels"),
        ("for key in sorted(columns)", "for key in columns", "texts"),
        ("[name] if name in names else", "", "itself"),
        ('n.startswith(f"{name}=")', "n.startswith(name)", "itself"),
    ),
    *gathered(
        "image_sets.py",
        "attributes",
        ("self.context[indices.to(self.context.device)]", "self.context[: len(indices)]", "order"),
        ("    check_present(source, {", "    str({", "cannot"),
        ("[names.index(column) for", "[names.index(columns[0]) for", "order"),
    ),
    *gathered(
        "metadata.py",
        "attributes",
        ("os.path.normpath(Path(inside).parent / key)", "os.path.normpath(key)", "metadata"),
        ("dtype={_KEY: str}, ", "", "digits"),
        ("if key in rows:", "if False:", "metadata"),
    ),
    # Glow.
    *wrong_log_dets(
        "bijections/normalization.py",
        "ActNorm and jacobians",
        ("return y, self._log_det(x)\n", "self._log_det(x)"),
        ("- _column(self.shift, y), -self._log_det(y)", "-self._log_det(y)"),
    ),
    *glowing(
        "bijections/normalization.py",
        "actnorm or first_batch or two_processes",
        ("SPEED = 3.0", "SPEED = 1.0"),
        ("return self.training and not self._started", "return self.training", 0, True),
        ("return self.training and not self._started", "return not self._started"),
        ("_batch_statistics(x.double())", "_batch_statistics(x[:2].double())"),
        ("torch.where(var > 0, var.sqrt(), self.scale)", "var.sqrt()"),
        ("torch.where(var > 0, var.sqrt(), self.scale)", "var"),
        ("(self.scale / std).log()", "(1 / std).log()"),
        ("std).log() / self.SPEED", "std).log()"),
        ("self.shift.copy_(-mean)", "self.shift.copy_(mean)"),
        ("self.initialized.fill_(True)", "pass"),
        (FLAG, FLAG.replace("))", "), persistent=False)")),
    ),
    *wrong_log_dets(
        "bijections/convolution.py",
        "Invertible and jacobians",
        ("return _mix(x, weight), _per_row(log_det, x)", "_per_row(log_det, x)"),
        ("-_per_row(log_det, y)", "-_per_row(log_det, y)"),
        ("return self.log_s.sum()", "self.log_s.sum()"),
    ),
    *glowing(
        "bijections/convolution.py",
        "forms or rotation or triangles or inverse or digits or Invertible",
        ("log_det * x.shape[2] * x.shape[3]", "log_det * x.shape[2]"),
        ("[self.permutation]", "[self.permutation.argsort()]"),
        ("eye[self.permutation.argsort()]", "eye[self.permutation]"),
        ("lower.tril(-1) + eye", "lower + eye"),
        ("upper.triu(1) + torch", "upper + torch"),
        ("self.sign * log_s.exp()", "log_s.exp()"),
        ("rotation * triangular.diagonal().sign()", "start"),
        ("self.upper = nn.Parameter(upper.triu(1).to(dtype))",
         "self.upper = nn.Parameter(lower.triu(1).to(dtype))"),
        ("upper.diagonal().abs().log()", "upper.diagonal().abs()"),
        ("None if seed is None else torch.Generator().manual_seed(seed)", "None"),
        ("self.triangles(torch.float64)", "self.triangles()"),
        ("torch.linalg.inv(self.weight.double())", "torch.linalg.inv(self.weight)"),
        ("slogdet(self.weight.double())[1]", "slogdet(self.weight.double())[0]"),
        ("and self._ready.is_of(self)", "", 0, True),
        ("self._ready = ready if keep else None", "pass"),
        ("[*layer.parameters(), *layer.buffers()]", "[*layer.parameters()]"),
        ("old.dtype == new.dtype and ", ""),
        ("if weight.isfinite().all():", "if True:"),
        ("raise SingularError(self)", "return", 0, True),
        ("values[0] * torch.finfo(weight.dtype).eps", "0"),
        ("self._check(weight)", "pass"),
    ),
    *wrong_log_dets(
        ELEMENTWISE,
        "LearnedPrior and jacobians",
        ("-_sum(log_std, x)", "-_sum(log_std, x)"),
        ("+ mean, _sum(log_std, y)", "_sum(log_std, y)"),
    ),
    *glowing(
        ELEMENTWISE,
        "prior or Prior",
        ("torch.tensordot(context, self.weight, dims=1)", "0"),
        ("moments = self.bias[None]", "moments = self.bias[None] * 2"),
    ),
    *glowing(
        "networks/glow.py",
        "network or Glow or prior",
        ("(ActNorm.SPEED * log_scale).exp()", "log_scale.exp()"),
        ("(factor * bias).to(dtype)", "bias.to(dtype)"),
        ("(weight * factor[..., None, None, None]).to(dtype)", "weight.to(dtype)"),
        ("norm.start_from(_convolve(h.to(dtype), weight.to(dtype)))", "norm.start_from(h)"),
        ("if self.first_norm.awaits_data() or self.second_norm.awaits_data():", "if False:"),
        ("3, std=0.0)", "3, std=0.1)"),
        ("relu=i < len(layers) - 1", "relu=i < len(layers) - 2"),
        ("result.relu_() if relu else result", "result"),
        ("(x, inside, *laid_over(context, x))", "(x, 0 * inside, *laid_over(context, x))"),
    ),
    *glowing(
        "models/glow.py",
        "paper or settings or remembers or centered or class or size or network or classes",
        (" or self.context_features else []", " else []"),
        ("seed=step", "seed=0"),
        ("Permutation.reverse(channels)", "Permutation.shuffle(channels, seed=0)"),
        ("[prior] if self.learned_top_prior or self.context_features else []", "[prior]"),
        ("self._split_prior(c),", ""),
        ("1e-5 if channels == 1 else 0.0", "0.0"),
        ("if margin else Center(2.0**bits)", "if margin else Center(256.0)"),
        ("Logit(2.0**bits, margin) if margin", "Logit(256.0, margin) if margin"),
        ("context_features or num_classes,", "context_features,"),
        ('"margin": margin,', ""),
        ("(3, 8, 64)", "(3, 8, 32)"),
        ('halvings, "level")'.replace("halvings", "levels"), 'levels, "scale")'),
    ),
    *glowing(
        "flow.py",
        "class or inverse",
        ("context_features or num_classes", "context_features", 0, True),
        ("((labels >= 0) & (labels < self.num_classes))", "(labels >= 0)"),
        ("((labels >= 0) & (labels < self.num_classes))", "(labels < self.num_classes)"),
        ("labels.ndim != 1 or ", ""),
        ("context_features not in (0, num_classes)", "False"),
        ("context.expand(n, *context.shape[1:])", "context"),
        ('f"the layer {layers[error.layer]}"', '"a layer"'),
    ),
    *moved(
        "conditions.py",
        "condition or noise_under or own_context",
        ("self.step[column].to(context)", "self.step[column].to(context) / 2"),
        ("context.clamp(self.low.to(context), self.high.to(context))", "context", 0, True),
        ("2 * contexts.double().std", "contexts.double().std"),
        ("torch.where(two_valued, high - low, spread)", "spread"),
        ("(target - start)[:, group]", "target[:, group]"),
        ("context[:, group] += strength", "context[:, group] = strength"),
        ("start, context = context, context.clone()", "start = context"),
        ("encode(flow, x, context), spread(other, len(x))", "encode(flow, x, other[:1]), other"),
    ),
    # Moving about in latent space.
    *moved(
        "paths.py",
        "path or ends or turn or corners or surface",
        ("from_a * u + from_b * v", "from_b * u + from_a * v"),
        ("from_a * length_a + from_b * length_b", "length_a", 0, True),
        ("from_a * length_a + from_b * length_b", "length_a**from_a * length_b**from_b"),
        ("length / length_a * (", "("),
        ("length / length_b * (", "("),
        ("(from_a * angle).sin() / angle.sin()", "from_a"),
        ("(from_b * angle).sin() / angle.sin()", "from_b"),
        ("a.double()[:, None], b.double()[:, None]", "a[:, None], b[:, None]"),
        ("(angle > NARROW) & (angle < torch.pi - NARROW)", "angle > -1"),
        ("NARROW = 1e-6", "NARROW = 1.0"),
        (" & (angle < torch.pi - NARROW)", ""),
        ("return 2 * torch.atan2", "return torch.atan2"),
        ("corners[[0, 2]], corners[[1, 3]]", "corners[[0, 1]], corners[[2, 3]]"),
        (".transpose(0, 1).flatten(0, 1)", ".flatten(0, 1)"),
        ("path(top, bottom, rows, kind)", 'path(top, bottom, rows, "linear")'),
        ("encode(flow, end, last)", "encode(flow, end, first)"),
        ("spread(first, n), spread(last, n)", "spread(first, n), spread(first, n)"),
        ("_surface(spread(context, 4), rows, columns, \"linear\")",
         "_surface(spread(context, 4), rows, columns, kind).flip(0)"),
    ),
    *moved(
        "noise.py",
        "levels or redrawing or temperature",
        ("noise, z)", "z, noise)", 0, True),
        ("(z.device) * temperature", "(z.device)"),
        ("torch.arange(1, count + 1)", "torch.arange(count)"),
        ("math.prod(shape)", "shape[0]"),
        ("z = encode(flow, x, context).repeat_interleave(variants, dim=0)",
         "z = encode(flow, x, context).repeat(variants, 1)"),
        ("context = spread(context, len(x)).repeat_interleave(variants, dim=0)",
         "context = spread(context, len(x)).repeat(variants, 1)"),
        ("context = spread(context, n).repeat_interleave(count, dim=0)",
         "context = spread(context, n).repeat(count, 1)"),
        ("noise[:, None] * factors[:, None]", "noise[:, None] * factors[:, None].sqrt()"),
        ("flow.noise(noise, generator)", "flow.noise(noise)"),
        ("flow.noise(len(z), generator)", "flow.noise(len(z))"),
    ),
    *moved(
        "finding.py",
        "direction or discriminant or batches or known or partial or varies or attributes",
        ("torch.outer(a, a)", "0 * torch.outer(a, a)", 0, True),
        ("- a[:, None] * z", ""),
        ("slope = cov_az / var[:, None]", "slope = cov_az"),
        ("mean = slope * span[:, None]", "mean = slope"),
        ("2 * var.sqrt())", "var.sqrt())"),
        ("(sums.high - sums.low)[varies], 2", "2 * var.sqrt(), 2"),
        ("sums.at_low + sums.at_high == sums.count", "sums.at_low + sums.at_high > 0"),
        ("seen = ~a.isnan()", "seen = ~a.isinf()"),
        ("torch.where(seen, a - self.origin, 0.0), seen.double()",
         "torch.where(seen, a - self.origin, 0.0), torch.ones_like(a)"),
        ("seen.all(dim=1, keepdim=True).expand_as(a)", "seen"),
        ("self.origin.isnan() & seen.any(0)", "seen.any(0)"),
        ("self.a += a.sum(0)", "self.a = a.sum(0)"),
        ("self.zz += z.T @ z", "self.zz = z.T @ z"),
        ("count * (low == least)", "count"),
        ("others * (other == least)", "others"),
        ("inverse @ (cov_az", "(cov_az"),
        ("(span / std)[:, None]", "span[:, None]"),
        ("torch.linalg.pinv(correlation, rtol=1e-9, hermitian=True)",
         "torch.linalg.inv(correlation)"),
        ("cov_zz - v * torch.outer(s, s)", "cov_zz"),
        (" - torch.outer(z[0], z[0])", ""),
        ("within.diagonal().mean()", "within.diagonal().sum()"),
        ("(1 - shrinkage) * within", "1 * within"),
        ("w = torch.linalg.solve(shrunk, d)", "w = d"),
        ("return w * (w @ d) / (w @ w)", "return w"),
        ("torch.where(two_valued, sums.at_low, 0.0)", "sums.at_low"),
        ("torch.where(two_valued, sums.at_high, sums.count)", "sums.at_high"),
        ("encode(flow, x, context)", "encode(flow, x, context.flip(0) if 1 else context)"),
    ),
    *moved(
        "directions.py",
        "edit or strength or conditional or file or refused",
        ("z + strength * direc", "z - strength * direc"),
        ("z = z + strength * directions[name].to(z)", "z = z + directions[name].to(z)"),
        ("z = z + strength", "z = encode(flow, x, context) + strength", 0, True),
        ("return decode(flow, z, context)",
         "return decode(flow, z, None if context is None else 0 * context)"),
        ("(model, flow.latent_shapes) != (self.model, self.latent_shapes)", "False"),
        ("directions.check(flow)", "pass"),
        ("except Exception as error:  # words", "except KeyError as error:  # words"),
        ("tuple(shape) for shape in", "shape for shape in"),
        ("with atomic_write(path) as partial", "with atomic_write(path / path.name) as partial"),
    ),
    *moved(
        "coding.py",
        "parts or changed",
        ("values[part], context[part]", "values[part], context[: len(values[part])]"),
        ("slice(start, start + flow.chunk)", "slice(start, None)"),
        ("with eval_mode(flow):", "if True:", 0),
        ("with eval_mode(flow):", "if True:", 1),
        ("context.expand(n, -1) if", "context if"),
    ),
    Mutant(
        "flow.py", "module.training = training", "pass", ("tests/test_latent.py", "-k", "looking")
    ),
    # As a distribution of PyTorch and Pyro, and as a file.
    *handed_on(
        "distribution.py",
        "distribution",
        ("self.context.shape[:-1]", "self.context.shape[:1]", "shapes"),
        ("return self.flow.dequantizer is None", "return True", "pictures"),
        ("integer_interval(0, 255)", "integer_interval(0, 256)", "pictures"),
        ("value.ndim - len(self.event_shape)", "value.ndim - 1", "classes"),
        ("with torch.no_grad():", "if True:", "gradients_of_draws"),
        ("Size((*sample_shape, *self.batch_shape))", "Size((*self.batch_shape, *sample_shape))",
         "shapes"),
        ("new._validate_args = self._validate_args", "pass", "expand"),
        (".expand(self.batch_shape).expand(tuple", ".expand(tuple", "expand"),
        ("((context >= 0) & (context < classes)).all()", "(context >= 0).all()", "classes"),
        ("[1] * more, *p.batch_shape", "p.batch_shape, *[1] * more", "batch_shape"),
        ("log_p - q.log_prob(x)", "q.log_prob(x) - log_p", "known", 0, True),
        ("if not p.has_rsample:", "if False:", "Scored"),
        ("return terms.mean(0)", "return terms.sum(0)", "known"),
        ("if isinstance(side, FlowDistribution) and not", "if False and not", "pictures"),
    ),
    *handed_on(
        "export.py",
        "export",
        ("2.0 ** (door.bits - 8)).floor()", "2.0 ** (door.bits - 8))",
         "files_say and dense and torch"),
        ("(u - 0.5)", "u", "files_say and grid and torch"),
        ("_base_log_prob(z) + log_det", "_base_log_prob(z) - log_det", "float64", 0, True),
        ("flow.context_encoder(context)[0]", "context", "command"),
        ("max(_checked(task, call, size, name) for size in CHECKED)", "0.0", "differs"),
        ("got.dtype != wanted.dtype", "False", "differs"),
        ("error <= PIXELS and", "", "pixels"),
        ("and float(far.max()) <= 2 ** (8 - door.bits)", "", "pixels"),
        ("module.__class__ = type(module).__bases__[0]",
         "delattr(type(module), 'weight')", "files_say and ImageRealNVP and torch"),
        ('node.meta.pop("stack_trace", None)', "pass", "paths"),
        ("setattr(module, name, _Mixing(child))", "pass", "paths"),
        ("copy.deepcopy(flow)", "flow", "float64"),
    ),
    # Scores.
    *scored(
        "codes.py",
        "code or column or noise or simpler or shortest or repeat or bins",
        ("min(lengths)", "max(lengths)"),
        ("return 8 * max(0", "return max(0"),
        ("len(code(pixels)) - extra", "len(code(pixels))"),
        ("lossless=True", "lossless=False"),
        ("irreversible=False", "irreversible=True"),
        ("if channels != 3:", "if False:"),
        ("levels[1:] + levels[:-1]) / 2", "levels[1:])"),
        ("counts / np.diff(edges)", "counts", 0, True),
        ("math.log(total + 1)", "math.log(total)"),
        ("math.pi * half", "half"),
        ("np.log1p(far * far)", "np.log1p(far)"),
        ("values = values[np.isfinite(values)]", "pass"),
        ("np.searchsorted(below, wanted)", "np.searchsorted(candidates, wanted)"),
    ),
    *scored(
        "codes.py",
        "mutual or far_outside",
        ("-np.sum(columns, axis=0)", "np.sum(columns, axis=0)"),
        ("-np.sum(columns, axis=0)", "-columns[0]"),
    ),
    *scored(
        "scores.py",
        "not command and not images_without and not leaves and not other_data and not rows_with",
        ("return -(log_prob - reference.mean).abs()", "return log_prob - reference.mean", 0, True),
        ("image_bits(seen) * math.log(2)", "image_bits(seen)"),
        ("image_bits(seen)", "image_bits(x)"),
        ("log_prob.double().cpu() + nats", "log_prob.double().cpu() - nats"),
        ("usual = reference.unlabelled", "usual = reference"),
        ("if context is not None and class_count(flow):", "if False:"),
        ("values = values[np.isfinite(values)]", "pass"),
        ("cls(*_numbers(inner), codes)", "cls(*_numbers(inner))"),
        ("rows = [x for x, _ in training]", "pass"),
    ),
    *scored("scores.py", "leaves", ("Batches(data.train, 65_536)", "Batches(data.val, 65_536)")),
    *scored(
        "evaluation.py",
        "mixture or one_noisy or classes_are",
        ("generator.set_state(state)", "pass", 0, True),
        (".logsumexp(0) - math.log(classes)", ".logsumexp(0)"),
        ("len(names) == 1 and", ""),
        (" and None not in names", ""),
        ("if context is None and class_count(flow):", "if False:"),
    ),
    *scored(
        "run/learning.py",
        "leaves",
        ("Reference.learn(flow, data).keep(flow)", "pass"),
        ('flow.cpu().save_pretrained(folder / "model")', "pass"),
    ),
    *scored("run/folder.py", "images_without", ("unlabelled and class_count", "class_count")),
    *scored(
        "cli/tables.py",
        "rows_without",
        ("say_unlabelled(source, run, console)", "pass"),
    ),
    *scored(
        "run/folder.py",
        "rows_without",
        ("return len(found.columns) == len(self.columns)", "return False"),
    ),
    # Storage.
    *on(
        "sharing.py",
        "pretrained or damaged or foreign or class or rebuilt or pickle or save",
        ('"metadata": self.metadata,', "", 0, True),
        ('flow.metadata = config.get("metadata", {})', "pass"),
        ("dtype).eval()", "dtype)"),
        ("return flow.to(flow._reference().dtype)", "return flow"),
        ("load_state_dict(state, assign=True)", "load_state_dict(state)"),
        ("flow.load_state_dict(state, assign=True)", "pass"),
        ("if not issubclass(model, cls)", "if False"),
        ("if Shareable in type(self).__bases__", "if False"),
    ),
    *on(
        "storage.py",
        "pretrained or damaged or save or pickle or foreign or class",
        ("if name not in known and trust", "if name not in known"),
        ("_save(tensors, partial_weights)", "_save(tensors, folder / WEIGHTS)", 0, True),
        ("(ValueError, KeyError, TypeError, Attr", "(KeyError, TypeError, Attr"),
    ),
    # Sharing.
    *shared(
        "storage.py",
        ("if stored is not None:\n        st", "if False:\n        st", "computes_as", True),
        ("clone(memory_format=whole)", "clone()", "matrices"),
        ("partial_weights.chmod(partial_config.stat().st_mode)", "pass", "whoever"),
        ("(not shipped or (folder / CONFIG).is_file())", "True", "in_a_folder_wins"),
        ("(not shipped or (folder / CONFIG).is_file())", "not shipped", "in_a_folder_wins"),
        ("WEIGHTS], **download", "WEIGHTS]", "download"),
        ("if inner.is_dir() and not (folder", "if False and not (folder", "load_takes"),
    ),
    *shared(
        "sharing.py",
        ("if weight.ndim > 1 and weight[0].numel() > 1", "if weight.ndim > 1", "kernels"),
        ("if weight.ndim > 1 and weight[0].numel() > 1", "if True", "kernels", True),
        ('"dtype": _name(self._reference().dtype)', '"dtype": "float32"', "float64"),
        ("dtype = dtype or card.dtype", "pass", "push_carries"),
        ('| {"dtype": dtype}\n        options', '\n        options', "push_carries"),
        ("| options\n        return super()", "\n        return super()", "push_carries"),
    ),
    *shared(
        "card.py",
        ('"`" * (_longest_run(text) + 1)', '"`"', "ends_its_place"),
        ("max(3, _longest_run(text) + 1)", "3", "ends_its_place"),
        ('return re.sub(r"([', 'return text\n    return re.sub(r"([', "ends_its_place", True),
        ('c if c.isprintable() else " "', "c", "ends_its_place"),
        ('ours = public_name(type(flow)).startswith("diffeo.")', "ours = True", "trust"),
        ("if column in _example(flow)", "if column", "python_of"),
    ),
    *shared(
        "run/command.py",
        ('return re.split(r"[\\\\/]", source.rstrip("\\\\/"))[-1] or "DATA"', "return source",
         "no_path"),
        ("if name not in usual or", "if False and", "command_of"),
        ("min(commands, key=len)", "commands[0]", "preset"),
        ('data.pop("cache", None)', "pass", "preset"),
    ),
    *shared(
        "run/sharing.py",
        ('evaluate(flow, run.data(), "test")', 'evaluate(run.flow, run.data(), "test")', "scored"),
        ("if out is not None and _in_use(Path(out))", "if False", "cannot_be_shared"),
        ("except HUB_ERRORS", "except OSError", "cannot_be_shared"),
        ("torch.eye(classes).repeat(8, 1) if classes else", "", "bare_model"),
    ),
    *shared(
        "cli/commands.py",
        ("from diffeo.run import Run\n", "from diffeo.run import Run, train\n", "imports_only"),
    ),
    *explored(
        "sampling.py",
        ("old if i in held else seed", "seed if i in held else old", "held"),
        ("in_levels(flow, [level])", "in_levels(flow, [1])", "held"),
        ("* temperature, context), context", ", context), context", "command"),
    ),
    *explored(
        "subject.py",
        ("under.logsumexp(0) - math.log(len(rows))", "under.logsumexp(0)", "mixture"),
        ("under.argmax(0)", "under.argmin(0)", "mixture"),
    ),
    *explored(
        "reference.py",
        ("float(below + upto) / 2", "float(upto)", "falls"),
    ),
    *explored(
        "mixing.py",
        ("ends[[0, 2]], ends[[1, 3]]", "ends[[0, 1]], ends[[2, 3]]", "as_the_library"),
        ("STEPS + 1, kind)[:, down]", "STEPS + 1, kind)[:, across]", "as_the_library"),
    ),
    *explored(
        "editing.py",
        ("z = z + max", "z = z - max", "of_the_library"),
    ),
    *explored(
        "ways.py",
        ("base + steps.sum(0)", "base - steps.sum(0)", "adds_up"),
        ("reversed(list(links(flow.bijection)))", "links(flow.bijection)", "adds_up"),
    ),
    *explored(
        "uploads.py",
        ("height if square else None", "None", "scaled"),
        ("grey=channels == 1", "grey=False", "scaled"),
    ),
    *explored(
        "plane.py",
        ("high - down * (high - low)", "low + down * (high - low)", "click"),
    ),
    *by_parts(
        "sampling.py",
        ("2 * number", "number", "same_noise"),
        ("mix(seed, 0)", "mix(0)", "same_noise"),
        ("2 * number) % 2**32", "2**32 * number) % 2**64", "same_noise"),
        ("context[start : start + len(x)]", "context[: len(x)]", "own_context"),
        ("part_seed(self.seed, part.number)", "part_seed(self.seed, 0)", "part_by_part"),
        ('(read(out) or {}).get("seed", secrets', '({}).get("seed", secrets', "nobody_chose"),
    ),
    *by_parts(
        "parts.py",
        ("or found == self.rows", "or found >= 0", "nobody_chose"),
        ("min(rows, n - i * rows)", "rows", "as_many_rows"),
        ("except (OSError, pyarrow.ArrowException)", "except OSError", "not_done_again"),
        ("status.st_size, status.st_mtime_ns", "status.st_size", "other_files"),
    ),
    *by_parts(
        "folder.py",
        ("len(changed) < len(now)", "True", "other_files"),
        ("(folder / name).unlink(missing_ok=True)", "pass", "damaged_part"),
        ("both.update(hashlib", "(hashlib", "one_model"),
        ("deaths >= MOST_DEATHS", "False", "given_up"),
        ("any(folder.iterdir())", "False", "left_alone"),
    ),
    *by_parts(
        "work.py",
        ("torch.set_num_threads(1)", "pass", "one_thread"),
        ("fatal=True", "fatal=False", "full_disk"),
    ),
    *by_parts(
        "scoring.py",
        ("reference, seed=part.number\n            )", "reference\n            )", "labels_and"),
    ),
    *explored(
        "guard.py",
        ("not (path in OPEN or path.startswith(BELOW))", "False", "asks_for"),
        ('".." in path or ', "", "asks_for"),
        ("path in OPEN", "path.startswith(tuple(OPEN))", "asks_for"),
        (".netloc == headers", ".netloc != headers", "other_sites"),
        ("    if origin is None:", "    if not origin:", "other_sites"),
        ("int(length) > LARGEST", "int(length) > 9 * LARGEST", "huge"),
        ("not length.isdigit() or ", "", "huge"),
        ("if self.received > LARGEST", "if False", "up_to_the_limit"),
        ("PATIENCE)", "None)", "halt"),
        ("        if self.refused:  # it has been answered\n            return\n", "", "limit"),
    ),
    *joined(
        ('for name in RANKS)', 'for name in RANKS[:1])', "alone_is_the_first"),
        ('if "TORCHELASTIC_RUN_ID" in environment', "if False", "how_many"),
        (" // int(nodes)", "", "how_many"),
        ("auto_requeue=False", "auto_requeue=True", "how_many"),
        ("    return tasks > 1 and not alone and", "    return tasks > 1 and", "how_many"),
        ("self.launcher.procs.clear()", "pass", "named_with_the_remedy"),
        ("if status < 0:", "if status > 0:", "named_with_the_remedy"),
        ("            raise ConnectionError(", "            print(", "named_with_the_remedy"),
        ("int(self.child and self._orphaned())", "0", "second_speaks"),
        ("if lost or (shared and not self._speaks())", "if lost", "first_alone_speaks"),
        ("        os._exit(2)", "        os._exit(0)", "waits_for_ever"),
        ('"gloo" in str(error).lower()', "True", "ones_own"),
    ),
    *explored(
        "serving.py",
        ("state.config_values.clear()", "pass", "remembered"),
    ),
]  # fmt: skip


def run(source: Path, tests: tuple[str, ...]) -> int:
    """Exit code of pytest on a source, in this process, which has not imported diffeo before."""
    os.chdir(ROOT)
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(source))
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    # An installed diffeo must not have been tested in its place.
    imported = sys.modules.get("diffeo")
    assert imported is None or Path(imported.__file__).is_relative_to(source)
    return code


def survives(mutant: Mutant | None) -> str:
    """What is wrong with the tests, as one line; empty where they notice the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is None:
            return "the unchanged source fails" if run(source, (CONFORMANCE, FLOW, PIXELS)) else ""
        path = source / "diffeo" / mutant.file
        parts = path.read_text(encoding="utf-8").split(mutant.old)
        if len(parts) < mutant.nth + 2:
            return f"no longer found: {mutant}"
        left, right = mutant.old.join(parts[: mutant.nth + 1]), parts[mutant.nth + 1 :]
        path.write_text(left + mutant.new + mutant.old.join(right), encoding="utf-8")
        code = run(source, mutant.tests)
    # 1 is a failed test; 2 a source that cannot even be imported; 5 that no test was chosen.
    if code in (1, 2):
        return ""
    return f"{'survived' if code == 0 else f'pytest ended with {code}'}: {mutant}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a representative dozen")
    parser.add_argument("--match", default="", help="those whose line holds this text")
    options = parser.parse_args()
    start = time.perf_counter()
    chosen = [m for m in MUTANTS if (m.small or not options.small) and options.match in str(m)]
    findings = 0
    # A fork for each mutant: torch is imported once, diffeo each time anew.
    with multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1) as pool:
        for line in filter(None, pool.imap_unordered(survives, [None, *chosen])):
            findings += 1
            print(line, flush=True)
    seconds = time.perf_counter() - start
    print(f"{len(chosen)} mutants, {findings} findings, {seconds:.0f} s")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
