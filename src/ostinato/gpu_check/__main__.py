"""The process in which `ostinato check-gpu` tries a framework: its exit status is one of these."""

import sys

from ostinato.gpu_check.command import NO_CARD, RIGHT, WRONG


def main() -> int:
    """Checks the card that is here."""
    from ostinato.gpu_check import checking

    reason = checking.why_not()
    if reason is not None:
        print(f"can't be checked: {reason}", flush=True)
        return NO_CARD
    return WRONG if checking.check_and_stamp(lambda text: print(text, flush=True)) else RIGHT


if __name__ == "__main__":
    sys.exit(main())
