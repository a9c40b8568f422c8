"""`make demo`: runs the platform on this machine, and tells a story with real orders. See handlers/story."""

import os
import sys


def main() -> int:
    """Tell the story. Returns the exit code: 0 on success, 1 if the story failed, 130 after Ctrl-C."""
    try:
        print("choreo: seven services deliver food, and nobody is in charge.", flush=True)
        # Importing Celery takes a moment. The first line is printed before that.
        from handlers.story.performance import perform

        return perform()
    except KeyboardInterrupt:
        print("\nInterrupted before anything was started.")
        return 130
    except BrokenPipeError:
        # The reader of the pipe has ended (`make demo | head`). Python would raise again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
