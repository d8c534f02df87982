"""Where a head looked: the positions of a feature map that speak for its answer."""
