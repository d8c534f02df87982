"""The HDF5 file of features, read and written."""
