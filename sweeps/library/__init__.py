"""The sweep files that ship with lagvae."""
