"""Samples of a synthesizer of SDV: `python sdv_samples.py NAME TRAIN.csv OUT.csv ROWS SECONDS`.

It runs by an interpreter of its own, which has SDV and needs nothing of this project.
"""

from __future__ import annotations

import sys
import time
import warnings

import pandas as pd


def main(name: str, train: str, out: str, rows: str, seconds: str) -> None:
    """Learn and sample; epochs are as many as the seconds allow, 300 at most (SDV's default)."""
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import CTGANSynthesizer, GaussianCopulaSynthesizer, TVAESynthesizer

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kinds = {"CTGAN": CTGANSynthesizer, "TVAE": TVAESynthesizer}
    frame = pd.read_csv(train)
    metadata = Metadata()
    metadata.add_table("rows")
    for column in frame:
        kind = "numerical" if frame[column].dtype.kind in "if" else "categorical"
        metadata.add_column(column, table_name="rows", sdtype=kind)
    if name == "GaussianCopula":
        synthesizer = GaussianCopulaSynthesizer(metadata)
        synthesizer.fit({"rows": frame})
    else:

        def learn(epochs: int):
            made = kinds[name](metadata, epochs=epochs, enable_gpu=False)
            start = time.perf_counter()
            made.fit({"rows": frame})
            return made, time.perf_counter() - start

        once, twice = learn(1)[1], learn(3)[1]
        each = max((twice - once) / 2, 1e-3)
        synthesizer = learn(max(1, min(300, int((float(seconds) - once) / each))))[0]
    made = synthesizer.sample(int(rows))
    (made["rows"] if isinstance(made, dict) else made).to_csv(out, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
