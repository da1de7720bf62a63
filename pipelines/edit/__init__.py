"""Edit images and videos: `rigface edit`, `animate`, `strip`, `sliders`."""
