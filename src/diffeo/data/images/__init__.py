"""Images: options (`dataset`) -> an `ImageSource` -> `cache` -> `loading` -> `writing`.

A new format is a function in `loading.READERS`, a new set of our own a case of `open_images`.
"""
