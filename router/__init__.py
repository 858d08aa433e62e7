"""The roof: the HTTP application, the life of a call, live state and the command line."""
