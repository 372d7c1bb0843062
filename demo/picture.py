"""`make picture`: the live view at work on the demonstration's stuck process, as docs/live-view.svg."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from demo import Victim  # type: ignore[import-not-found]  # the script beside this one
from threadsurgeon.tui.app import LiveView
from threadsurgeon.tui.process import Process

PICTURE = Path(__file__).parents[1] / "docs" / "live-view.svg"
PATIENCE = 30.0  # seconds for anything here to happen
SIZE = (110, 26)


async def wait_until(app: LiveView, shown: Callable[[str], bool]) -> None:
    """Wait until the text on the screen is as wanted."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < deadline:
        lines = app.screen._compositor.render_strips()
        if shown("\n".join("".join(segment.text for segment in line) for line in lines)):
            return
        await asyncio.sleep(0.05)
    raise SystemExit("the live view did not show what was expected")


async def operate(app: LiveView, pilot: Pilot[None]) -> None:
    """End one thread, and have the plan for another on the screen."""
    await wait_until(app, lambda text: "consumer" in text)
    await pilot.press("down", "down", "down", "c")
    await wait_until(app, lambda text: "nothing was touched" in text)
    await pilot.press("y")
    await wait_until(app, lambda text: "proof of life" in text)
    await pilot.press("escape")
    await wait_until(app, lambda text: ": ended" in text and re.search(r"costs [01]\.", text) is not None)
    await pilot.press("down", "down")
    # Fonts come from the reader's machine, not from somebody's server.
    PICTURE.write_text(re.sub(r"@font-face \{.*?\}", "", app.export_screenshot(), flags=re.DOTALL))


async def main() -> None:
    """Draw the picture from a real run."""
    victim = Victim(sys.executable)
    try:
        app = LiveView(Process(victim.process.pid))
        async with app.run_test(size=SIZE) as pilot:
            await operate(app, pilot)
    finally:
        victim.process.kill()
        victim.process.wait()


if __name__ == "__main__":
    asyncio.run(main())
