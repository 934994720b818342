"""Distributions of tables of mixed columns: numbers, counts, categories and gaps. Torch only."""
