"""Classifier heads, each behind one contract."""
