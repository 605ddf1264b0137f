"""Network architectures that several examples use."""
