"""The tabs of the page: each lays out its controls and connects them with handlers."""
