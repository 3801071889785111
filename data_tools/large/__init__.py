"""Data sets too large for one folder of images or one JSON in memory: tar shards, packed indices, oversampling."""
