"""Tables: from generators, bundled sets and files, checked and split, and back to files."""
