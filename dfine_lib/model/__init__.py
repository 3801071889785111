"""Images to boxes: backbone, encoder, decoder."""
