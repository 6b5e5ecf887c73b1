"""What a sweep shows to its reader: figures and the web page."""
