"""The order in which a pipeline's stages compute their micro-batches."""
