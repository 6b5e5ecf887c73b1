"""Images: reading image files, and batches of binarised pixels."""
