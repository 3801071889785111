"""What a model gets wrong and what it costs: errors by type, saved models scored, boxes by layer, parameters, FLOPs."""
