"""Looking inside networks: arrays in, arrays out."""
