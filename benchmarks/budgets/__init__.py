"""What a budget buys: bits chosen layer by layer beside the same bits everywhere."""
