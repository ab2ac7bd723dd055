"""From features to numbers: the curve point of one scale, the average over scales, errors, and comparisons."""
