"""Training of the pocket VLM: vision pre-training, joint training, alignment of the text tower, export."""
