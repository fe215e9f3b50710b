"""The native methods with a step, and its way back, compiled into one function each."""
