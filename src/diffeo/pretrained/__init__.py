"""A model on disk and on the hub: its configuration, its weights, its model card; no training."""
