"""The figures of a result, for the page, for paper and for notebooks."""
