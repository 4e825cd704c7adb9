"""Side by side with other quantizers: the same networks, calibration samples, bits and threads."""
