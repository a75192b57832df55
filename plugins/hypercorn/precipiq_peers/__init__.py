"""What a server believes and takes of those who connect: addresses behind proxies, places, rates. Knows no server."""
