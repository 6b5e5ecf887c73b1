"""Images: image files and batches of binarised pixels."""
