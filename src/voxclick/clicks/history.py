"""The clicks of a session, and the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from voxclick.clicks.click import Click
from voxclick.errors import ClickError


@dataclass(frozen=True)
class ClickHistory:
    """Clicks with what they were before each change; it is never changed, only followed by another.

    Attributes:
        clicks: as they are now, oldest first.
        earlier: states that undoing leads back to, the next one last.
        later: states that redoing leads to, the next one last.
    """

    clicks: tuple[Click, ...] = ()
    earlier: tuple[tuple[Click, ...], ...] = ()
    later: tuple[tuple[Click, ...], ...] = ()

    def add(self, clicks: Iterable[Click]) -> ClickHistory:
        """Some clicks more, in one change; those that are there already are not repeated.

        Raises:
            ClickError: a voxel that was clicked for another label.
        """
        label_at = {click.index: click.label for click in self.clicks}
        for click in clicks:
            label = label_at.setdefault(click.index, click.label)
            if label != click.label:
                raise ClickError(
                    f"the voxel {click.index} is clicked as {label!r} already and cannot be "
                    f"{click.label!r} too; remove that click first"
                )
        return self._followed_by(tuple(Click(index, label) for index, label in label_at.items()))

    def remove(self, click: Click) -> ClickHistory:
        """One click less.

        Raises:
            ClickError: there is no such click.
        """
        if click not in self.clicks:
            raise ClickError(f"there is no click at voxel {click.index} for {click.label!r}")
        return self._followed_by(tuple(kept for kept in self.clicks if kept != click))

    def set_to(self, clicks: Iterable[Click]) -> ClickHistory:
        """These clicks and no others, in one change; those that stay keep their place.

        Raises:
            ClickError: a voxel that is clicked for two labels.
        """
        wanted = dict.fromkeys(clicks)
        kept = tuple(click for click in self.clicks if click in wanted)
        return self._followed_by(ClickHistory(kept).add(wanted).clicks)

    def reset(self) -> ClickHistory:
        """No clicks."""
        return self._followed_by(())

    def undo(self) -> ClickHistory:
        """The state before the last change.

        Raises:
            ClickError: there was no change.
        """
        if not self.earlier:
            raise ClickError("there is nothing to undo")
        return ClickHistory(self.earlier[-1], self.earlier[:-1], (*self.later, self.clicks))

    def redo(self) -> ClickHistory:
        """The state before the last undoing.

        Raises:
            ClickError: nothing was undone since the last change.
        """
        if not self.later:
            raise ClickError("there is nothing to redo")
        return ClickHistory(self.later[-1], (*self.earlier, self.clicks), self.later[:-1])

    def _followed_by(self, clicks: tuple[Click, ...]) -> ClickHistory:
        if clicks == self.clicks:
            return self
        return replace(self, clicks=clicks, earlier=(*self.earlier, self.clicks), later=())
