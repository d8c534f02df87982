"""Families of trunks that are not in ``keras.applications``."""
