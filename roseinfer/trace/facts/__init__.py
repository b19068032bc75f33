"""Derive facts from the columns: how events nest, which call launched each GPU event, when a GPU was idle."""
