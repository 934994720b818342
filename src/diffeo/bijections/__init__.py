"""The maths: one invertible map a file."""
