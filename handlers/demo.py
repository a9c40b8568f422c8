"""`make demo`: the whole platform on this machine, and a story told on real orders. See handlers/story."""

import os
import sys


def main() -> int:
    """Tell the story. The exit code is 0 if it came out as told, 1 if it did not, 130 after Ctrl-C."""
    try:
        print("choreo: seven services deliver food, and nobody is in charge.", flush=True)
        # Importing Celery takes a moment, and the first line should not wait for it.
        from handlers.story.performance import perform

        return perform()
    except KeyboardInterrupt:
        print("\nInterrupted before anything was started.")
        return 130
    except BrokenPipeError:
        # The reader went away (`make demo | head`). Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
