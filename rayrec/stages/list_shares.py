"""Measures the lists of a fitted model: in this process, or, for a large log, on shares of the users by Ray's workers."""

import functools
import uuid
from collections.abc import Callable

from rayrec.collaborative import saving
from rayrec.collaborative.held_out import Splits
from rayrec.collaborative.model import CollaborativeModel
from rayrec.config import Config, Lists
from rayrec.data.context import NO_CONTEXT
from rayrec.data.shards import EncodedLog
from rayrec.data.shares import GROUP_ROWS, Share
from rayrec.evaluation.lists import Allowed, ListScorer, ListTotals, measure, one_each, sampled
from rayrec.stages import execution
from rayrec.stages.candidates import Part
from rayrec.stages.kept_runs import Place
from rayrec.workspace.versions import Workspace


def totals_of(scorer: ListScorer, splits: Splits, lists: Lists, part: Part, seed: int) -> ListTotals:
    """What is measured of the users of these splits. `seed` is that of the items that are sampled."""
    held_out = splits.feedback.held_out if part == "validation" else splits.test
    allowed: Allowed | None = None
    if lists.negatives is not None:
        known = splits.feedback.likes + splits.feedback.held_out + splits.test
        held_out = one_each(held_out, seed)
        allowed = sampled(held_out, known, lists.negatives, seed)
    return measure(scorer, splits.feedback.likes, held_out, lists.k, allowed)


def totals_of_model(place: Place, config: Config, model: CollaborativeModel, splits: Splits, part: Part) -> ListTotals:
    """`totals_of` all users. `splits` are theirs, on which the model was fitted.

    For a large log the model is saved for the time being; every piece of work loads it, and reads the shards of its own users.
    """
    workspace, lists = Workspace(place.workspace), config.comparison.lists
    log = EncodedLog.open(workspace.fs, place.log)
    if (rows := int(log.sizes.sum())) <= execution.ALONE_ROWS:
        return totals_of(model.scores, splits, lists, part, config.seed)
    assert config.collaborative is not None
    folder = f"{place.folder}/measured-{uuid.uuid4().hex}"
    saving.save(workspace.fs, folder, config.collaborative, model)
    try:
        groups = [list(share.shards) for share in Share.in_groups(log, GROUP_ROWS, NO_CONTEXT, splits.feedback.users)]
        work: list[Callable[[], ListTotals]] = [
            functools.partial(_of_shards, place, folder, splits.feedback.users, shards, lists, part, config.seed)
            for shards in groups
        ]
        found = dict(execution.executor_for(rows, config)(work))
    finally:
        workspace.fs.delete_dir(folder)
    first, *others = (found[number] for number in range(len(work)))
    return sum(others, first)


def _of_shards(place: Place, folder: str, users: int, shards: list[int], lists: Lists, part: Part, seed: int) -> ListTotals:
    workspace = Workspace(place.workspace)
    share = Share(EncodedLog.open(workspace.fs, place.log), shards, NO_CONTEXT, users)
    _, model = saving.load(workspace.fs, folder)
    return totals_of(model.scores, Splits.of_share(share, lists.held_out), lists, part, seed)
