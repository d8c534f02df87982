"""The report: the numbers of a run, and the page."""
