"""What the router costs: its CPU time per call and per streamed chunk, beside other proxies on the same work."""
