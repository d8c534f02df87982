"""The report: analysis, figures and the page."""
