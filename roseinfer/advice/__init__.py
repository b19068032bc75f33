"""The closed loop: the advice of a summary is tried on the engine, measured, and scored."""
