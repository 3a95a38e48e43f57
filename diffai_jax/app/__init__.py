"""The program around training and certification: config, work folder, console."""
