"""The native methods compiled: a whole solve and its way back, or a step and its way back."""
