"""Several ranks: launching, watching, stopping."""
