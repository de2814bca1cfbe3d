"""The command as a module: `python -m upscaling INPUT OUTPUT SCALE`."""

from upscaling.cli.main import console

if __name__ == "__main__":
    console()
