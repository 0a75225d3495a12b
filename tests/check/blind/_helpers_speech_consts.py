"""Constants of the speech front end."""

LOG_FLOOR = 1e-5
HOP = 160
NUM_BINS = 12
