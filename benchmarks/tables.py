"""RealNVP for tables, against zuko, nflows, normflows and FrEIA.

8 affine couplings whose networks have two hidden layers of 64, on 2, 10 and 43 features, batches of
512 and of 8,192, float32: a training step (forward, backward, fused Adam), the log-densities of a
batch, and as many samples, both in eval mode and without autograd. Each peer is built as its own
documentation does. All take turns, and what counts is ours against the fastest of them.
"""

from __future__ import annotations

from functools import partial
from statistics import median

from benchmarks import peers, subjects
from benchmarks.harness import Settings, say, take_turns
from benchmarks.report import Report, over, rates

FEATURES, BATCHES = (2, 10, 43), (512, 8192)
TASKS = {"step": "train", "log_prob": "log_prob", "sample": "sample"}
FASTER = 2.0
RIVALS = {"zuko", "nflows", "normflows"}


def measure(settings: Settings) -> Report:
    """Every size and task; peers that are not installed are left out and named."""
    report = Report("tables", "RealNVP for tables", settings)
    there = {name: make for name, make in peers.TABLES.items() if peers.installed(name)}
    if missing := [name for name in peers.TABLES if name not in there]:
        report.notes.append(f"Not installed, and left out: {', '.join(missing)}.")
    if not there:
        peers.need(*missing)
    for features in FEATURES[:1] if settings.small else FEATURES:
        for batch in (16,) if settings.small else BATCHES:
            say(f"tables: {features} features, batch {batch}")
            sides = {"ours": partial(subjects.realnvp, features, batch)}
            sides |= {name: partial(make, features, batch) for name, make in there.items()}
            for task, times in take_turns(sides, settings, list(TASKS)).items():
                group = f"{features} features, batch {batch}, {TASKS[task]}"
                ours, theirs = times["ours"], {name: times[name] for name in there}
                report.measured += [rates(group, s, t, batch, "rows/s") for s, t in times.items()]
                for names, bar in ((RIVALS, FASTER), (set(there) - RIVALS, None)):
                    known = {name: theirs[name] for name in theirs if name in names}
                    if known:
                        fastest = min(known, key=lambda name: median(known[name]))
                        label = f"{group}: speed over {fastest}"
                        report.ratios.append(over(label, known[fastest], ours, bar))
    report.notes.append(
        "The bar is held against the fastest of zuko, nflows and normflows, which is named; "
        "FrEIA's flow is put together by hand, with a base density of ours."
    )
    return report
