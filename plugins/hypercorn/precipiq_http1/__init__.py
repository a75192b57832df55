"""HTTP/1.1 requests of the plain kind, quickly; the same verdict as h11's, to which everything else goes."""
