"""Small applications to read and to copy from."""
