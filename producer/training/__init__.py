"""One training, from its request to the published version: training.py holds the whole flow."""
