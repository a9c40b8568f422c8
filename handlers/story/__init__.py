"""What `make demo` tells. The services know nothing of it: it only listens, like anybody could."""
