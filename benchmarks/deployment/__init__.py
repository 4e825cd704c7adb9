"""What a low-bit file costs on a device: flash, RAM and accuracy beside the tools that people use."""
