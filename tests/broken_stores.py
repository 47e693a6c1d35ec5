"""Stores that break one promise each, and the test of the contract that finds it."""

from dataclasses import replace

import numpy as np

from onward.gallery.memory import MemoryStore, _Row
from onward.gallery.store import EVERYTHING


class Reborn(MemoryStore):
    found_by = "test_a_row_deleted_since_it_was_read_is_not_born_again"

    def write(self, writing):
        for item, revision in zip(writing.embeddings.ids, writing.revisions, strict=True):
            self._rows.setdefault(item, _Row(int(revision)))
        return super().write(writing)


class Late(MemoryStore):
    found_by = "test_a_row_changed_since_it_was_read_is_left_alone"

    def write(self, writing):
        now = [self._rows[item].revision for item in writing.embeddings.ids]
        return super().write(replace(writing, revisions=np.array(now)))


class Overwriting(MemoryStore):
    found_by = "test_what_a_model_has_embedded_is_never_overwritten_by_writing"

    def write(self, writing):
        for item in writing.embeddings.ids:
            row = self._rows[item]
            kept = {c: one for c, one in row.stored.items() if c != writing.to.column}
            self._rows[item] = replace(row, stored=kept)
        return super().write(writing)


class Stale(MemoryStore):
    found_by = "test_an_update_clears_what_was_derived_and_makes_the_row_pending"

    def update(self, rows):
        before = {item: self._rows[item].stored for item in rows.ids if item in self._rows}
        unknown = super().update(rows)
        for item, stored in before.items():
            row = self._rows[item]
            self._rows[item] = replace(row, stored={**stored, **row.stored})
        return unknown


class Half(MemoryStore):
    found_by = "test_adding_an_id_that_is_there_names_it_and_writes_nothing"

    def insert(self, rows):
        there = super().insert(rows)
        for item in set(rows.ids) - set(there) if there else ():
            self._rows[item] = _Row(0)
        return there


class LastWins(MemoryStore):
    found_by = "test_a_record_is_replaced_only_by_the_one_that_comes_next"

    def change_record(self, record, entry):
        self._record = replace(record, revision=record.revision - 1)
        return super().change_record(record, entry)


class Unsure(MemoryStore):
    found_by = "test_writing_takes_an_uncertainty_for_each_vector"

    def write(self, writing):
        return super().write(replace(writing, uncertainty=None))


class Greedy(MemoryStore):
    found_by = "test_shares_split_the_rows_between_workers"

    def scan(self, scan):
        return super().scan(replace(scan, share=EVERYTHING))


class Near(MemoryStore):
    found_by = "test_search_gives_the_exact_ranking_with_ties_by_id"

    def search(self, of, queries, k, *, exclude_self, approximate):
        found = super().search(of, queries, k + 1, exclude_self=exclude_self, approximate=True)
        return replace(found, rows=found.rows[:, 1:], distances=found.distances[:, 1:])


class Apart(MemoryStore):
    found_by = "test_a_fused_pair_is_searched_as_by_brute_force_over_both_spaces"

    def scan(self, scan):
        ids = scan.ids if scan.ids is None else scan.ids[:-1]
        return super().scan(replace(scan, ids=ids))


class OneSided(MemoryStore):
    found_by = "test_what_is_near_in_a_pair_comes_with_the_vectors_of_both_spaces"

    def near(self, pair, queries, count):
        near = super().near(pair, queries, count)
        return replace(near, items=replace(near.items, old=near.items.old.select([])))


BROKEN = (Reborn, Late, Overwriting, Stale, Half, LastWins, Unsure, Greedy, Near, Apart, OneSided)


def place_of(store, name):
    """Return where a gallery in a store that differs from memory in one thing may be made."""
    from onward.gallery import Place

    stores = []

    def create(record, entry, rows):
        stores.append(store(name, record, entry))
        if rows is not None:
            stores[0].insert(rows)
        return stores[0]

    return Place(f"broken:{name}", create=create, open=lambda: stores[0])
