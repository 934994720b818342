"""What diffeo costs, against peers from PyPI and against the bare networks of its couplings.

`python -m benchmarks` lists the names. Ratios of one run count; single times do not.
"""
