"""The invalid places of a document, so that its valid rest can be checked too and all problems be reported at once."""

from stratmaster_router.policy.problems import Loc


class Removed:
    """Places taken out of a document. Places of the rest are translated: items of a list have moved up in it."""

    def __init__(self) -> None:
        self._locs: set[Loc] = set()

    def add(self, loc: Loc) -> None:
        """Take out `loc`, given as in the file."""
        self._locs.add(loc)

    def rest_of(self, plain: object, loc: Loc = ()) -> object:
        """The document `plain` without what was taken out."""
        if isinstance(plain, dict):
            entries = ((key, value, (*loc, key)) for key, value in plain.items())
            return {key: self.rest_of(value, inner) for key, value, inner in entries if inner not in self._locs}
        if isinstance(plain, list):
            items = ((value, (*loc, index)) for index, value in enumerate(plain))
            return [self.rest_of(value, inner) for value, inner in items if inner not in self._locs]
        return plain

    def in_file(self, loc: Loc) -> Loc:
        """Where `loc` of the rest stands in the file."""
        result: Loc = ()
        for part in loc:
            result = (*result, self._item(result, part) if isinstance(part, int) else part)
        return result

    def _item(self, items: Loc, place: int) -> int:
        """The index in the file of the item that is number `place` of those left in the list at `items`."""
        index = -1
        for _ in range(place + 1):
            index += 1
            while (*items, index) in self._locs:
                index += 1
        return index

    def everything(self) -> bool:
        """Whether there is no rest."""
        return () in self._locs

    def within(self, *loc: str | int) -> bool:
        """Whether a part of `loc`, a place of the rest, was taken out."""
        place = self.in_file(loc)
        return any(removed[: len(place)] == place for removed in self._locs)

    def section(self, name: str) -> bool:
        """Whether a top-level section was taken out whole."""
        return (name,) in self._locs

    def names(self, section: str) -> set[str]:
        """The keys of a top-level section that were taken out whole."""
        return {str(loc[1]) for loc in self._locs if len(loc) == 2 and loc[0] == section}
