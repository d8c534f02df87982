"""Stage one: run a frozen trunk once over a set of images and keep its features in HDF5."""
