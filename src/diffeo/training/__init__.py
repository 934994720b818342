"""Maximum likelihood: one loop for run folders and estimators. It knows no folder and no data."""
