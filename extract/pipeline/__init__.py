"""One run of stage one: settings, plan, the loop from images to rows."""
