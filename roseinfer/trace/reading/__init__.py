"""Read a trace file, or a folder of them, into columns of numbers; mend what is damaged."""
