"""How requests come in and answers leave: bodies, codings, caching, errors, and what OpenAPI says of them."""
