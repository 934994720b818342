"""The commands, one module each; `main` is the command, and its signature makes the options."""
