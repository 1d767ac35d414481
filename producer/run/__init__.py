"""One run of `sortline label`, from its source to its reports: labelling.py holds the whole flow."""
