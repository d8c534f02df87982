"""What the scores of the heads say: tables, curves and maps as numbers."""
