"""Stage one: run a frozen trunk once over a set of pictures and keep its features in HDF5."""
