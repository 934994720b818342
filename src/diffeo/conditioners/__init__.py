"""The networks that steer couplings."""
