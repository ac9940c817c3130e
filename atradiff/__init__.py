"""Imaginary trajectories for off-policy reinforcement learning: the science, without ray."""
