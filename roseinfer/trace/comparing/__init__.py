"""Compare the summaries of two traces."""
