"""Flows in the terms of other packages: one module for each, which imports it.

Here belongs what another package asks of a density: its base class, the names of its methods, its
shapes. How a flow learns or what it computes does not; the package that asks trains it, by its own
loop. Each module is imported by name, and says which extra it needs where that is missing.

    diffeo.integrations.sbi       estimators of posteriors, likelihoods and ratios
    diffeo.integrations.nessai    NessaiFlow, for nested sampling
    diffeo.integrations.pocomc    zuko_flow, for preconditioned Monte Carlo
    diffeo.integrations.madnis    UnitCubeFlow, for importance sampling of integrals
    diffeo.integrations.bayesflow FlowNetwork, an inference network
    diffeo.integrations.sdv       FlowSynthesizer, for tables
"""
