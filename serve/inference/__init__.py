"""Face analysis and diffusion as Ray Serve deployments."""
