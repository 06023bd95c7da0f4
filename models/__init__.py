"""Model adapters: one file, one model; the file name is the name of the model."""
