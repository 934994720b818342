"""Flows put together as the papers have them."""
