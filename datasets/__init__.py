"""Data sets: one file, one source; the file name is the name of the data set."""
