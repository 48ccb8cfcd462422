"""What answers over HTTP: the bundle, the state store, one request's steps, the API, the Ray Serve deployments and the page."""
