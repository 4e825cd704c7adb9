"""What our recipes reach, network by network and width by width."""
