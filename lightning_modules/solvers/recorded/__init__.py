"""What backends share that make a step once and repeat it: when that is right, and until when."""
