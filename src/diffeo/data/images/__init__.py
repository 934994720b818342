"""Images: from generators, folders, arrays and tables, decoded, split, and back to files."""
