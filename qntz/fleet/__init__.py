"""Many models at once: which stages go together, what they may take, and the DVCs that run them side by side."""
