"""Read a trace file, or a folder of trace files, into columns of numbers; repair what is damaged."""
