"""The native methods, recorded once and replayed: nothing of a step is done by Python."""
