"""Maximum likelihood, on Lightning's Trainer."""
